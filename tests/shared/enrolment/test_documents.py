"""A request proves three keys, a roster is its signer's and only ever newer, a fingerprint is all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.enrolled import NAMES, House

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.making import make_node
from silhouette_shared.enrolment.certificates import pem_of, signing_request
from silhouette_shared.enrolment.documents import (
    Kit,
    Member,
    NodeRequest,
    Roster,
    Succession,
    check_fingerprint,
    check_newer,
    fingerprint,
    grouped,
)
from silhouette_shared.enrolment.refusals import (
    FingerprintError,
    ForgedDocumentError,
    MalformedError,
    NotAMemberError,
    OlderRosterError,
    OtherAuthorityError,
    RevokedError,
    TwoRostersError,
)
from silhouette_shared.enrolment.signed import canonical, seal
from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.keys import Identity

KEYS = [Identity(bytes([number]) * 32) for number in range(1, 8)]


def member(number: int, **changes: Any) -> Member:
    made = Member(
        identity=KEYS[number].public.hex(), supernode_public=f"key {number}", serial=str(number + 1), people=10
    )
    return replace(made, **changes)


def roster(version: int = 1, signer: Identity = KEYS[0], **changes: Any) -> Roster:
    members = {"a": member(1), "b": member(2), "c": member(3)}
    made = Roster(
        version=version,
        consortium="demo",
        authority="a" * 64,
        signer=signer.public.hex(),
        issued=100,
        members=members,
    )
    return replace(made, **changes)


@pytest.fixture
def node(tmp_path: Path) -> NodeHome:
    home = NodeHome.of(tmp_path)
    make_node(home, "north", 200)
    return home


def request_of(home: NodeHome) -> bytes:
    return (home.folder / "request.json").read_bytes()


def test_a_request_is_read_back(node: NodeHome) -> None:
    found = NodeRequest.decode(request_of(node))
    assert (found.name, found.people, found.identity) == ("north", 200, node.identity().public.hex())


def test_a_request_for_somebody_elses_key_is_refused(node: NodeHome, tmp_path: Path) -> None:
    """Proof of possession: each of the three keys has to be the maker's own."""
    other = NodeHome.of(tmp_path / "other")
    make_node(other, "south", 10)
    mine, theirs = NodeRequest.decode(request_of(node)), NodeRequest.decode(request_of(other))
    stolen_identity = replace(mine, identity=theirs.identity).encode(node.identity(), node.supernode_key())
    stolen_supernode = replace(mine, supernode_public=theirs.supernode_public).encode(
        node.identity(), node.supernode_key()
    )
    stolen_client = replace(mine, csr=theirs.csr).encode(node.identity(), node.supernode_key())
    for data in (stolen_identity, stolen_supernode, stolen_client):
        with pytest.raises(ForgedDocumentError):
            NodeRequest.decode(data)


def test_a_signing_request_whose_own_signature_is_wrong_is_refused(node: NodeHome) -> None:
    mine = NodeRequest.decode(request_of(node))
    lines = mine.csr.splitlines()
    lines[-2] = ("A" if lines[-2][0] != "A" else "B") + lines[-2][1:]
    with pytest.raises((ForgedDocumentError, MalformedError)):
        NodeRequest.decode(replace(mine, csr="\n".join(lines) + "\n").encode(node.identity(), node.supernode_key()))


def test_a_changed_request_is_refused(node: NodeHome) -> None:
    document = json.loads(request_of(node))
    for key, value in (("people", 201), ("name", "south"), ("proof", "00" * 100)):
        changed = canonical({**document, "body": {**document["body"], key: value}})
        with pytest.raises(ForgedDocumentError):
            NodeRequest.decode(changed)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "../x", "name: expected 1 to 40 letters"),
        ("people", 0, "people: expected 1 to"),
        ("people", True, "people"),
        ("identity", "00", "identity: expected 32 bytes"),
        ("more", 1, "more"),
        ("csr", "x" * 10_001, "csr: expected a short"),
        ("supernode_public", "two\nlines", "supernode_public: expected one line"),
    ],
)
def test_a_request_of_another_form_is_refused(node: NodeHome, key: str, value: object, message: str) -> None:
    body = {**json.loads(request_of(node))["body"], key: value}
    with pytest.raises(MalformedError, match=message):
        NodeRequest.decode(seal("request", body, node.identity()))


def test_a_request_with_keys_of_other_kinds_is_refused(node: NodeHome) -> None:
    mine = NodeRequest.decode(request_of(node))
    weak = ec.generate_private_key(ec.SECP384R1())
    data = replace(mine, csr=pem_of(signing_request(weak, "north"))).encode(node.identity(), node.supernode_key())
    with pytest.raises(MalformedError, match="expected a P-256 key"):
        NodeRequest.decode(data)
    data = replace(mine, supernode_public="ssh-ed25519 AAAA").encode(node.identity(), node.supernode_key())
    with pytest.raises(MalformedError, match="OpenSSH"):
        NodeRequest.decode(data)


def test_a_roster_is_believed_under_its_signers_key_alone() -> None:
    data = roster().encode(KEYS[0])
    assert Roster.decode(data, KEYS[0].public) == roster()
    with pytest.raises(ForgedDocumentError):
        Roster.decode(data, KEYS[5].public)
    lying = replace(roster(), signer=KEYS[5].public.hex())
    with pytest.raises(ForgedDocumentError):
        Roster.decode(lying.encode(KEYS[5]), KEYS[0].public)


def test_a_newer_roster_takes_the_place_and_an_older_one_never() -> None:
    known, newer = roster(3).encode(KEYS[0]), roster(4).encode(KEYS[0])
    assert check_newer(known, newer, KEYS[0].public).version == 4
    assert check_newer(known, known, KEYS[0].public).version == 3
    with pytest.raises(OlderRosterError, match="expected number 4 or a later one, got 3"):
        check_newer(newer, known, KEYS[0].public)


def test_two_rosters_of_one_number_are_noticed() -> None:
    other = roster(3, members={"a": member(1), "b": member(2)}).encode(KEYS[0])
    with pytest.raises(TwoRostersError, match="another roster of this number"):
        check_newer(roster(3).encode(KEYS[0]), other, KEYS[0].public)


def test_a_roster_of_another_authority_or_consortium_is_refused() -> None:
    strange: tuple[dict[str, Any], ...] = ({"authority": "b" * 64}, {"consortium": "other"})
    for changes in strange:
        with pytest.raises(OtherAuthorityError):
            check_newer(roster(3).encode(KEYS[0]), roster(4, **changes).encode(KEYS[0]), KEYS[0].public)


def test_the_old_key_vouches_for_the_new_one_and_no_other_can() -> None:
    succession = Succession.encode(KEYS[0], KEYS[5], 200).decode()
    again = Succession.encode(KEYS[5], KEYS[6], 300).decode()
    known = roster(3).encode(KEYS[0])
    rotated = roster(4, signer=KEYS[5], successions=(succession,)).encode(KEYS[5])
    twice = roster(5, signer=KEYS[6], successions=(succession, again)).encode(KEYS[6])
    assert check_newer(known, rotated, KEYS[0].public).signer == KEYS[5].public.hex()
    assert check_newer(known, twice, KEYS[0].public).version == 5  # one that missed a roster follows the chain
    assert check_newer(rotated, twice, KEYS[5].public).version == 5
    with pytest.raises(ForgedDocumentError):  # the new key without the old one's word
        check_newer(known, roster(4, signer=KEYS[5]).encode(KEYS[5]), KEYS[0].public)
    with pytest.raises(ForgedDocumentError):  # the old key after it has handed over
        check_newer(rotated, roster(6).encode(KEYS[0]), KEYS[5].public)
    with pytest.raises(ForgedDocumentError):  # a chain that begins elsewhere
        check_newer(roster(3, signer=KEYS[4]).encode(KEYS[4]), rotated, KEYS[4].public)


def test_a_succession_needs_both_keys() -> None:
    document = json.loads(Succession.encode(KEYS[0], KEYS[5], 200))
    stolen = {**document["body"], "following": KEYS[6].public.hex()}
    with pytest.raises(ForgedDocumentError, match="the new key's own signature"):
        Succession.decode(seal("succession", stolen, KEYS[0]))
    with pytest.raises(ForgedDocumentError):
        Succession.decode(canonical({**document, "signature": "00" * 64}))


def test_a_roster_says_who_is_active_revoked_or_unknown() -> None:
    found = roster(members={"a": member(1), "b": member(2, state="revoked"), "c": member(3), "d": member(4)})
    assert list(found.active) == ["a", "c", "d"]
    assert found.member("a").people == 10
    with pytest.raises(RevokedError, match="roster 1 of demo says is revoked"):
        found.member("b")
    with pytest.raises(NotAMemberError, match="found nobody of this name"):
        found.member("z")
    pins = found.pins()
    assert pins.names == ("a", "c", "d")
    assert pins.coordinator == KEYS[0].public
    with pytest.raises(RevokedError):
        found.pins(("a", "b", "c"))


def test_a_roster_with_one_key_or_certificate_for_two_is_refused() -> None:
    for changes in ({"identity": KEYS[2].public.hex()}, {"supernode_public": "key 2"}, {"serial": "3"}):
        with pytest.raises(ValueError, match="another one for every member"):
            roster(members={"a": member(1, **changes), "b": member(2)})
    with pytest.raises(ValueError, match="a key that no member has"):
        roster(members={"a": member(0)})


def test_a_fingerprint_is_compared_whole_however_it_was_typed() -> None:
    found = fingerprint(b"authority", KEYS[0].public)
    for told in (found, grouped(found), found.upper(), grouped(found).replace(" ", ":"), f" {found}\n"):
        check_fingerprint(found, told)
    wrong = ("0" if found[0] != "0" else "1") + found[1:]
    with pytest.raises(FingerprintError, match="nothing was installed"):
        check_fingerprint(found, wrong)
    for short in (found[:-1], found[:16], "", "x" * 64):
        with pytest.raises(UsageError, match="64 hexadecimal digits"):
            check_fingerprint(found, short)


def test_a_fingerprint_changes_with_the_authority_and_with_the_key() -> None:
    found = fingerprint(b"authority", KEYS[0].public)
    assert found != fingerprint(b"another", KEYS[0].public)
    assert found != fingerprint(b"authority", KEYS[1].public)
    assert fingerprint(b"ab", b"c" * 32) != fingerprint(b"a", b"b" + b"c" * 31)


def test_a_kit_is_signed_whole(tmp_path: Path) -> None:
    house = House(tmp_path, names=NAMES[:1])
    kit, data = house.office.sign(house.request(NAMES[0]), renew=True)
    assert Kit.decode(data) == kit
    document = json.loads(data)
    for key, value in (("name", "south"), ("gate", {"host": "evil.example", "port": 9443, "names": ["evil.example"]})):
        with pytest.raises(ForgedDocumentError):
            Kit.decode(canonical({**document, "body": {**document["body"], key: value}}))
