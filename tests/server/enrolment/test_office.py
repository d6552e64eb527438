"""The coordinator's keys are made once and stay, and what the authority signs is what was proven."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.enrolled import CONSORTIUM, NAMES, PEOPLE, House

from silhouette_client.enrolment.making import make_node
from silhouette_server.enrolment.issuing import AUTHORITY_LIFE, LIFE
from silhouette_server.enrolment.office import Office
from silhouette_shared.enrolment.certificates import (
    SOON,
    State,
    check_issued,
    check_purpose,
    common_name,
    load_certificate,
    server_names,
)
from silhouette_shared.enrolment.documents import Roster
from silhouette_shared.enrolment.refusals import (
    ExpiredError,
    ForgedDocumentError,
    MalformedError,
    NameTakenError,
    RevokedError,
)
from silhouette_shared.errors import IntegrityError, UsageError

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    made = Office(tmp_path / "coordinator", lambda: NOW)
    made.init(CONSORTIUM, ["gate.example", "10.0.0.7"], 9444)
    return made


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_what_is_made_is_for_the_owner_alone_and_complete(office: Office) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in office.folder.iterdir()}
    keys = {"authority.key", "server.key", "internal.key", "signing.key"}
    public = {"authority.pem", "server.pem", "internal.pem", "roster.json", "config.toml"}
    assert modes == {**dict.fromkeys(keys, 0o600), **dict.fromkeys(public, 0o644)}
    assert stat.S_IMODE(office.folder.stat().st_mode) == 0o700
    assert len((office.folder / "signing.key").read_bytes()) == 32


def test_certificates_are_the_authoritys_for_their_names_and_purposes(office: Office) -> None:
    authority = office.certificate("authority")
    for name, names in (("server", ("gate.example", "10.0.0.7")), ("internal", ("localhost", "127.0.0.1"))):
        certificate = office.certificate(name)
        check_issued(certificate, authority, name)
        check_purpose(certificate, server=True, whose=name)
        assert server_names(certificate) == names
        with pytest.raises(MalformedError, match="for a client alone"):
            check_purpose(certificate, server=False, whose=name)
    assert office.settings.gate.port == 9444
    assert office.settings.gate.host == "gate.example"


def test_nothing_is_overwritten(office: Office) -> None:
    before = {path.name: path.read_bytes() for path in office.folder.iterdir()}
    with pytest.raises(UsageError, match="nothing is overwritten"):
        office.init(CONSORTIUM, ["gate.example"])
    assert {path.name: path.read_bytes() for path in office.folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "hosts", "port", "message"),
    [
        ("a b", ["x"], 1, "--name: expected 1 to 40"),
        ("a", [], 1, "at least one host"),
        ("a", ["x"], 0, "a port from 1 to 65535"),
        ("a", ["ü.example"], 1, "xn--"),
    ],
)
def test_names_and_ports_that_cannot_be_are_refused_before_anything_is_made(
    tmp_path: Path, name: str, hosts: list[str], port: int, message: str
) -> None:
    with pytest.raises((UsageError, MalformedError), match=message):
        Office(tmp_path / "coordinator").init(name, hosts, port)
    assert not (tmp_path / "coordinator").exists()


def test_a_signed_partner_is_on_the_roster_with_its_certificate(house: House) -> None:
    roster = house.office.roster()
    assert roster.version == 1 + len(NAMES)
    assert {name: member.people for name, member in roster.active.items()} == dict.fromkeys(NAMES, PEOPLE)
    certificate = house.home("east").certificate()
    check_issued(certificate, house.office.certificate("authority"), "east")
    check_purpose(certificate, server=False, whose="east")
    assert common_name(certificate) == "east"
    assert roster.members["east"].serial == str(certificate.serial_number)


def test_a_name_or_a_key_is_given_once(house: House, tmp_path: Path) -> None:
    make_node(house.home("west"), "east", 10)
    with pytest.raises(NameTakenError, match="which roster 4 has already"):
        house.office.sign(house.request("west"))
    house.office.revoke("east")
    for renew in (False, True):
        with pytest.raises(NameTakenError, match="was revoked and is not given again"):
            house.office.sign(house.request("west"), renew=renew)


def test_another_name_with_a_members_keys_is_refused(house: House) -> None:
    home = house.home("east")
    (home.folder / "node.toml").write_text(f'name = "west"\npeople = {PEOPLE}\n')
    from silhouette_client.enrolment.making import declare_again

    declare_again(home, PEOPLE)  # a request in another name, with proofs that hold
    with pytest.raises(NameTakenError, match="expected keys of its own, got one that is east's"):
        house.office.sign(house.request("east"))


def test_renewal_gives_a_new_certificate_and_the_old_one_is_off_the_roster(house: House) -> None:
    old = house.home("east").certificate().serial_number
    kit, _ = house.office.sign(house.request("east"), renew=True)
    new = load_certificate(kit.certificate, "kit").serial_number
    serials = {member.serial for member in house.office.roster().active.values()}
    assert str(new) in serials
    assert str(old) not in serials
    make_node(house.home("west"), "west", 10)
    with pytest.raises(UsageError, match="--renew: expected a partner on the roster"):
        house.office.sign(house.request("west"), renew=True)


def test_a_tampered_request_is_not_signed(house: House) -> None:
    make_node(house.home("west"), "west", 10)
    data = house.request("west").replace(b'"people":10', b'"people":99')
    before = house.office.roster_bytes()
    with pytest.raises(ForgedDocumentError):
        house.office.sign(data)
    assert house.office.roster_bytes() == before


def test_a_revoked_partner_is_named_once_and_for_all(house: House) -> None:
    after = house.office.revoke("north")
    assert list(after.active) == ["east", "south"]
    assert house.office.roster() == after
    with pytest.raises(RevokedError):
        house.office.revoke("north")


def test_the_servers_keys_are_replaced_under_the_same_names_or_new_ones(office: Office) -> None:
    old = {name: office.certificate(name).serial_number for name in ("server", "internal", "authority")}
    office.rotate_server()
    assert server_names(office.certificate("server")) == ("gate.example", "10.0.0.7")
    office.rotate_server(["new.example"])
    assert server_names(office.certificate("server")) == ("new.example",)
    assert office.settings.gate.host == "new.example"
    new = {name: office.certificate(name).serial_number for name in old}
    assert new["authority"] == old["authority"]
    assert new["server"] != old["server"]
    assert new["internal"] != old["internal"]
    assert stat.S_IMODE((office.folder / "server.key").stat().st_mode) == 0o600


def test_a_new_signing_key_is_vouched_for_by_the_old_one(house: House) -> None:
    old, known = house.office.identity().public, house.office.roster_bytes()
    fingerprint = house.office.fingerprint
    house.office.rotate_signing()
    assert house.office.identity().public != old
    assert house.office.fingerprint != fingerprint
    assert Roster.decode(house.office.roster_bytes(), old).signer == house.office.identity().public.hex()
    assert house.office.roster_bytes() != known
    assert not list(house.office.folder.glob("*.next"))
    house.office.revoke("north")  # the new key signs on


@pytest.mark.parametrize("after_the_roster", [False, True])
def test_a_rotation_that_was_killed_is_finished_or_undone(house: House, after_the_roster: bool) -> None:
    office, folder = house.office, house.office.folder
    old_key, old_roster = (folder / "signing.key").read_bytes(), (folder / "roster.json").read_bytes()
    office.rotate_signing()
    new_key, new_roster = (folder / "signing.key").read_bytes(), (folder / "roster.json").read_bytes()
    # As a kill leaves it: the next key beside the old one, and the roster not written yet or just written.
    (folder / "signing.key").write_bytes(old_key)
    (folder / "signing.key.next").write_bytes(new_key)
    (folder / "signing.key.next").chmod(0o600)
    (folder / "roster.json").write_bytes(new_roster if after_the_roster else old_roster)
    assert Office.of(folder.parent).finish_rotation() is False  # opening it has finished it
    assert (folder / "signing.key").read_bytes() == (new_key if after_the_roster else old_key)
    assert office.roster().version == (5 if after_the_roster else 4)


def test_states_of_a_certificate_over_its_life(office: Office) -> None:
    validity = office.validities()["server"]
    assert validity.state(NOW) is State.valid
    assert validity.state(NOW - timedelta(hours=3)) is State.early
    assert validity.state(NOW + LIFE - SOON) is State.soon
    assert validity.state(NOW + LIFE - SOON - timedelta(seconds=1)) is State.valid
    assert validity.state(NOW + LIFE) is State.expired
    assert office.validities()["authority"].days_left(NOW) == AUTHORITY_LIFE.days


def test_an_expired_authority_signs_nothing(house: House) -> None:
    make_node(house.home("west"), "west", 10)
    late = Office(house.office.folder, lambda: datetime.now(UTC) + AUTHORITY_LIFE)
    with pytest.raises(ExpiredError, match="an authority is not renewed"):
        late.sign(house.request("west"))
    with pytest.raises(ExpiredError):
        late.rotate_server()


def test_no_certificate_outlives_its_authority(house: House) -> None:
    make_node(house.home("west"), "west", 10)
    late = Office(house.office.folder, lambda: datetime.now(UTC) + AUTHORITY_LIFE - timedelta(days=10))
    kit, _ = late.sign(house.request("west"))
    authority = house.office.certificate("authority")
    assert load_certificate(kit.certificate, "kit").not_valid_after_utc <= authority.not_valid_after_utc


def test_a_changed_roster_file_is_noticed(house: House) -> None:
    path = house.office.folder / "roster.json"
    path.write_bytes(path.read_bytes().replace(b'"people":10', b'"people":11', 1))
    with pytest.raises(ForgedDocumentError):
        house.office.roster()


def test_keys_that_others_may_read_or_that_are_not_the_authoritys_are_refused(house: House) -> None:
    key = house.office.folder / "signing.key"
    key.chmod(0o640)
    with pytest.raises(UsageError, match="mode 600"):
        house.office.identity()
    key.chmod(0o600)
    (house.office.folder / "authority.key").write_bytes((house.office.folder / "server.key").read_bytes())
    make_node(house.home("west"), "west", 10)
    with pytest.raises(IntegrityError, match="expected the key of authority"):
        house.office.sign(house.request("west"))


def test_the_clock_set_back_makes_no_roster_older(house: House) -> None:
    issued = house.office.roster().issued
    back = Office(house.office.folder, lambda: datetime.now(UTC) - timedelta(days=1))
    assert back.revoke("north").issued >= issued
