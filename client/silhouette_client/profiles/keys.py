"""The keys of the profile store: one file, protected in one of three ways, and what is done with the keys.

A `Keyring` holds three kinds of secrets: key-encryption keys, which wrap the data key of each person and are rotated;
the person key, under which a person's name becomes an HMAC; and the audit key, which seals the audit log. The file
keeps them sealed by a `Protector`: `KeyFile` trusts the file's mode alone, `Passphrase` derives a key with Argon2id,
and an installed package can bring a key management service (entry-point group `silhouette.protectors`). So a passphrase
is asked for, or a service called, once for a start and never for a person.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.metadata
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from silhouette_client.profiles.credential import CREDENTIAL, credential
from silhouette_shared.cli import is_full_disk
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.files import write_atomically

KEYS_NAME = "profiles.key"
"""In a node's home, beside `profiles.sqlite`; back it up elsewhere than the store."""


PROTECTORS = "silhouette.protectors"
"""Entry-point group: name -> a callable that takes the settings in the file and gives a `Protector`."""

KEY_BYTES = 32
NONCE_BYTES = 12

_FORMAT = 1
_CONTEXT = b"silhouette profile keys 1\0"
_ARGON2 = {"memory_kib": 65536, "iterations": 3, "lanes": 4}  # 64 MiB: RFC 9106, second recommended set
_LARGEST_FILE = 1 << 20


class Protector(Protocol):
    """Keeps the secrets of a key file: a passphrase, a key management service, or nothing but the file's mode."""

    @property
    def kind(self) -> str:
        """How the file names it."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain JSON that may be read by anybody, enough to make this protector again beside its secret."""
        ...

    def seal(self, secret: bytes, context: bytes) -> bytes:
        """Encrypt and authenticate `secret` together with `context`."""
        ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Undo `seal`.

        Raises:
            UnavailableError: If the passphrase is wrong or the service cannot be reached.
            IntegrityError: If it was changed.
        """
        ...


class KeyFile:
    """No protection but the mode 600 of the file: for a node that starts by itself."""

    kind = "file"
    settings: Mapping[str, Any] = {}

    def seal(self, secret: bytes, context: bytes) -> bytes:
        """The secret itself."""
        del context
        return secret

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The secret itself; the checksum of the file is its check."""
        del context
        return sealed


class CipherProtector:
    """Seals by AES-256-GCM under one key, which a subclass derives or fetches.

    Args:
        key: 32 bytes.
        other: What is said if another key sealed: the checksum of the file has passed, so a failure to open is the key.
    """

    def __init__(self, key: bytes, other: str) -> None:
        self._cipher, self._other = AESGCM(key), other

    def seal(self, secret: bytes, context: bytes) -> bytes:
        """Nonce and ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Undo `seal`.

        Raises:
            UnavailableError: If another key sealed it.
        """
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise UnavailableError(self._other) from None


class Passphrase(CipherProtector):
    """A key from a passphrase by Argon2id, RFC 9106, and AES-256-GCM.

    Args:
        passphrase: Asked of a person; never from the configuration.
        settings: Salt and costs as the file has them; new ones if None.
    """

    kind = "passphrase"

    def __init__(self, passphrase: str, settings: Mapping[str, Any] | None = None) -> None:
        if not passphrase:
            raise UsageError("expected a passphrase, got an empty one; choose one of at least four random words")
        self.settings: Mapping[str, Any] = settings or {**_ARGON2, "salt": secrets.token_bytes(16).hex()}
        try:
            costs = {name: int(self.settings[name]) for name in _ARGON2}
            salt = bytes.fromhex(self.settings["salt"])
            if costs["memory_kib"] > 1 << 22 or costs["iterations"] > 100:  # a changed file must not take hours
                raise ValueError("costs out of range")
            derive = Argon2id(
                salt=salt,
                length=KEY_BYTES,
                iterations=costs["iterations"],
                lanes=costs["lanes"],
                memory_cost=costs["memory_kib"],
            )
        except (KeyError, TypeError, ValueError):
            raise IntegrityError(
                "expected the costs and salt of Argon2id in the key file, got others; put the key file back from its "
                "backup"
            ) from None
        super().__init__(
            derive.derive(passphrase.encode("utf-8")),
            "expected the passphrase of the profile keys, got another; nothing was changed, try again",
        )


@dataclass(frozen=True)
class WrappedKey:
    """A person's data key under a key-encryption key."""

    key_id: int
    content: bytes  # nonce and ciphertext


@dataclass(frozen=True)
class Keyring:
    """The opened keys. Its `repr` shows no key.

    Args:
        store: 16 random bytes that tie keys and store together.
        active: Number of the key-encryption key that wraps from now on.
        wrapping: Key-encryption keys by number.
        person: Under which a person becomes an HMAC; never rotated, or nobody would be found again.
        audit: Seals the audit log.
    """

    store: bytes
    active: int
    wrapping: Mapping[int, bytes]
    person: bytes
    audit: bytes
    _ciphers: Mapping[int, AESGCM] = field(init=False, compare=False)
    _person: hmac.HMAC = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare the ciphers once."""
        object.__setattr__(self, "_ciphers", {number: AESGCM(key) for number, key in self.wrapping.items()})
        # A copy of a keyed HMAC skips its first block, which is most of the work for a short name.
        object.__setattr__(self, "_person", hmac.new(self.person, b"silhouette person 1\0" + self.store, "sha256"))

    def __repr__(self) -> str:
        return f"Keyring(store={self.store.hex()[:8]}, keys={sorted(self.wrapping)}, active={self.active})"

    @classmethod
    def generate(cls) -> Keyring:
        """New random keys for a new store."""
        return cls(
            store=secrets.token_bytes(16),
            active=1,
            wrapping={1: secrets.token_bytes(KEY_BYTES)},
            person=secrets.token_bytes(KEY_BYTES),
            audit=secrets.token_bytes(KEY_BYTES),
        )

    def pseudonym(self, user: str) -> bytes:
        """What the store, the log and the exclusion list call a person, 32 bytes."""
        made = self._person.copy()
        made.update(user.encode("utf-8", "surrogatepass"))
        return made.digest()

    def wrap(self, data_key: bytes, context: bytes) -> WrappedKey:
        """Encrypt a data key under the active key; random nonces allow 2^32 of them before a rotation."""
        nonce = os.urandom(NONCE_BYTES)
        return WrappedKey(self.active, nonce + self._cipher(self.active).encrypt(nonce, data_key, context))

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """The data key.

        Raises:
            IntegrityError: If the key or its context was changed, or the key-encryption key is not here.
        """
        try:
            cipher = self._cipher(wrapped.key_id)
            return cipher.decrypt(wrapped.content[:NONCE_BYTES], wrapped.content[NONCE_BYTES:], context)
        except (InvalidTag, ValueError, TypeError):
            raise IntegrityError(
                "expected a data key wrapped by a key of this store, got another or a changed one"
            ) from None

    def _cipher(self, number: int) -> AESGCM:
        if number not in self._ciphers:
            raise IntegrityError(
                f"expected the key-encryption key {number} in the key file, found none; put back the key file that "
                "belongs to this store"
            )
        return self._ciphers[number]

    def seal(self, content: bytes) -> bytes:
        """An HMAC that says a row which is not encrypted was written by this store, 32 bytes."""
        return hmac.digest(self.person, b"silhouette row 1\0" + self.store + content, "sha256")

    def with_new_key(self) -> Keyring:
        """The same with a new active key; the others stay until nothing is wrapped by them."""
        number = max(self.wrapping) + 1
        return replace(self, active=number, wrapping={**self.wrapping, number: secrets.token_bytes(KEY_BYTES)})

    def with_active_only(self) -> Keyring:
        """The same without the keys that are not active."""
        return replace(self, wrapping={self.active: self.wrapping[self.active]})


def write_keyring(path: Path, keyring: Keyring, protector: Protector) -> None:
    """Write a key file of mode 600, flushed; it appears whole or not at all.

    Raises:
        UnavailableError: If it cannot be written.
    """
    secret = {
        "active": keyring.active,
        "wrapping": {str(number): key.hex() for number, key in keyring.wrapping.items()},
        "person": keyring.person.hex(),
        "audit": keyring.audit.hex(),
    }
    document: dict[str, Any] = {
        "format": _FORMAT,
        "store": keyring.store.hex(),
        "protection": protector.kind,
        "settings": dict(protector.settings),
        "sealed": base64.b64encode(protector.seal(json.dumps(secret).encode(), _CONTEXT + keyring.store)).decode(),
    }
    document["sha256"] = _checksum(document)
    _write(path, json.dumps(document, indent=1).encode() + b"\n")


def read_keyring(
    path: Path, passphrase: Callable[[], str] | None = None, protector: Protector | None = None
) -> tuple[Keyring, Protector]:
    """Open a key file.

    Args:
        path: Of the file.
        passphrase: Asked for it if the file needs one; None takes the credential of the service manager.
        protector: Used instead of the one that the file names.

    Raises:
        IntegrityError: If there is none or it was changed.
        UsageError: If others than its owner may read it.
        UnavailableError: If the passphrase is wrong or missing, a service cannot be had, or a newer version wrote it.
    """
    document = _read(path)
    if protector is None:
        protector = _protector(path, str(document["protection"]), document["settings"], passphrase)
    try:
        store = bytes.fromhex(document["store"])
        sealed = base64.b64decode(document["sealed"], validate=True)
        secret = json.loads(protector.open(sealed, _CONTEXT + store))
        keyring = Keyring(
            store=store,
            active=int(secret["active"]),
            wrapping={int(number): bytes.fromhex(key) for number, key in secret["wrapping"].items()},
            person=bytes.fromhex(secret["person"]),
            audit=bytes.fromhex(secret["audit"]),
        )
        if keyring.active not in keyring.wrapping:
            raise ValueError("no active key")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(path) from None
    return keyring, protector


def protection_of(path: Path) -> str:
    """How a key file names its protection; opens nothing. Errors as `read_keyring`."""
    return str(_read(path)["protection"])


def _protector(path: Path, kind: str, settings: Mapping[str, Any], passphrase: Callable[[], str] | None) -> Protector:
    if kind == KeyFile.kind:
        return KeyFile()
    if kind == Passphrase.kind:
        given = credential() if passphrase is None else passphrase()
        if given is None:
            raise UnavailableError(
                f"{path}: expected a passphrase, got none; give it at the terminal or with --passphrase-file, and to "
                f"a service as the systemd credential {CREDENTIAL}"
            )
        return Passphrase(given, settings)
    try:
        return installed_protector(kind, settings)
    except UsageError:
        raise UnavailableError(
            f"{path}: expected a protection that is installed, got {kind!r}; install the package that brings it"
        ) from None


def installed_protector(name: str, settings: Mapping[str, Any]) -> Protector:
    """A protection that an installed package brings, `keyring` among them; without settings it makes a new secret.

    Raises:
        UsageError: If none of this name is installed.
        UnavailableError: If it cannot be had now.
    """
    points = importlib.metadata.entry_points(group=PROTECTORS)
    for point in points:
        if point.name == name:
            return cast(Protector, point.load()(settings))
    known = ", ".join(sorted(point.name for point in points)) or "none"
    raise UsageError(f"expected a protection out of {known}, got {name!r}; install the package that brings it")


def _read(path: Path) -> dict[str, Any]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise IntegrityError(
            f"{path}: expected the keys of the profile store, found none; put them back from where they are kept: "
            "without them nobody can read the profiles, and they have to be built anew"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: expected keys that can be read, got {error.strerror}") from None
    with os.fdopen(file, "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise UsageError(
                f"{path}: expected a file for its owner alone (mode 600), got mode {stat.S_IMODE(mode):o}; "
                f"chmod 600 {path}, and find out who read it"
            )
        content = stream.read(_LARGEST_FILE)
    try:
        document = json.loads(content)
        found = document.pop("sha256")
        whole = hmac.compare_digest(_checksum(document), found)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path) from None
    if not whole:
        raise _damaged(path)
    if document.get("format") != _FORMAT:
        raise UnavailableError(
            f"{path}: expected keys of format {_FORMAT}, got {document.get('format')!r}; update Silhouette"
        )
    return cast("dict[str, Any]", document)


def _checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_CONTEXT + json.dumps(document, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(f"{path}: expected a whole key file, got a changed one; put it back from its backup")


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode=0o600)
    except OSError as error:
        reason = "a full disk" if is_full_disk(error) else error.strerror or str(error)
        raise UnavailableError(f"{path}: expected to write the keys, got {reason}; mend that and try again") from None
