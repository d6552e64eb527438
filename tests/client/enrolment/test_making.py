"""Private keys are made at the node, are for its owner alone, and are in nothing that leaves it."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from tests.enrolled import NAMES, House

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.making import declare_again, make_node
from silhouette_shared.enrolment.documents import NodeRequest
from silhouette_shared.errors import IntegrityError, UsageError


@pytest.fixture
def node(tmp_path: Path) -> NodeHome:
    home = NodeHome.of(tmp_path)
    make_node(home, "north", 200)
    return home


def test_keys_are_for_the_owner_alone(node: NodeHome) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in node.folder.iterdir()}
    keys = {"identity.key", "supernode.key", "client.key"}
    public = {"supernode.pub", "request.json", "node.toml"}
    assert modes == {**dict.fromkeys(keys, 0o600), **dict.fromkeys(public, 0o644)}
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700


def secrets_of(folder: Path) -> list[bytes]:
    """Every private key of a folder in each form in which it could be written down."""
    found = []
    for path in folder.glob("*.key"):
        data = path.read_bytes()
        raw = [data] if len(data) == 32 else []
        text = b"" if raw else data  # 32 random bytes have no lines
        lines = [line for line in text.splitlines() if line and not line.startswith(b"-----")]
        if lines:
            raw += [line for line in lines if len(line) >= 40]
            body = base64.b64decode(b"".join(lines))
            raw += [body, body[36:68]]  # PKCS #8 of P-256 holds the number at this place
        found += [form for one in raw for form in (one, one.hex().encode(), base64.b64encode(one))]
    return found


def test_no_private_key_is_in_anything_that_leaves_its_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    house = House(tmp_path)
    sent = {name: house.request(name) for name in NAMES}
    kits = {name: (house.home(name).folder / "kit.json").read_bytes() for name in NAMES}
    offer = house.office.roster_bytes()
    leaves = b"\n".join([*sent.values(), *kits.values(), offer, *map(str.encode, capfd.readouterr())])
    secrets = [
        one for folder in (house.office.folder, *(house.home(n).folder for n in NAMES)) for one in secrets_of(folder)
    ]
    assert len(secrets) > 3 * (4 + 3 * len(NAMES))
    assert not [one for one in secrets if one in leaves]
    # The search would find one: the files themselves are full of them.
    assert any(one in house.home("east").client_key_path.read_bytes() for one in secrets)
    # And no node holds a key of another, nor the coordinator one of a node.
    for folder in (house.office.folder, *(house.home(name).folder for name in NAMES)):
        own = secrets_of(folder)
        content = b"\n".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
        assert not [one for one in secrets if one not in own and one in content]


def test_nothing_is_overwritten(node: NodeHome) -> None:
    before = {path.name: path.read_bytes() for path in node.folder.iterdir()}
    with pytest.raises(UsageError, match="nothing is overwritten"):
        make_node(node, "north", 200)
    assert {path.name: path.read_bytes() for path in node.folder.iterdir()} == before


def test_a_half_made_node_is_not_completed_with_other_keys(tmp_path: Path) -> None:
    home = NodeHome.of(tmp_path)
    home.folder.mkdir(mode=0o700)
    (home.folder / "identity.key").write_bytes(bytes(32))
    with pytest.raises(UsageError, match="expected no node yet, found identity"):
        make_node(home, "north", 200)


@pytest.mark.parametrize(("name", "people"), [("../x", 10), ("coordinator", 10), ("north", 0), ("north", -1)])
def test_a_name_or_number_that_cannot_be_makes_nothing(tmp_path: Path, name: str, people: int) -> None:
    with pytest.raises(UsageError, match="expected 1 to"):
        make_node(NodeHome.of(tmp_path), name, people)
    assert not (tmp_path / "node").exists()


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(UsageError, match="mode 700"):
        make_node(NodeHome.of(tmp_path), "north", 200)


def test_another_number_of_people_is_declared_with_the_same_keys(node: NodeHome) -> None:
    before = NodeRequest.decode((node.folder / "request.json").read_bytes())
    declare_again(node, 300)
    after = NodeRequest.decode((node.folder / "request.json").read_bytes())
    assert (after.people, node.declared_people) == (300, 300)
    assert (after.identity, after.supernode_public) == (before.identity, before.supernode_public)


def test_a_key_that_others_may_read_or_that_is_damaged_is_refused(node: NodeHome) -> None:
    node.identity_path.chmod(0o644)
    with pytest.raises(UsageError, match="find out who read it"):
        node.identity()
    node.identity_path.chmod(0o600)
    node.identity_path.write_bytes(bytes(31))
    with pytest.raises(IntegrityError, match="expected a key of 32 bytes, got 31"):
        node.identity()
    for path, read in ((node.supernode_path, node.supernode_key), (node.client_key_path, node.client_key)):
        path.write_bytes(b"no key")
        with pytest.raises(IntegrityError, match="put it back"):
            read()
    node.client_key_path.unlink()
    with pytest.raises(UsageError, match="expected a key, found none"):
        node.client_key()
