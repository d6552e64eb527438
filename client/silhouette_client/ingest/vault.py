"""Sealed files: what they hold is hidden and cannot be changed unseen.

A file is named after its content (a keyed hash, so that the name tells nothing) and encrypted with AES-256-GCM. The
nonce is a keyed hash of the content too: equal content gives equal bytes, so writing a file again is harmless, and
different content gives different nonces. This is the synthetic nonce of RFC 5297, with BLAKE2b as the keyed hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from silhouette_shared.errors import IntegrityError

KEY_BYTES = 32
_MAGIC = b"SILPEOPLE\x01"
_NONCE_BYTES = 12


class Vault:
    """Files in a folder, sealed with one key.

    Args:
        folder: Of the files; made if missing.
        key: 32 secret bytes.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._names, self._nonces, self._seals, encryption = (
            hashlib.blake2b(purpose, key=key, digest_size=32).digest()
            for purpose in (b"names", b"nonces", b"seals", b"encryption")
        )
        self._cipher = AESGCM(encryption)

    def put(self, content: bytes) -> str:
        """Write a file, flushed to the disk, and return its name."""
        name = hashlib.blake2b(content, key=self._names, digest_size=32).hexdigest()
        path = self._folder / name
        if not path.exists():
            nonce = hashlib.blake2b(content, key=self._nonces, digest_size=_NONCE_BYTES).digest()
            sealed = self._cipher.encrypt(nonce, content, _MAGIC + name.encode())
            write_whole(path, _MAGIC + nonce + sealed)
        return name

    def get(self, name: str) -> bytes:
        """Read a file.

        Raises:
            IntegrityError: If it is missing, damaged or another one.
        """
        path = self._folder / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{path}: expected a part of the people's records, found none; restore it") from None
        start = len(_MAGIC) + _NONCE_BYTES
        try:
            if not content.startswith(_MAGIC):
                raise InvalidTag
            return self._cipher.decrypt(content[len(_MAGIC) : start], content[start:], _MAGIC + name.encode())
        except InvalidTag:
            raise IntegrityError(
                f"{path}: expected the bytes that were written, got others or another key; restore the file or the key"
            ) from None

    def keep_only(self, names: set[str]) -> None:
        """Remove every file that is not named: what a killed run left, and what was replaced."""
        for path in self._folder.iterdir():
            if path.name not in names:
                path.unlink()

    def seal_of(self, text: bytes) -> str:
        """A keyed hash of what is written in clear."""
        return hashlib.blake2b(text, key=self._seals, digest_size=32).hexdigest()

    def check_seal(self, text: bytes, seal: str) -> bool:
        """Whether the text is the one that was sealed."""
        return hmac.compare_digest(self.seal_of(text), seal)


def open_key(path: Path, *, may_make: bool) -> bytes:
    """Read a key file; make one, readable by its owner only, if it may be made and there is none.

    Raises:
        IntegrityError: If it is missing or not a key.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        if not may_make:
            raise IntegrityError(f"{path}: expected the key of the people's records, found none; restore it") from None
        key = secrets.token_bytes(KEY_BYTES)
        write_whole(path, key)
        return key
    if len(key) != KEY_BYTES:
        raise IntegrityError(f"{path}: expected a key of {KEY_BYTES} bytes, got {len(key)}; restore it")
    return key


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, and stays after a power cut; only its owner may read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
