"""Certificates as the consortium's authority issues them. Keys are arguments; nothing here touches a disk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from silhouette_shared.enrolment.certificates import alternative_names

AUTHORITY_LIFE = timedelta(days=3650)
LIFE = timedelta(days=398)
"""Of every other certificate: a year and a month in which to renew it."""

_CLOCKS_DIFFER = timedelta(hours=2)  # a certificate is valid from so long before it was made


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as it is kept: PKCS #8 in PEM, protected by the mode of its file."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def authority_certificate(key: ec.EllipticCurvePrivateKey, consortium: str, now: datetime) -> x509.Certificate:
    """The authority's own certificate, signed by itself; it may sign others' and no further authority."""
    subject = _name(consortium)
    return (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def server_certificate(
    public: ec.EllipticCurvePublicKey,
    names: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """A certificate for a server under these host names and addresses."""
    return (
        _issued(_name("coordinator"), public, authority, authority_key, now, ExtendedKeyUsageOID.SERVER_AUTH)
        .add_extension(alternative_names(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def client_certificate(
    public: ec.EllipticCurvePublicKey,
    partner: str,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """A certificate with which a partner's node shows itself at the gate."""
    return _issued(_name(partner), public, authority, authority_key, now, ExtendedKeyUsageOID.CLIENT_AUTH).sign(
        authority_key, hashes.SHA256()
    )


def _issued(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    purpose: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    life = min(LIFE, authority.not_valid_after_utc - now)
    return (
        _builder(subject, authority.subject, public, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
