"""The coordinator's home on disk: its keys and certificates, the roster, and what changes them.

    <home>/coordinator/  authority.key authority.pem   the consortium's authority
                         server.key server.pem         the gate's certificate, under its public names
                         internal.key internal.pem     for 127.0.0.1 and localhost: the SuperLink
                         signing.key                   Ed25519, 32 bytes: signs roster, offers, manifests
                         roster.json config.toml

Every key is made here and its file is for its owner alone. `init` overwrites nothing; a change of the roster is one
replaced file, so whoever reads it sees the old or the new one.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from silhouette_server.enrolment.issuing import (
    authority_certificate,
    client_certificate,
    key_pem,
    new_key,
    server_certificate,
)
from silhouette_shared.enrolment.certificates import (
    Validity,
    alternative_names,
    check_dates,
    der_of,
    load_certificate,
    load_request,
    pem_of,
    public_bytes,
)
from silhouette_shared.enrolment.documents import (
    Gate,
    Kit,
    Member,
    NodeRequest,
    Roster,
    Succession,
    check_newer,
    fingerprint,
)
from silhouette_shared.enrolment.refusals import NameTakenError
from silhouette_shared.enrolment.signed import NAME_RULE, digest, is_name
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.private_files import (
    PUBLIC,
    locked,
    make_folder,
    read_private,
    read_public,
    replace,
    write_new,
)
from silhouette_shared.randomness import SecureSource
from silhouette_shared.secagg.keys import KEY_BYTES, Identity

_LOG = logging.getLogger(__name__)

INTERNAL_NAMES = ("localhost", "127.0.0.1")
DEFAULT_PORT = 9443
_AGAIN = "run `silhouette coordinator init` first"

CERTIFICATES = ("authority", "server", "internal")
"""Names of the certificates in the folder, without their endings."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Settings:
    """What `config.toml` says: what the consortium is called and where its gate is."""

    consortium: str
    gate: Gate


class Office:
    """The coordinator's keys and its roster.

    Args:
        folder: `<home>/coordinator`.
        clock: For tests: the time in UTC.
    """

    def __init__(self, folder: Path, clock: Callable[[], datetime] = _utc_now) -> None:
        self.folder = folder
        self._clock = clock

    @classmethod
    def of(cls, home: Path) -> Office:
        """The office in a home; a change of its signing key that a kill interrupted is finished."""
        office = cls(home / "coordinator")
        if office.finish_rotation():
            _LOG.warning("a change of the signing key that was interrupted is finished")
        return office

    def init(self, consortium: str, hosts: Sequence[str], port: int = DEFAULT_PORT) -> str:
        """Make the authority, the certificates, the signing key and an empty roster.

        Args:
            consortium: Its name.
            hosts: Names and addresses under which the gate is reached; the first one is told to partners.
            port: Of the gate.

        Returns:
            The fingerprint that partners are told.

        Raises:
            UsageError: If there is a coordinator in this home already, or a name cannot be one.
        """
        if not is_name(consortium):
            raise UsageError(f"--name: expected {NAME_RULE}, got {consortium!r}")
        if not hosts or not 1 <= port <= 65535:
            raise UsageError("--host, --port: expected at least one host and a port from 1 to 65535; name them")
        alternative_names(hosts)
        make_folder(self.folder)
        with locked(self.folder):
            found = [path.name for path in sorted(self.folder.iterdir())]
            if found:
                raise UsageError(
                    f"{self.folder}: expected no coordinator yet, found {', '.join(found[:5])}; nothing is "
                    "overwritten: "
                    "move the folder away first, or take another --home"
                )
            now = self._clock()
            key = new_key()
            authority = authority_certificate(key, consortium, now)
            identity = self._new_identity("signing.key")
            self._write_pair("authority", key, authority)
            for name, names in (("server", hosts), ("internal", INTERNAL_NAMES)):
                own = new_key()
                self._write_pair(name, own, server_certificate(own.public_key(), names, authority, key, now))
            gate = Gate(host=hosts[0], port=port, names=tuple(hosts))
            write_new(self.folder / "config.toml", _config(consortium, gate), PUBLIC)
            roster = Roster(
                version=1,
                consortium=consortium,
                authority=digest(der_of(authority)),
                signer=identity.public.hex(),
                issued=int(now.timestamp()),
            )
            write_new(self.folder / "roster.json", roster.encode(identity), PUBLIC)
            return fingerprint(der_of(authority), identity.public)

    def _new_identity(self, name: str) -> Identity:
        secret = SecureSource().bytes(KEY_BYTES)
        write_new(self.folder / name, secret)
        return Identity(secret)

    def _write_pair(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        write_new(self.folder / f"{name}.key", key_pem(key))
        write_new(self.folder / f"{name}.pem", pem_of(certificate).encode("ascii"), PUBLIC)

    @property
    def settings(self) -> Settings:
        """What `config.toml` says; UsageError if it is missing or says something else."""
        path = self.folder / "config.toml"
        text = read_public(path, "the coordinator's settings", _AGAIN)
        try:
            found = tomllib.loads(text.decode("utf-8"))
            gate = found["gate"]
            return Settings(
                consortium=str(found["consortium"]),
                gate=Gate(host=gate["host"], port=gate["port"], names=tuple(gate["names"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: expected consortium and [gate] with host, port and names, got something else: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None

    def identity(self) -> Identity:
        """The signing key: the coordinator's identity in secure aggregation."""
        return Identity(read_private(self.folder / "signing.key", KEY_BYTES))

    def certificate(self, name: str) -> x509.Certificate:
        """One of `CERTIFICATES`."""
        path = self.folder / f"{name}.pem"
        return load_certificate(read_public(path, "a certificate", _AGAIN).decode("ascii", "replace"), str(path))

    def validities(self) -> dict[str, Validity]:
        """From when to when each certificate is valid."""
        return {name: Validity.of(self.certificate(name)) for name in CERTIFICATES}

    def roster_bytes(self) -> bytes:
        """The signed roster as it goes to partners, checked against the signing key.

        Raises:
            IntegrityError: If it is damaged, or of another key.
        """
        return self._roster()[0]

    def roster(self) -> Roster:
        """The roster; errors as `roster_bytes`."""
        return self._roster()[1]

    def _roster(self) -> tuple[bytes, Roster]:
        data = read_public(self.folder / "roster.json", "the roster", _AGAIN)
        roster = Roster.decode(data, self.identity().public)
        if roster.signer != self.identity().public.hex():
            raise IntegrityError(
                f"{self.folder / 'roster.json'}: expected a roster of the signing key here, got one of a later key; "
                "put "
                "signing.key back from where it is kept"
            )
        return data, roster

    @property
    def fingerprint(self) -> str:
        """What partners are told by another channel."""
        return fingerprint(der_of(self.certificate("authority")), self.identity().public)

    def sign(self, request: bytes, *, renew: bool = False) -> tuple[Kit, bytes]:
        """Enrol a partner: a client certificate for its request, its place on the roster, and its kit.

        Args:
            request: What `silhouette node init` made.
            renew: The name is on the roster and gets a new certificate for this request, and new keys.

        Returns:
            The kit, and the kit as the file that goes to the partner.

        Raises:
            MalformedError, ForgedDocumentError: If the request is none, or its maker does not hold the keys in it.
            NameTakenError: If the name or a key is on the roster already.
            ExpiredError: If the authority is not valid any more.
        """
        asked = NodeRequest.decode(request)
        with locked(self.folder):
            identity, (known, roster) = self.identity(), self._roster()
            self._check_new(asked, roster, renew=renew)
            authority, key = self.certificate("authority"), self._authority_key()
            now = self._clock()
            check_dates(authority, now, "authority.pem", "begin a new consortium: an authority is not renewed")
            public = load_request(asked.csr, "request").public_key()
            if not isinstance(public, ec.EllipticCurvePublicKey):  # load_request has looked
                raise TypeError("expected an elliptic-curve key")
            if public_bytes(public) == public_bytes(key.public_key()):
                raise NameTakenError("request: expected a key of its own, got the authority's; refuse it")
            issued = client_certificate(public, asked.name, authority, key, now)
            member = Member(
                identity=asked.identity,
                supernode_public=asked.supernode_public,
                serial=str(issued.serial_number),
                people=asked.people,
            )
            after = self._publish(known, roster.changed({**roster.members, asked.name: member}, self._seconds(roster)))
            settings = self.settings
            kit = Kit(
                name=asked.name,
                authority=pem_of(authority),
                coordinator=identity.public.hex(),
                certificate=pem_of(issued),
                roster=after.decode("ascii"),
                gate=settings.gate,
            )
            return kit, kit.encode(identity)

    def _check_new(self, asked: NodeRequest, roster: Roster, *, renew: bool) -> None:
        held = roster.members.get(asked.name)
        if held is not None and held.state == "revoked":
            raise NameTakenError(
                f"expected a new name, got {asked.name}, which was revoked and is not given again; have the partner "
                "choose "
                "another one"
            )
        if held is not None and not renew:
            raise NameTakenError(
                f"expected a new name, got {asked.name}, which roster {roster.version} has already; have the partner "
                "choose another one, or sign it with --renew if it is the same partner with new keys"
            )
        if held is None and renew:
            raise UsageError(f"--renew: expected a partner on the roster, got {asked.name}, which is not; leave it out")
        for name, member in roster.members.items():
            same = {member.identity, member.supernode_public} & {asked.identity, asked.supernode_public}
            if name != asked.name and same:
                raise NameTakenError(
                    f"expected keys of its own, got one that is {name}'s; have the partner make new ones in a new home"
                )

    def revoke(self, name: str) -> Roster:
        """Take a partner off: the gate refuses it from now on, and peers read it in the roster.

        Raises:
            NotAMemberError, RevokedError: If there is no such active member.
        """
        with locked(self.folder):
            known, roster = self._roster()
            member = roster.member(name)
            revoked = Member(
                identity=member.identity,
                supernode_public=member.supernode_public,
                serial=member.serial,
                people=member.people,
                state="revoked",
            )
            after = roster.changed({**roster.members, name: revoked}, self._seconds(roster))
            self._publish(known, after)
            return after

    def rotate_server(self, hosts: Sequence[str] | None = None) -> None:
        """New keys and certificates for the gate and for inside; the names stay unless new ones are given."""
        with locked(self.folder):
            settings = self.settings
            names = tuple(hosts) if hosts else settings.gate.names
            alternative_names(names)
            authority, key, now = self.certificate("authority"), self._authority_key(), self._clock()
            check_dates(authority, now, "authority.pem", "begin a new consortium: an authority is not renewed")
            if hosts:
                gate = Gate(host=names[0], port=settings.gate.port, names=names)
                replace(self.folder / "config.toml", _config(settings.consortium, gate), PUBLIC)
            for name, own_names in (("server", names), ("internal", INTERNAL_NAMES)):
                own = new_key()
                certificate = server_certificate(own.public_key(), own_names, authority, key, now)
                # The key first: a certificate without its key is noticed when the gate starts, and made again.
                replace(self.folder / f"{name}.key", key_pem(own))
                replace(self.folder / f"{name}.pem", pem_of(certificate).encode("ascii"), PUBLIC)

    def rotate_signing(self) -> Succession:
        """A new signing key that the old one vouches for, in the next roster; the old key is gone afterwards.

        Runs that were offered under the old key end: their partners have it pinned. A kill between the two files leaves
        a roster of the new key and the old key beside it, and `signing.key.next`; the next start finishes it.
        """
        with locked(self.folder):
            known, roster = self._roster()
            old = self.identity()
            seconds = self._seconds(roster)
            upcoming = self.folder / "signing.key.next"
            secret = SecureSource().bytes(KEY_BYTES)
            replace(upcoming, secret)
            new = Identity(secret)
            succession = Succession.encode(old, new, seconds)
            after = Roster(
                version=roster.version + 1,
                consortium=roster.consortium,
                authority=roster.authority,
                signer=new.public.hex(),
                issued=seconds,
                members=roster.members,
                successions=(*roster.successions, succession.decode("ascii")),
            ).encode(new)
            check_newer(known, after, old.public)
            replace(self.folder / "roster.json", after, PUBLIC)
            upcoming.replace(self.folder / "signing.key")
            return Succession.decode(succession)

    def finish_rotation(self) -> bool:
        """Finish a rotation that a kill interrupted; says whether there was one to finish."""
        upcoming = self.folder / "signing.key.next"
        if not upcoming.exists():
            return False
        with locked(self.folder):
            if not upcoming.exists():
                return False
            new = Identity(read_private(upcoming, KEY_BYTES))
            data = read_public(self.folder / "roster.json", "the roster", _AGAIN)
            if Roster.decode(data, self.identity().public).signer == new.public.hex():
                upcoming.replace(self.folder / "signing.key")
            else:
                upcoming.unlink()  # the roster was never written: nobody knows the new key
        return True

    def _publish(self, known: bytes, roster: Roster) -> bytes:
        data = roster.encode(self.identity())
        check_newer(known, data, self.identity().public)
        replace(self.folder / "roster.json", data, PUBLIC)
        return data

    def _seconds(self, roster: Roster) -> int:
        return max(int(self._clock().timestamp()), roster.issued)  # a clock set back does not make a roster older

    def _authority_key(self) -> ec.EllipticCurvePrivateKey:
        path = self.folder / "authority.key"
        try:
            key = serialization.load_pem_private_key(read_private(path), password=None)
        except (ValueError, TypeError):
            raise IntegrityError(f"{path}: expected the authority's key, got something else; put it back") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or public_bytes(key.public_key()) != public_bytes(
            self.certificate("authority").public_key()
        ):
            raise IntegrityError(f"{path}: expected the key of authority.pem, got another; put it back")
        return key


def _config(consortium: str, gate: Gate) -> bytes:
    names = ", ".join(f'"{name}"' for name in gate.names)
    return (
        f'consortium = "{consortium}"\n\n'
        "# Where partners reach this coordinator. The names stand in server.pem: change both with\n"
        "# `silhouette coordinator rotate --host ...`.\n"
        f'[gate]\nhost = "{gate.host}"\nport = {gate.port}\nnames = [{names}]\n'
    ).encode("ascii")
