"""What the supervisor starts: `python -m silhouette_server.processes gate|serverapp --home HOME`."""

import sys
from pathlib import Path

from silhouette_server.enrolment.office import Office
from silhouette_server.processes.services import places_of
from silhouette_shared.supervision import Heart, end_on_signals, run_role, run_until_asked

_START_PATIENCE = 300.0  # seconds for importing torch on a busy machine


def _gate(home: Path) -> None:
    from silhouette_server.gate import Gate, GateFiles
    from silhouette_server.processes.holders import RosterHolders

    office = Office.of(home)
    places = places_of(office)
    folder = office.folder
    gate = Gate(
        GateFiles(folder / "server.pem", folder / "server.key", folder / "authority.pem", folder / "authority.pem"),
        places.door.address,
        RosterHolders(office),
    )
    run_until_asked(gate.serve(places.listen, places.port, Heart.from_environment()))


def _serverapp(home: Path) -> None:
    heart = Heart.from_environment()
    heart.beat(_START_PATIENCE)
    from silhouette_server.deployment import Conductor
    from silhouette_server.registry.home import open_registry
    from silhouette_server.run_store import RegistryStore

    stop = end_on_signals()
    office = Office.of(home)
    with open_registry(office, write=True) as registry:
        Conductor(office, places_of(office).door, RegistryStore(registry), heart).serve(stop)


if __name__ == "__main__":
    sys.exit(run_role("silhouette_server.processes", {"gate": _gate, "serverapp": _serverapp}))
