"""What coordinator and partner hand each other to know who is who: request, roster, kit, succession of a key.

Nobody's private key is in any of them. A request proves that its maker holds the three keys in it; a roster is signed
by the coordinator's signing key and numbered, so that the newest one is known; a kit is a roster with the one
certificate that it was made for, and is believed for its fingerprint, which travels by another channel.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from silhouette_shared.enrolment.certificates import common_name, der_of, load_certificate, load_request
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
from silhouette_shared.enrolment.signed import (
    NAME_RULE,
    STRICT,
    build,
    canonical,
    content_of,
    digest,
    is_name,
    open_sealed,
    seal,
    unverified,
)
from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.keys import Identity, UntrustedError, verify
from silhouette_shared.secagg.messages import Pins

REQUEST, ROSTER, KIT, SUCCESSION = "request", "roster", "kit", "succession"
"""Kinds of documents."""

MOST_PEOPLE = 10**9
MOST_MEMBERS = 1000
_HEX_KEY = re.compile("[0-9a-f]{64}")
_LABEL = b"enrolment/possession"


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got something else")


def _check_key(name: str, key: str) -> None:
    _require(_HEX_KEY.fullmatch(key) is not None, name, "32 bytes as 64 hexadecimal digits")


def load_supernode_key(text: str, what: str) -> ec.EllipticCurvePublicKey:
    """A SuperNode's public key in its OpenSSH form; MalformedError unless it is ECDSA on P-384."""
    try:
        key = serialization.load_ssh_public_key(text.encode("ascii"))
    except (ValueError, KeyError):
        raise MalformedError(
            f"{what}: expected a public key in OpenSSH's form, got something else; make it again"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MalformedError(f"{what}: expected an ECDSA P-384 key for the SuperNode, got another; make it again")
    return key


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NodeRequest:
    """A partner asks to be enrolled: its name, its size as it declares it, and three public keys."""

    name: str
    people: int  # as its operator declares them; public, and no count of records
    identity: str  # Ed25519, hex
    supernode_public: str  # ECDSA P-384, one line of OpenSSH's form
    csr: str  # PEM, for the client certificate

    @model_validator(mode="after")
    def _check(self) -> NodeRequest:
        _require(is_name(self.name), "name", NAME_RULE)
        _require(1 <= self.people <= MOST_PEOPLE, "people", f"1 to {MOST_PEOPLE} people")
        _check_key("identity", self.identity)
        _require(
            len(self.supernode_public) <= 1000 and "\n" not in self.supernode_public, "supernode_public", "one line"
        )
        _require(len(self.csr) <= 10_000, "csr", "a short signing request")
        return self

    def encode(self, identity: Identity, supernode: ec.EllipticCurvePrivateKey) -> bytes:
        """The request with a proof by each key: the third one is in the signing request itself."""
        body = content_of(self)
        proof = supernode.sign(_LABEL + canonical(body), ec.ECDSA(hashes.SHA256()))
        return seal(REQUEST, {**body, "proof": proof.hex()}, identity)

    @classmethod
    def decode(cls, data: bytes) -> NodeRequest:
        """Read a request and check that its maker holds all three keys.

        Raises:
            MalformedError: If it is no request.
            ForgedDocumentError: If a proof does not fit.
        """
        body = unverified(REQUEST, data)
        proof = body.pop("proof", None)
        request = build(cls, body, REQUEST)
        open_sealed(REQUEST, data, bytes.fromhex(request.identity))
        if not isinstance(proof, str) or re.fullmatch("([0-9a-f]{2}){1,200}", proof) is None:
            raise MalformedError("request: expected a proof by the SuperNode's key, got none; make it again")
        try:
            load_supernode_key(request.supernode_public, REQUEST).verify(
                bytes.fromhex(proof), _LABEL + canonical(body), ec.ECDSA(hashes.SHA256())
            )
        except InvalidSignature:
            raise ForgedDocumentError(
                "request: expected a proof by the owner of the SuperNode's key, got another; refuse it, and ask the "
                "partner for its request by another channel"
            ) from None
        if common_name(load_request(request.csr, REQUEST)) != request.name:
            raise ForgedDocumentError("request: expected a signing request in the same name, got another; refuse it")
        return request


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Member:
    """One partner on the roster."""

    identity: str  # Ed25519, hex
    supernode_public: str  # one line of OpenSSH's form
    serial: str  # of its client certificate, decimal
    people: int  # as declared
    state: Literal["active", "revoked"] = "active"

    @model_validator(mode="after")
    def _check(self) -> Member:
        _check_key("identity", self.identity)
        _require(re.fullmatch("[1-9][0-9]{0,60}", self.serial) is not None, "serial", "a whole number")
        _require(1 <= self.people <= MOST_PEOPLE, "people", f"1 to {MOST_PEOPLE} people")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Succession:
    """The coordinator's old signing key vouches for its new one, and the new one for having taken over."""

    previous: str  # Ed25519, hex
    following: str
    issued: int  # UTC seconds
    acceptance: str  # signature of the new key, hex

    @model_validator(mode="after")
    def _check(self) -> Succession:
        _check_key("previous", self.previous)
        _check_key("following", self.following)
        _require(re.fullmatch("[0-9a-f]{128}", self.acceptance) is not None, "acceptance", "a signature")
        return self

    @classmethod
    def encode(cls, previous: Identity, following: Identity, issued: int) -> bytes:
        """The document, signed by both."""
        context = previous.public + following.public
        acceptance = following.sign(b"enrolment/acceptance", context, str(issued).encode())
        made = cls(
            previous=previous.public.hex(), following=following.public.hex(), issued=issued, acceptance=acceptance.hex()
        )
        return seal(SUCCESSION, content_of(made), previous)

    @classmethod
    def decode(cls, data: bytes) -> Succession:
        """Read one and check both signatures; MalformedError or ForgedDocumentError otherwise."""
        found = build(cls, unverified(SUCCESSION, data), SUCCESSION)
        previous, following = bytes.fromhex(found.previous), bytes.fromhex(found.following)
        open_sealed(SUCCESSION, data, previous)
        try:
            verify(
                following,
                bytes.fromhex(found.acceptance),
                b"enrolment/acceptance",
                previous + following,
                str(found.issued).encode(),
            )
        except UntrustedError:
            raise ForgedDocumentError(
                "succession: expected the new key's own signature, got another; refuse it"
            ) from None
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Roster:
    """Who takes part, as the coordinator vouches for it. The number goes up with every change."""

    version: int
    consortium: str
    authority: str  # SHA-256 of the authority's certificate, hex
    signer: str  # the coordinator's signing key, hex
    issued: int  # UTC seconds
    members: dict[str, Member] = field(default_factory=dict)
    successions: tuple[str, ...] = ()  # how the signing key came to be this one, oldest first

    @model_validator(mode="after")
    def _check(self) -> Roster:
        _require(self.version >= 1, "version", "1 or more")
        _require(is_name(self.consortium), "consortium", NAME_RULE)
        _check_key("authority", self.authority)
        _check_key("signer", self.signer)
        _require(self.issued >= 0, "issued", "UTC seconds")
        _require(len(self.members) <= MOST_MEMBERS, "members", f"at most {MOST_MEMBERS}")
        _require(len(self.successions) <= 100, "successions", "at most 100")
        for name in self.members:
            _require(is_name(name), "members", NAME_RULE)
        for what in ("identity", "supernode_public", "serial"):
            values = [getattr(member, what) for member in self.members.values()]
            _require(len(set(values)) == len(values), what, "another one for every member")
        _require(self.signer not in {m.identity for m in self.members.values()}, "signer", "a key that no member has")
        return self

    def encode(self, identity: Identity) -> bytes:
        """The signed document."""
        if identity.public.hex() != self.signer:
            raise ValueError("expected the signing key that the roster names, got another")
        return seal(ROSTER, content_of(self), identity)

    @classmethod
    def decode(cls, data: bytes, pinned: bytes) -> Roster:
        """Read a roster of the coordinator whose key is pinned, or of one that this key vouches for.

        Args:
            data: Bytes from outside.
            pinned: The signing key that is known here, 32 bytes.

        Raises:
            MalformedError: If it is no roster.
            ForgedDocumentError: If it is not signed by that key or its successor.
        """
        found = build(cls, unverified(ROSTER, data), ROSTER)
        trusted = pinned.hex()
        for one in found.successions:
            succession = Succession.decode(one.encode("utf-8"))
            if succession.previous == trusted:
                trusted = succession.following
        open_sealed(ROSTER, data, bytes.fromhex(trusted))
        if found.signer != trusted:
            raise ForgedDocumentError("roster: expected the key that signed it as its signer, got another; refuse it")
        return found

    def member(self, name: str) -> Member:
        """An active member.

        Raises:
            NotAMemberError: If there is nobody of this name.
            RevokedError: If it was revoked.
        """
        found = self.members.get(name)
        if found is None:
            raise NotAMemberError(
                f"expected {name[:40]!r} on roster {self.version} of {self.consortium}, found nobody of this name; "
                "send a request to the coordinator"
            )
        if found.state == "revoked":
            raise RevokedError(
                f"expected an active member, got {name}, which roster {self.version} of {self.consortium} says is "
                "revoked; ask the coordinator why"
            )
        return found

    @property
    def active(self) -> dict[str, Member]:
        """Members that take part, sorted by name."""
        return {name: self.members[name] for name in sorted(self.members) if self.members[name].state == "active"}

    def pins(self, names: tuple[str, ...] | None = None) -> Pins:
        """Whom everybody trusts to be who in a run of these members; all active ones without names.

        Raises:
            NotAMemberError: If one is not on the roster.
            RevokedError: If one was revoked.
            UsageError: If they are too few or too many for secure aggregation.
        """
        chosen = tuple(self.active) if names is None else names
        return Pins(bytes.fromhex(self.signer), {name: bytes.fromhex(self.member(name).identity) for name in chosen})

    def changed(self, members: Mapping[str, Member], issued: int) -> Roster:
        """The next roster."""
        return replace(self, version=self.version + 1, members=dict(members), issued=issued)


def check_newer(known: bytes, found: bytes, pinned: bytes) -> Roster:
    """The roster in `found`, if it may take the place of the one in `known`, which is trusted.

    Args:
        known: Bytes of the roster that is held here.
        found: Bytes of another.
        pinned: The signing key that is known here.

    Raises:
        ForgedDocumentError: If its signature does not fit.
        OtherAuthorityError: If it is another consortium's.
        OlderRosterError: If it is older.
        TwoRostersError: If it has the same number and says something else.
    """
    held = Roster.decode(known, bytes.fromhex(unverified(ROSTER, known)["signer"]))
    new = Roster.decode(found, pinned)
    if (new.consortium, new.authority) != (held.consortium, held.authority):
        raise OtherAuthorityError(
            f"roster: expected one of {held.consortium}, got one of another authority; refuse it, and ask its sender"
        )
    if new.version < held.version:
        raise OlderRosterError(
            f"roster: expected number {held.version} or a later one, got {new.version}; ask the coordinator for the "
            "newest, and why an old one was sent"
        )
    if new.version == held.version and digest(known) != digest(found):
        raise TwoRostersError(
            f"roster: expected the number {new.version} that is known here, got another roster of this number; "
            "compare with the other partners, and trust neither"
        )
    return new


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gate:
    """Where the coordinator is reached, and the names in its certificate."""

    host: str
    port: int
    names: tuple[str, ...]

    @model_validator(mode="after")
    def _check(self) -> Gate:
        _require(1 <= self.port <= 65535, "port", "1 to 65535")
        _require(bool(re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", self.host)), "host", "a host name or an address")
        _require(1 <= len(self.names) <= 100, "names", "1 to 100 names")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Kit:
    """What an enrolled partner gets: whom to trust, its certificate, the roster, and where to go."""

    name: str
    authority: str  # certificate, PEM
    coordinator: str  # signing key, hex
    certificate: str  # the partner's, PEM
    roster: str  # the signed document
    gate: Gate

    @model_validator(mode="after")
    def _check(self) -> Kit:
        _require(is_name(self.name), "name", NAME_RULE)
        _check_key("coordinator", self.coordinator)
        return self

    def encode(self, identity: Identity) -> bytes:
        """The document, signed by the coordinator's key that is in it."""
        if identity.public.hex() != self.coordinator:
            raise ValueError("expected the signing key that the kit names, got another")
        return seal(KIT, content_of(self), identity)

    @classmethod
    def decode(cls, data: bytes) -> Kit:
        """Read a kit that is signed by the key in it; it is believed only for its fingerprint.

        Raises:
            MalformedError: If it is none.
            ForgedDocumentError: If it was changed.
        """
        found = build(cls, unverified(KIT, data), KIT)
        open_sealed(KIT, data, bytes.fromhex(found.coordinator))
        return found

    @property
    def fingerprint(self) -> str:
        """Of the authority's certificate and the coordinator's signing key, 64 hexadecimal digits."""
        return fingerprint(der_of(load_certificate(self.authority, KIT)), bytes.fromhex(self.coordinator))


def fingerprint(authority: bytes, signing_key: bytes) -> str:
    """SHA-256 over an authority's certificate (DER) and a coordinator's signing key, 64 hexadecimal digits."""
    found = hashlib.sha256(b"silhouette enrolment fingerprint\0")
    found.update(len(authority).to_bytes(8, "big") + authority + signing_key)
    return found.hexdigest()


def grouped(digits: str) -> str:
    """A fingerprint as it is read out: groups of four digits.

    >>> grouped("0123456789abcdef")
    '0123 4567 89ab cdef'
    """
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def check_fingerprint(found: str, told: str) -> None:
    """Compare a fingerprint with the one that was told by another channel.

    Args:
        found: 64 hexadecimal digits.
        told: As somebody typed it; spaces, colons and hyphens are left out.

    Raises:
        UsageError: If what was told is no whole fingerprint.
        FingerprintError: If they differ.
    """
    typed = re.sub(r"[\s:-]", "", told).lower()
    if _HEX_KEY.fullmatch(typed) is None:
        raise UsageError(
            f"expected a fingerprint of 64 hexadecimal digits, got {len(typed)} characters; have all of it read out "
            "again"
        )
    if typed != found:
        raise FingerprintError(
            f"expected a kit with the fingerprint {grouped(typed)}, got one with {grouped(found)}; nothing was "
            "installed: "
            "somebody may have put another kit in its place, ask the coordinator by telephone"
        )
