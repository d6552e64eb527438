"""What an operator is told, and the exit code, when ports, disks, clocks, certificates or files are not in order."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.deployed import Homes, enrol
from tests.server.registry.house import committed, started

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import install_kit
from silhouette_client.enrolment.making import make_node
from silhouette_client.policy.ledger_store import LEDGER_NAME, Ledger
from silhouette_client.policy.witness import FileWitness
from silhouette_client.processes import services as node_services
from silhouette_server.enrolment.office import Office
from silhouette_server.processes import services as coordinator_services
from silhouette_server.registry.home import open_registry
from silhouette_server.registry.journal import VERSION
from silhouette_server.registry.registry import REGISTRY_NAME
from silhouette_shared.cli import main
from silhouette_shared.privacy.ledger import Limits

DAYS = timedelta(days=1)


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    code: int
    text: str  # what it printed, in one line


@dataclass(frozen=True)
class Ground:
    """A consortium of three, with nothing running."""

    homes: Homes
    capsys: pytest.CaptureFixture[str]

    def silhouette(self, *arguments: str, home: Path) -> Told:
        code = main([*arguments, "--home", str(home)])
        return Told(code, " ".join("".join(self.capsys.readouterr()).split()))

    def coordinator(self, *arguments: str) -> Told:
        return self.silhouette(*arguments, home=self.homes.coordinator)

    def node(self, *arguments: str) -> Told:
        return self.silhouette(*arguments, home=self.homes.nodes["north"])


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return enrol(tmp_path_factory.mktemp("pattern"), {"north": 10, "south": 20, "west": 30})


@pytest.fixture
def ground(pattern: Homes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ground:
    """The consortium again, to be spoiled."""
    folder = tmp_path / "homes"
    shutil.copytree(pattern.coordinator.parent, folder)
    return Ground(Homes(folder / "coordinator", {name: folder / name for name in pattern.nodes}), capsys)


@pytest.mark.parametrize("role", ["coordinator", "node"])
def test_a_port_that_is_taken_is_named_with_the_setting_to_change(ground: Ground, role: str) -> None:
    if role == "coordinator":
        port, setting = coordinator_services.places_of(ground.homes.office).port, "`port` of [gate]"
    else:
        port, setting = node_services.places_of(ground.homes.node("north")).connector, "`connector_port`"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        told = ground.coordinator(role, "start") if role == "coordinator" else ground.node(role, "start")
    assert told.code == 4
    assert f"expected 127.0.0.1:{port} to be free, another program listens there" in told.text
    assert setting in told.text


@pytest.mark.parametrize("role", ["coordinator", "node"])
def test_nothing_is_started_on_a_full_disk(ground: Ground, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    told = ground.coordinator(role, "start") if role == "coordinator" else ground.node(role, "start")
    assert told.code == 4
    assert "expected at least 64 MiB of free disk, found 1; free some and start again" in told.text


def made(folder: Path, ago: timedelta) -> Homes:
    """A consortium that was made a while ago; before now by the clock of this machine, or after."""
    then = datetime.now(UTC) - ago
    homes = Homes(folder / "coordinator", {"north": folder / "north"})
    office = Office(Office.of(homes.coordinator).folder, lambda: then)
    fingerprint = office.init("demo", ["localhost"])
    node = homes.node("north")
    make_node(node, "north", 10)
    _, kit = office.sign((node.folder / "request.json").read_bytes())
    install_kit(node, kit, fingerprint, then)
    return homes


@pytest.mark.parametrize(
    ("ago", "code", "text"),
    [
        (400 * DAYS, 3, "expected a valid certificate, got one that expired on"),
        (-3 * DAYS, 4, "set the clock, or wait"),
    ],
    ids=["expired", "a clock that went back"],
)
def test_nothing_is_started_with_a_certificate_outside_its_dates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ago: timedelta, code: int, text: str
) -> None:
    ground = Ground(made(tmp_path / "homes", ago), capsys)
    for told, remedy in (
        (ground.coordinator("coordinator", "start"), "silhouette coordinator rotate --server"),
        (ground.node("node", "start"), "ask the coordinator for a new kit"),
    ):
        assert told.code == code, told.text
        assert text in told.text
        assert remedy in told.text or code == 4


def test_a_certificate_that_expires_soon_is_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    homes = made(tmp_path / "homes", 380 * DAYS)
    coordinator_services.prepare(homes.office, coordinator_services.places_of(homes.office))
    assert "server.pem expires soon: run `silhouette coordinator rotate --server`" in caplog.text
    caplog.clear()
    node = homes.node("north")
    node_services.prepare(node, node_services.places_of(node))
    assert "client.pem expires soon: ask the coordinator for a new kit" in caplog.text


def registry_with_a_round(homes: Homes) -> Path:
    with open_registry(homes.office, write=True) as registry:
        committed(registry, started(registry), 1)
    return homes.office.folder / REGISTRY_NAME


def test_a_registry_of_a_newer_version_is_left_as_it_is(ground: Ground) -> None:
    path = registry_with_a_round(ground.homes)
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    for command in (("run", "list"), ("model", "list"), ("model", "verify")):
        told = ground.coordinator(*command)
        assert told.code == 4
        assert f"got version {VERSION + 1}, which a newer Silhouette made" in told.text
    assert path.read_bytes() == before


def flip(path: Path, needle: bytes = b"") -> None:
    """One bit of one byte: in the middle, or of something that is in the file."""
    content = bytearray(path.read_bytes())
    content[content.rindex(needle) if needle else len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_flipped_bit_in_a_model_is_found_and_the_file_named(ground: Ground) -> None:
    folder = registry_with_a_round(ground.homes).parent
    assert ground.coordinator("model", "verify").code == 0
    (model,) = folder.rglob("*.safetensors")
    flip(model)
    told = ground.coordinator("model", "verify")
    assert told.code == 5
    assert "open-1:1: expected a model with the SHA-256" in told.text


def test_a_flipped_bit_in_an_entry_of_the_registry_stops_every_command_with_exit_code_5(ground: Ground) -> None:
    path = registry_with_a_round(ground.homes)
    flip(path, b"update_norm")
    for command in (("run", "list"), ("model", "list"), ("model", "verify")):
        told = ground.coordinator(*command)
        assert told.code == 5, told.text
        assert "registry" in told.text


def test_a_flipped_bit_in_an_entry_of_the_ledger_is_found_with_exit_code_5(ground: Ground) -> None:
    node: NodeHome = ground.homes.node("north")
    (node.folder / "witness").mkdir()
    limits = Limits(epsilon_per_run=8.0, epsilon_per_year=12.0, delta=1e-5)
    witness = FileWitness(node.folder / "witness")
    Ledger.open(node.folder / LEDGER_NAME, node="north", limits=limits, witness=witness).close()
    assert ground.node("budget", "verify").code == 0
    flip(node.folder / LEDGER_NAME, b"epsilon_per_year")
    told = ground.node("budget", "verify")
    assert told.code == 5
    assert "ledger" in told.text
