"""One person's record as rows of ciphertext and back. No I/O.

Everything a row says in clear (store, person, field, row version, model, expiry) is in the associated data, so a row
that was changed, swapped with another's or moved to another store does not open.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from silhouette_client.profiles.keys import KEY_BYTES, NONCE_BYTES, Keyring, WrappedKey
from silhouette_client.profiles.record import FIELDS, ProfileRecord, decode_field, encode_field
from silhouette_shared.errors import IntegrityError

_BIT = {name: 1 << number for number, name in enumerate(FIELDS)}
_UNKNOWN = 1 << 40  # no row has it, so an unknown field never fits


@dataclass(frozen=True)
class SealedField:
    """One field: its row version, when it is past its time (seconds since 1970), nonce and ciphertext."""

    name: str
    version: int
    expires: int
    content: bytes


@dataclass(frozen=True)
class SealedRecord:
    """What the store keeps of one person. The bits of `mask` say which fields there have to be."""

    person: bytes
    version: int
    model: str
    mask: int
    key: WrappedKey
    fields: Sequence[SealedField]


class BrokenRowError(IntegrityError):
    """A row is not what was written. Exit code 5.

    Args:
        person: Whose, as HMAC.
        part: Field, or what else of the record.
        reason: What was expected and what came.
    """

    def __init__(self, person: bytes, part: str, reason: str) -> None:
        """Name the row by the first eight bytes of the HMAC."""
        super().__init__(f"profile {bytes(person)[:8].hex()}, {part}: {reason}")


def names_of(mask: int) -> tuple[str, ...]:
    """The fields whose bits are set.

    >>> names_of(9)
    ('vector', 'tags')
    """
    return tuple(name for name in FIELDS if mask & _BIT[name])


def seal_record(
    keyring: Keyring, person: bytes, version: int, record: ProfileRecord, expires: Mapping[str, int]
) -> SealedRecord:
    """Encrypt a record under a new data key.

    Args:
        keyring: Wraps the data key by its active key.
        person: HMAC.
        version: Of the row; one more than the one before.
        record: What to keep.
        expires: For every field that is there, seconds since 1970.
    """
    data_key = os.urandom(KEY_BYTES)
    cipher = AESGCM(data_key)
    mask = sum(_BIT[name] for name in record.present)
    fields = []
    for name in record.present:
        nonce = os.urandom(NONCE_BYTES)
        context = _context(keyring, person, name, version, expires[name], record.model)
        sealed = nonce + cipher.encrypt(nonce, encode_field(record, name), context)
        fields.append(SealedField(name, version, expires[name], sealed))
    key = keyring.wrap(data_key, _context(keyring, person, "", version, mask, record.model))
    return SealedRecord(person, version, record.model, mask, key, fields)


def open_record(keyring: Keyring, sealed: SealedRecord, wanted: Collection[str], now: float) -> ProfileRecord:
    """Decrypt the wanted fields that are not past their time.

    Raises:
        BrokenRowError: If anything was changed, is missing or does not belong there.
    """
    cipher = AESGCM(unwrap_key(keyring, sealed))
    person = sealed.person
    if sum(_BIT.get(field.name, _UNKNOWN) for field in sealed.fields) != sealed.mask:
        raise BrokenRowError(person, "fields", "expected those that were written, got others")
    values: dict[str, Any] = {}
    for field in sealed.fields:
        if field.name not in wanted:
            continue
        context = _context(keyring, person, field.name, field.version, field.expires, sealed.model)
        try:
            content = cipher.decrypt(field.content[:NONCE_BYTES], field.content[NONCE_BYTES:], context)
        except (InvalidTag, ValueError, TypeError):
            raise BrokenRowError(person, field.name, "expected what was written, got something else") from None
        if field.version != sealed.version:
            raise BrokenRowError(person, field.name, "expected the version of its row, got an older one")
        if field.expires > now:
            values[field.name] = decode_field(field.name, content)
    return ProfileRecord(model=sealed.model, **values)


def unwrap_key(keyring: Keyring, sealed: SealedRecord) -> bytes:
    """The data key of a record.

    Raises:
        BrokenRowError: If it, or what it was wrapped with, was changed.
    """
    try:
        return keyring.unwrap(sealed.key, key_context(keyring, sealed))
    except IntegrityError as error:
        raise BrokenRowError(sealed.person, "data key", str(error)) from None


def key_context(keyring: Keyring, sealed: SealedRecord) -> bytes:
    """The associated data of a wrapped data key."""
    return _context(keyring, sealed.person, "", sealed.version, sealed.mask, sealed.model)


def _context(keyring: Keyring, person: bytes, name: str, version: int, number: int, model: str) -> bytes:
    # `repr` keeps parts apart and takes whatever a damaged row may hold
    return keyring.store + repr((person, name, version, number, model)).encode("utf-8", "surrogatepass")
