"""X.509 as Silhouette uses it: P-256 keys, one authority, certificates for one purpose each. No disk, no network."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from silhouette_shared.enrolment.refusals import (
    ExpiredError,
    ForgedDocumentError,
    MalformedError,
    NotYetValidError,
    OtherAuthorityError,
)

SOON = timedelta(days=30)
"""How long before its end a certificate is said to expire soon."""


class State(StrEnum):
    """Where a certificate stands in its life."""

    valid = "valid"
    soon = "expires soon"
    expired = "expired"
    early = "not valid yet"


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate is valid."""

    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Validity:
        """What a certificate says, in UTC."""
        return cls(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def state(self, now: datetime) -> State:
        """Where it stands at a time."""
        if now < self.begins:
            return State.early
        if now >= self.ends:
            return State.expired
        return State.soon if now >= self.ends - SOON else State.valid

    def days_left(self, now: datetime) -> int:
        """Whole days to the end; negative afterwards."""
        return (self.ends - now).days


def check_dates(certificate: x509.Certificate, now: datetime, whose: str, remedy: str) -> State:
    """Refuse a certificate outside its dates.

    Args:
        certificate: Any.
        now: In UTC.
        whose: Names it in the error.
        remedy: What to do about an expired one.

    Returns:
        Valid, or expires soon.

    Raises:
        ExpiredError: If it is not valid any more.
        NotYetValidError: If it is not valid yet.
    """
    validity = Validity.of(certificate)
    state = validity.state(now)
    if state is State.expired:
        raise ExpiredError(
            f"{whose}: expected a valid certificate, got one that expired on {_day(validity.ends)}; {remedy}"
        )
    if state is State.early:
        raise NotYetValidError(
            f"{whose}: expected a valid certificate, got one that is valid from {validity.begins:%Y-%m-%d %H:%M} UTC "
            "on, "
            f"and the clock here says {now:%Y-%m-%d %H:%M}; set the clock, or wait"
        )
    return state


def load_certificate(pem: str, whose: str) -> x509.Certificate:
    """A certificate from PEM; MalformedError if it is none."""
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError:
        raise MalformedError(f"{whose}: expected a certificate, got something else; ask for it again") from None


def load_request(pem: str, whose: str) -> x509.CertificateSigningRequest:
    """A signing request from PEM whose maker holds the key of it.

    Raises:
        MalformedError: If it is none.
        ForgedDocumentError: If it does not prove that.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key, sound = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError):
        raise MalformedError(f"{whose}: expected a signing request, got something else; ask for it again") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError(f"{whose}: expected a P-256 key in the signing request, got another; make it again")
    if not sound:
        raise ForgedDocumentError(
            f"{whose}: expected a signing request by the owner of its key, got another; refuse it"
        )
    return request


def pem_of(thing: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """As PEM."""
    return thing.public_bytes(serialization.Encoding.PEM).decode("ascii")


def der_of(certificate: x509.Certificate) -> bytes:
    """As DER, which a fingerprint is taken of."""
    return certificate.public_bytes(serialization.Encoding.DER)


def public_bytes(key: object) -> bytes:
    """A public key in the one form in which two are compared."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedError("expected an elliptic-curve key, got another kind; make it again")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def common_name(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Whose it is; empty if it does not say so once."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def check_issued(certificate: x509.Certificate, authority: x509.Certificate, whose: str) -> None:
    """Refuse a certificate that this authority did not issue; OtherAuthorityError says so."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise OtherAuthorityError(
            f"{whose}: expected a certificate of the authority {common_name(authority)!r}, got another's; ask the "
            "coordinator for a kit of its own"
        ) from None


def check_purpose(certificate: x509.Certificate, *, server: bool, whose: str) -> None:
    """Refuse a certificate for another purpose; MalformedError says so."""
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    try:
        usages = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = []
    if usages != [wanted]:
        raise MalformedError(
            f"{whose}: expected a certificate for a {'server' if server else 'client'} alone, got another; make it "
            "again"
        )


def server_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Host names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    hosts = list(names.get_values_for_type(x509.DNSName))
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return tuple(hosts + addresses)


def alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    """Host names and addresses in a certificate's form; MalformedError for what is neither."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            try:
                names.append(x509.DNSName(host))
            except ValueError:
                raise MalformedError(
                    f"expected a host name or an address, got {host!r}; write international names in their xn-- form"
                ) from None
    return x509.SubjectAlternativeName(names)


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> x509.CertificateSigningRequest:
    """A request for a client certificate in this name, signed by the key itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


def _day(when: datetime) -> str:
    return f"{when:%Y-%m-%d}"
