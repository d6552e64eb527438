"""Which processes a coordinator consists of, and with which arguments each is started."""

import logging
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from silhouette_server.enrolment.office import Office
from silhouette_server.superlink import Door
from silhouette_shared.enrolment.certificates import State, check_dates
from silhouette_shared.errors import UsageError
from silhouette_shared.randomness import SecureSource
from silhouette_shared.supervision import OUR_EXITS, Port, Service
from silhouette_shared.supervision.probes import answers
from silhouette_shared.supervision.settings import SETTINGS, as_port, read_settings

_LOG = logging.getLogger(__name__)

FLOWER_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",  # Flower reports use to its makers unless told otherwise
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PYTHONUNBUFFERED": "1",
}

_SECRET_BYTES = 32
_ROTATE = "run `silhouette coordinator rotate --server`, then start again"


@dataclass(frozen=True)
class Places:
    """Ports of a coordinator's processes and the folder that they share."""

    folder: Path  # <home>/coordinator
    listen: str  # address of the gate
    port: int
    superlink: int  # port on loopback

    @property
    def work(self) -> Path:
        """For status, secrets between the processes, and the SuperLink's state."""
        return self.folder / "processes"

    @property
    def logs(self) -> Path:
        """One JSON line a message, rotated."""
        return self.folder / "logs"

    @property
    def secret(self) -> Path:
        """Shared by SuperLink and ServerApp."""
        return self.work / "superlink.secret"

    @property
    def door(self) -> Door:
        """How to reach the SuperLink."""
        return Door(f"127.0.0.1:{self.superlink}", self.folder / "authority.pem", self.secret)


def places_of(office: Office) -> Places:
    """The gate's port from `config.toml`; from `processes.toml`, which may be missing, `listen` and `superlink_port`.

    Raises:
        UsageError: If there is no coordinator here or a value cannot be.
    """
    port, path = office.settings.gate.port, office.folder / SETTINGS
    given = read_settings(path, {"listen": str, "superlink_port": int})
    superlink = as_port(path, "superlink_port", given.get("superlink_port", port + 1))
    if superlink == port:
        raise UsageError(f"{path}: superlink_port: expected another port than the gate's {port}; change it")
    return Places(office.folder, str(given.get("listen", "0.0.0.0")), port, superlink)  # noqa: S104 - the open port


def prepare(office: Office, places: Places) -> None:
    """Check what the processes need before any is started.

    Raises:
        ExpiredError, NotYetValidError: If a certificate is outside its dates.
        UsageError, IntegrityError: If a key or certificate is missing or damaged.
    """
    now = datetime.now(UTC)
    for name in ("authority", "server", "internal"):
        if check_dates(office.certificate(name), now, f"{name}.pem", _ROTATE) is State.soon:
            _LOG.warning("%s.pem expires soon: %s", name, _ROTATE)
    office.roster()
    places.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    new_secret(places.secret)


def new_secret(path: Path) -> None:
    """A fresh secret for processes of one supervisor, readable for this user alone."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(SecureSource().bytes(_SECRET_BYTES))


def services_of(home: Path, places: Places) -> list[Service]:
    """The coordinator's processes in the order of their start."""
    folder = places.folder
    authority = str(folder / "authority.pem")
    return [
        Service(
            name="superlink",
            command=(
                *_flower("flower-superlink"),
                *("--ssl-certfile", str(folder / "internal.pem"), "--ssl-keyfile", str(folder / "internal.key")),
                *("--ssl-ca-certfile", authority),
                *("--host", "127.0.0.1", "--port", str(places.superlink)),
                *("--isolation", "process", "--superexec-auth-secret-file", str(places.secret)),
                *("--database", str(places.work / "superlink.sqlite")),
                "--enable-supernode-auth",
                "--disable-runtime-dependency-installation",
            ),
            environment={**FLOWER_ENVIRONMENT, "FLWR_HOME": str(places.work / "flower")},
            ports=(Port("127.0.0.1", places.superlink, f"`superlink_port` in {folder / SETTINGS}"),),
            health=partial(answers, f"https://127.0.0.1:{places.superlink}/health", folder / "authority.pem"),
        ),
        Service(
            name="gate",
            command=(*_ours("gate"), "--home", str(home)),
            environment=FLOWER_ENVIRONMENT,
            ports=(Port(places.listen, places.port, f"`port` of [gate] in {folder / 'config.toml'}"),),
            beats=True,
            exits=OUR_EXITS,
        ),
        Service(
            name="serverapp",
            command=(*_ours("serverapp"), "--home", str(home)),
            environment=FLOWER_ENVIRONMENT,
            beats=True,
            exits=OUR_EXITS,
        ),
    ]


def _flower(program: str) -> tuple[str, ...]:
    """A program of Flower's from beside the Python that runs this."""
    return (str(Path(sys.executable).parent / program),)


def _ours(role: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "silhouette_server.processes", role)
