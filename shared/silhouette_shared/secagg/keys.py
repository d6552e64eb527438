"""The four primitives, each behind the one form in which the protocol uses it.

X25519 (RFC 7748), Ed25519 (RFC 8032), HKDF with SHA-256 (RFC 5869) and AES-256-GCM (NIST SP 800-38D), all from
`cryptography`. What fails a check raises `UntrustedError`, which never says more than which check it was.
"""

from __future__ import annotations

import hashlib
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from silhouette_shared.errors import IntegrityError
from silhouette_shared.randomness import SecretBytes
from silhouette_shared.secagg.framing import frame

KEY_BYTES = 32
TAG_BYTES = 16
_DOMAIN = b"silhouette SA-1"
_ONE_USE = bytes(12)


class UntrustedError(IntegrityError):
    """A signature, a public key or a ciphertext did not pass its check."""


class Identity:
    """A long-lived Ed25519 signing key, a partner's or the coordinator's.

    It cannot be copied, pickled or printed.

    Args:
        secret: Its 32 secret bytes.
    """

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        """Derive the public key."""
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, source: SecretBytes) -> Identity:
        """A new identity; the caller keeps the source's promise that its bytes are never given twice."""
        return cls(source.bytes(KEY_BYTES))

    def sign(self, label: bytes, context: bytes, body: bytes) -> bytes:
        """Sign what the message is (`label`), what it belongs to (`context`) and what it says: 64 bytes."""
        return self._key.sign(frame(_DOMAIN, label, context, body))

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError("an identity cannot be copied or pickled; load it from its key file again")


def verify(public: bytes, signature: bytes, label: bytes, context: bytes, body: bytes) -> None:
    """Check a signature made by `Identity.sign`.

    Raises:
        UntrustedError: If it is not that identity's signature of exactly this label, context and body.
    """
    verify_bytes(public, signature, frame(_DOMAIN, label, context, body))


def verify_bytes(public: bytes, signature: bytes, data: bytes) -> None:
    """Check a plain Ed25519 signature; UntrustedError if it does not fit."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError) as error:
        raise UntrustedError("expected a valid Ed25519 signature, got another; refuse the message") from error


class AgreementKey:
    """A one-round X25519 key. It cannot be copied, pickled or printed.

    Args:
        secret: Its 32 secret bytes.
    """

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        """Derive the public key."""
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    def agree(self, peer: bytes) -> bytes:
        """The raw shared secret with the owner of `peer`; only ever an input of `derive`.

        Raises:
            UntrustedError: If `peer` is not 32 bytes or of low order: the secret would be known to everybody.
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError as error:
            raise UntrustedError("expected an X25519 public key, got a point of low order; refuse it") from error

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError("an agreement key cannot be copied or pickled; it serves one round in one process")


def derive(secret: bytes, *, salt: bytes, info: bytes, size: int = KEY_BYTES) -> bytes:
    """HKDF with SHA-256: extract with `salt`, expand with `info` to `size` bytes."""
    return HKDF(hashes.SHA256(), size, salt=salt, info=info).derive(secret)


def seal(key: bytes, plaintext: bytes, associated: bytes, *, nonce: bytes = _ONE_USE) -> bytes:
    """AES-GCM: ciphertext and tag, 16 bytes longer than `plaintext`.

    The nonce is constant because every key is derived for one sender, one receiver and one key roll, and encrypts
    exactly one message.
    """
    return AESGCM(key).encrypt(nonce, plaintext, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes, *, nonce: bytes = _ONE_USE) -> bytes:
    """Undo `seal`; UntrustedError if anything was changed."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except (InvalidTag, ValueError) as error:
        raise UntrustedError("expected an authentic ciphertext, got another; refuse it") from error


def digest(label: bytes, *parts: bytes) -> bytes:
    """SHA-256 of a label and parts, framed so that different lists give different inputs: 32 bytes."""
    return hashlib.sha256(frame(_DOMAIN, label, *parts)).digest()
