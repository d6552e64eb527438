"""Homes of a coordinator and its partners, enrolled as in the README, on this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import install_kit
from silhouette_client.enrolment.making import make_node
from silhouette_server.enrolment.office import Office
from silhouette_shared.supervision.settings import SETTINGS

_PORTS = range(10_000, 32_000)
"""Below those that Linux gives to whoever asks for none in particular, so that nobody gets one meanwhile."""

_draw = random.SystemRandom()  # processes that test beside each other draw differently


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    found: list[int] = []
    while len(found) < count:
        port = _draw.choice(_PORTS)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


@dataclass(frozen=True)
class Homes:
    """Everybody's home."""

    coordinator: Path
    nodes: dict[str, Path]

    @property
    def office(self) -> Office:
        """The coordinator's keys and roster."""
        return Office.of(self.coordinator)

    def node(self, name: str) -> NodeHome:
        """A partner's keys and kit."""
        return NodeHome.of(self.nodes[name])


def enrol(folder: Path, people: dict[str, int], hosts: Sequence[str] = ("localhost",)) -> Homes:
    """A coordinator and partners who declare so many people, each with a home of its own and ports of its own."""
    ports = free_ports(2 + 2 * len(people))
    homes = Homes(folder / "coordinator", {name: folder / name for name in people})
    office = homes.office
    fingerprint = office.init("testers", hosts, ports[0])
    for number, (name, count) in enumerate(people.items()):
        node = homes.node(name)
        make_node(node, name, count)
        _, kit = office.sign((node.folder / "request.json").read_bytes())
        install_kit(node, kit, fingerprint, datetime.now(UTC))
        connector, supernode = ports[2 + 2 * number : 4 + 2 * number]
        _set_processes(node.folder, {"connector_port": str(connector), "supernode_port": str(supernode)})
    _set_processes(office.folder, {"listen": '"127.0.0.1"', "superlink_port": str(ports[1])})
    return homes


def _set_processes(folder: Path, settings: dict[str, str]) -> None:
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (folder / SETTINGS).write_text(lines, encoding="utf-8")
