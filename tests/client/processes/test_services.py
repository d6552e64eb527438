"""Which processes a node consists of, and what a SuperNode of another user is given."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.enrolled import House

from silhouette_client.processes.services import (
    CERTIFICATE,
    PORTS,
    SECRET,
    places_of,
    prepare,
    read_link,
    services_of,
    supernode_of,
)
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, names=("north", "south", "west"))


def linked(house: House, link: Path, mode: int = 0o2750) -> Path:
    """A node whose SuperNode starts apart."""
    (house.home("north").folder / "processes.toml").write_text(f'link = "{link}"\nsupernode_port = 9555\n')
    link.mkdir()
    link.chmod(mode)
    return link


def test_by_itself_a_node_is_three_processes_and_with_a_link_two(house: House, tmp_path: Path) -> None:
    home = house.home("north")
    names = [one.name for one in services_of(tmp_path / "north", places_of(home), home.supernode_path)]
    assert names == ["connector", "agent", "supernode"]
    linked(house, tmp_path / "link")
    names = [one.name for one in services_of(tmp_path / "north", places_of(home), home.supernode_path)]
    assert names == ["connector", "agent"]


def test_the_link_holds_what_a_supernode_needs_for_the_group_and_stays_when_the_node_is_started_again(
    house: House, tmp_path: Path
) -> None:
    link = linked(house, tmp_path / "link")
    home = house.home("north")
    before = os.umask(0o077)  # as the unit sets it
    try:
        prepare(home, places_of(home))
    finally:
        os.umask(before)
    assert sorted(path.name for path in link.iterdir()) == sorted([SECRET, CERTIFICATE, PORTS])
    assert {stat.S_IMODE(path.stat().st_mode) for path in link.iterdir()} == {0o640}
    assert read_link(link) == (9453, 9555)
    content = {path.name: path.read_bytes() for path in link.iterdir()}
    prepare(home, places_of(home))
    assert {path.name: path.read_bytes() for path in link.iterdir()} == content
    command = " ".join(supernode_of(link, read_link(link), tmp_path / "key", tmp_path / "work").command)
    assert str(home.folder) not in command, "nothing of the node"
    for part in ("--superlink 127.0.0.1:9453", "--port 9555", f"--superexec-auth-secret-file {link / SECRET}"):
        assert part in command


def test_a_link_that_others_can_read_or_that_is_not_there_is_refused(house: House, tmp_path: Path) -> None:
    link, home = linked(house, tmp_path / "link", 0o755), house.home("north")
    with pytest.raises(UsageError, match="for this user and the SuperNode's group alone, got another mode"):
        prepare(home, places_of(home))
    link.rmdir()
    with pytest.raises(UsageError, match="got none; make it with mode 2750"):
        prepare(home, places_of(home))


def test_a_supernode_waits_for_the_node_and_says_what_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="start the node first"):
        read_link(tmp_path)
    for name in (SECRET, CERTIFICATE):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / PORTS).write_text("[]")
    with pytest.raises(IntegrityError, match="expected two ports"):
        read_link(tmp_path)
