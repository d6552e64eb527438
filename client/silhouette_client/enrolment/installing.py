"""`silhouette node install`: a kit is believed for its fingerprint, and then its roster and key are pinned.

A roster is replaced by a newer one that the pinned key signed, or a key that it vouched for, and by nothing else.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from silhouette_client.enrolment.home import NodeHome
from silhouette_shared.enrolment.certificates import (
    State,
    Validity,
    check_dates,
    check_issued,
    check_purpose,
    common_name,
    der_of,
    load_certificate,
    public_bytes,
)
from silhouette_shared.enrolment.documents import Kit, Member, Roster, check_fingerprint, check_newer
from silhouette_shared.enrolment.refusals import OtherAuthorityError, OtherKeyError
from silhouette_shared.enrolment.signed import digest
from silhouette_shared.errors import UsageError
from silhouette_shared.private_files import PUBLIC, locked, replace

_RENEW = "ask the coordinator for a new kit"


def install_kit(home: NodeHome, data: bytes, told: str, now: datetime) -> tuple[Kit, State]:
    """Check a kit whole, then pin what is in it. Nothing is written unless every check holds.

    Args:
        home: Of a node whose keys were made here.
        data: The kit's bytes.
        told: The fingerprint, as it was told by another channel.
        now: In UTC.

    Returns:
        The kit, and whether its certificate expires soon.

    Raises:
        UsageError: If what was told is no fingerprint, or there is no node here.
        FingerprintError: If the kit has another one.
        MalformedError, ForgedDocumentError: If the kit is none or was changed.
        OtherAuthorityError: If a part is another consortium's, or this node belongs to another one.
        OtherKeyError: If it was made for other keys than the ones here.
        ExpiredError, NotYetValidError: If a certificate is outside its dates.
        RevokedError, NotAMemberError: If the kit's own roster has no such active member.
        OlderRosterError, TwoRostersError: If this node knows a newer roster.
    """
    kit = Kit.decode(data)
    check_fingerprint(kit.fingerprint, told)
    authority = load_certificate(kit.authority, "kit, authority")
    certificate = load_certificate(kit.certificate, "kit, certificate")
    check_issued(authority, authority, "kit, authority")
    check_issued(certificate, authority, "kit, certificate")
    check_purpose(certificate, server=False, whose="kit, certificate")
    check_dates(authority, now, "kit, authority", _RENEW)
    state = check_dates(certificate, now, "kit, certificate", _RENEW)
    if kit.name != home.name or common_name(certificate) != home.name:
        raise OtherKeyError(f"kit: expected one for {home.name}, got one for {kit.name}; install your own")
    if public_bytes(certificate.public_key()) != public_bytes(home.client_key().public_key()):
        raise OtherKeyError(
            f"kit: expected a certificate for the key in {home.client_key_path}, got one for another; send "
            "request.json "
            "of this home to the coordinator"
        )
    roster = Roster.decode(kit.roster.encode("ascii"), bytes.fromhex(kit.coordinator))
    if roster.authority != digest(der_of(authority)):
        raise OtherAuthorityError("kit: expected a roster of its own authority, got another's; refuse it")
    check_own_place(home, roster.member(home.name), str(certificate.serial_number))
    with locked(home.folder):
        if home.installed:
            _check_same_consortium(home, kit)
            check_newer(home.roster_bytes(), kit.roster.encode("ascii"), home.pinned())
        replace(home.authority_path, kit.authority.encode("ascii"), PUBLIC)
        replace(home.certificate_path, kit.certificate.encode("ascii"), PUBLIC)
        replace(home.folder / "coordinator.pub", roster.signer.encode("ascii") + b"\n", PUBLIC)
        replace(home.roster_path, kit.roster.encode("ascii"), PUBLIC)
        replace(home.folder / "kit.json", data, PUBLIC)  # last: with it the node is installed
    return kit, state


def check_own_place(home: NodeHome, member: Member, serial: str | None = None) -> None:
    """Refuse a roster that has other keys, another number of people or another certificate under this node's name."""
    public = home.identity().public.hex()
    supernode = (home.folder / "supernode.pub").read_text(encoding="ascii").strip()
    if (member.identity, member.supernode_public) != (public, supernode):
        raise OtherKeyError(
            f"roster: expected the keys of this home under {home.name}, got others; somebody else may be enrolled in "
            "this "
            "name: ask the coordinator by another channel"
        )
    if member.people != home.declared_people:
        raise OtherKeyError(
            f"roster: expected {home.declared_people} people under {home.name}, as declared here, got {member.people}; "
            "ask the coordinator to correct it"
        )
    if serial is not None and member.serial != serial:
        raise OtherKeyError(f"roster: expected the certificate of the kit under {home.name}, got another; {_RENEW}")


def _check_same_consortium(home: NodeHome, kit: Kit) -> None:
    if der_of(home.authority()) != der_of(load_certificate(kit.authority, "kit, authority")):
        raise OtherAuthorityError(
            f"kit: expected one of the consortium that this node belongs to, got another authority's; a node has one "
            f"consortium: take another --home for it ({home.folder} stays as it is)"
        )


def update_roster(home: NodeHome, data: bytes) -> Roster:
    """Take over a newer signed roster; the one that is known already changes nothing.

    Raises:
        ForgedDocumentError, MalformedError, OtherAuthorityError: If it is not the pinned coordinator's.
        OlderRosterError, TwoRostersError: If a newer one, or another one of its number, is known here.
        OtherKeyError: If it has other keys under this node's name.
        RevokedError, NotAMemberError: If this node is not on it any more; it is taken over before that is said.
    """
    with locked(home.folder):
        if not home.installed:
            raise UsageError(
                f"{home.folder}: expected an installed node, got none; install the coordinator's kit first"
            )
        known = home.roster_bytes()
        if data == known:
            return home.roster()
        roster = check_newer(known, data, home.pinned())
        member = roster.members.get(home.name)
        if member is not None:
            check_own_place(home, member)
        replace(home.roster_path, data, PUBLIC)
        replace(home.folder / "coordinator.pub", roster.signer.encode("ascii") + b"\n", PUBLIC)
    roster.member(home.name)
    return roster


def read_kit(path: Path) -> bytes:
    """The bytes of a file; UsageError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: expected a file, got none that can be read: {error.strerror}; check the path"
        ) from None


def own_validity(home: NodeHome) -> Validity:
    """From when to when this node's certificate is valid."""
    return Validity.of(home.certificate())
