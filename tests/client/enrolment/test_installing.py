"""A kit is believed for its fingerprint and checked whole; afterwards only a newer signed roster changes anything."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.enrolled import NAMES, PEOPLE, House

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import install_kit, update_roster
from silhouette_client.enrolment.making import declare_again, make_node
from silhouette_server.enrolment.issuing import LIFE
from silhouette_server.enrolment.office import Office
from silhouette_shared.enrolment.certificates import SOON, State, pem_of
from silhouette_shared.enrolment.documents import Kit
from silhouette_shared.enrolment.refusals import (
    ExpiredError,
    FingerprintError,
    ForgedDocumentError,
    MalformedError,
    NotYetValidError,
    OlderRosterError,
    OtherAuthorityError,
    OtherKeyError,
    RevokedError,
    TwoRostersError,
)
from silhouette_shared.errors import UsageError

NOW = datetime.now(UTC)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def west(house: House) -> NodeHome:
    home = house.home("west")
    make_node(home, "west", PEOPLE)
    return home


def files(home: NodeHome) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.folder.iterdir() if path.is_file()}


def test_an_installed_node_knows_everybody_and_the_gate(house: House) -> None:
    home = house.home("south")  # signed last, so its kit has all of them
    assert list(home.roster().active) == sorted(NAMES)
    assert home.pinned() == house.office.identity().public
    assert home.kit().gate == house.office.settings.gate
    assert home.authority() == house.office.certificate("authority")


def test_the_wrong_fingerprint_installs_nothing(house: House, west: NodeHome) -> None:
    kit, before = house.sign("west"), files(west)
    wrong = ("0" if house.fingerprint[0] != "0" else "1") + house.fingerprint[1:]
    with pytest.raises(FingerprintError):
        install_kit(west, kit, wrong, NOW)
    with pytest.raises(UsageError):
        install_kit(west, kit, "", NOW)
    assert files(west) == before


def test_a_kit_of_a_stranger_who_copied_everything_else_is_refused(
    house: House, west: NodeHome, tmp_path: Path
) -> None:
    """Another authority that signs the same request: only the fingerprint tells, and it does."""
    stranger = Office(tmp_path / "stranger")
    stranger.init("demo", ["127.0.0.1"])
    _, kit = stranger.sign((west.folder / "request.json").read_bytes())
    with pytest.raises(FingerprintError):
        install_kit(west, kit, house.fingerprint, NOW)


def test_a_node_has_one_consortium(house: House, tmp_path: Path) -> None:
    stranger = Office(tmp_path / "stranger")
    fingerprint = stranger.init("other", ["127.0.0.1"])
    _, kit = stranger.sign(house.request("east"))
    before = files(house.home("east"))
    with pytest.raises(OtherAuthorityError, match="take another --home"):
        install_kit(house.home("east"), kit, fingerprint, NOW)
    assert files(house.home("east")) == before


def test_a_certificate_of_another_authority_in_a_signed_kit_is_refused(
    house: House, west: NodeHome, tmp_path: Path
) -> None:
    stranger = Office(tmp_path / "stranger")
    stranger.init("demo", ["127.0.0.1"])
    theirs, _ = stranger.sign((west.folder / "request.json").read_bytes())
    mine, _ = house.office.sign(house.request("west"))
    mixed = Kit(
        name="west",
        authority=mine.authority,
        coordinator=mine.coordinator,
        certificate=theirs.certificate,
        roster=mine.roster,
        gate=mine.gate,
    )
    with pytest.raises(OtherAuthorityError, match="expected a certificate of the authority 'demo'"):
        install_kit(west, mixed.encode(house.office.identity()), house.fingerprint, NOW)
    serving = Kit(
        name="west",
        authority=mine.authority,
        coordinator=mine.coordinator,
        certificate=pem_of(house.office.certificate("server")),
        roster=mine.roster,
        gate=mine.gate,
    )
    with pytest.raises(MalformedError, match="a certificate for a client alone"):
        install_kit(west, serving.encode(house.office.identity()), house.fingerprint, NOW)


def test_a_changed_kit_is_refused_wherever_it_was_changed(house: House, west: NodeHome) -> None:
    kit, before = house.sign("west"), files(west)
    for at in range(0, len(kit), 97):
        changed = kit[:at] + bytes([kit[at] ^ 1]) + kit[at + 1 :]
        with pytest.raises((ForgedDocumentError, MalformedError)):
            install_kit(west, changed, house.fingerprint, NOW)
    assert files(west) == before


def test_a_kit_for_another_name_or_for_other_keys_is_refused(house: House, west: NodeHome, tmp_path: Path) -> None:
    with pytest.raises(OtherKeyError, match="expected one for west, got one for east"):
        install_kit(west, (house.home("east").folder / "kit.json").read_bytes(), house.fingerprint, NOW)
    kit = house.sign("west")
    again = NodeHome.of(tmp_path / "again")
    make_node(again, "west", PEOPLE)
    with pytest.raises(OtherKeyError, match="expected a certificate for the key in"):
        install_kit(again, kit, house.fingerprint, NOW)


def test_a_kit_outside_its_dates_is_refused_and_one_that_ends_soon_is_said(house: House, west: NodeHome) -> None:
    kit = house.sign("west")
    with pytest.raises(ExpiredError, match="ask the coordinator for a new kit"):
        install_kit(west, kit, house.fingerprint, NOW + LIFE + timedelta(days=1))
    with pytest.raises(NotYetValidError, match="set the clock, or wait"):
        install_kit(west, kit, house.fingerprint, NOW - timedelta(days=1))
    assert not west.installed
    assert install_kit(west, kit, house.fingerprint, NOW)[1] is State.valid
    assert install_kit(west, kit, house.fingerprint, NOW + LIFE - SOON + timedelta(days=1))[1] is State.soon


def test_a_kit_with_another_number_of_people_than_declared_is_refused(house: House, west: NodeHome) -> None:
    kit = house.sign("west")
    declare_again(west, PEOPLE + 1)
    with pytest.raises(OtherKeyError, match=f"expected {PEOPLE + 1} people under west, as declared here"):
        install_kit(west, kit, house.fingerprint, NOW)
    _, kit = house.office.sign(house.request("west"), renew=True)
    install_kit(west, kit, house.fingerprint, NOW)
    assert west.roster().member("west").people == PEOPLE + 1


def test_a_roster_is_replaced_by_a_newer_one_and_never_by_an_older(house: House, west: NodeHome) -> None:
    home, old = house.home("south"), house.office.roster_bytes()
    house.sign("west")
    new = house.office.roster_bytes()
    assert list(update_roster(home, new).active) == [*sorted(NAMES), "west"]
    assert update_roster(home, new).version == 5  # known already
    with pytest.raises(OlderRosterError):
        update_roster(home, old)
    assert home.roster_bytes() == new
    with pytest.raises(OlderRosterError):  # nor by an old kit
        install_kit(home, (home.folder / "kit.json").read_bytes(), house.fingerprint, NOW)


def test_a_forged_roster_or_one_of_two_changes_nothing(house: House, west: NodeHome) -> None:
    home = house.home("south")
    known = home.roster_bytes()
    document = json.loads(known)
    document["body"]["version"] = 99
    with pytest.raises(ForgedDocumentError):
        update_roster(home, json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    twin = house.office.roster().changed(dict(list(house.office.roster().members.items())[:2]), 1)
    two = type(twin)(**{**vars(twin), "version": 4}).encode(house.office.identity())
    with pytest.raises(TwoRostersError):
        update_roster(home, two)
    assert home.roster_bytes() == known


def test_peers_learn_a_revocation_and_the_revoked_one_its_own(house: House) -> None:
    house.office.revoke("north")
    roster = house.office.roster_bytes()
    assert list(update_roster(house.home("south"), roster).active) == ["east", "south"]
    with pytest.raises(RevokedError, match="ask the coordinator why"):
        update_roster(house.home("north"), roster)
    assert house.home("north").roster().members["north"].state == "revoked"  # taken over before it was said


def test_a_new_signing_key_is_pinned_from_the_next_roster(house: House) -> None:
    home, old = house.home("south"), house.home("south").pinned()
    house.office.rotate_signing()
    house.office.rotate_signing()
    update_roster(home, house.office.roster_bytes())
    assert home.pinned() == house.office.identity().public != old
    house.office.revoke("north")
    update_roster(home, house.office.roster_bytes())


def test_a_roster_with_somebody_elses_keys_under_this_name_is_refused(house: House) -> None:
    home = house.home("south")
    members = house.office.roster().members
    swapped = {**members, "south": members["east"], "east": members["south"]}
    roster = house.office.roster().changed(swapped, 1).encode(house.office.identity())
    with pytest.raises(OtherKeyError, match="somebody else may be enrolled in this name"):
        update_roster(home, roster)


def test_a_node_without_a_kit_takes_no_roster(house: House, west: NodeHome) -> None:
    with pytest.raises(UsageError, match="install the coordinator's kit first"):
        update_roster(west, house.office.roster_bytes())
