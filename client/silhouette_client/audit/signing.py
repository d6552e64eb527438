"""The auditor's key, an Ed25519 private key in PEM, and the file of a signed result."""

import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from silhouette_shared.cli import is_full_disk
from silhouette_shared.errors import UnavailableError, UsageError
from silhouette_shared.files import write_atomically

KEY_NAME = "audit-key.pem"
"""In the home folder: made by the first audit there."""


def signing_key(path: Path, *, make: bool) -> Ed25519PrivateKey:
    """The key in a file.

    Args:
        path: Of a PEM file that its owner alone may read.
        make: Write a new key if there is none.

    Raises:
        UsageError: If there is none, it is no Ed25519 key, or others may read it.
        UnavailableError: If it cannot be written.
    """
    if make and not path.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(path, pem, 0o600)
    try:
        mode, pem = path.stat().st_mode, path.read_bytes()
        found = load_pem_private_key(pem, password=None)
    except FileNotFoundError:
        raise UsageError(f"{path}: expected the auditor's key, found none; leave --key out to have one made") from None
    except OSError as error:
        raise UsageError(f"{path}: expected a key that can be read, got {error.strerror}") from None
    except (ValueError, TypeError):
        raise UsageError(f"{path}: expected an Ed25519 key in PEM, without a password, got something else") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"{path}: expected an Ed25519 key, got one of another kind; make one with openssl genpkey")
    if mode & 0o077:
        raise UsageError(
            f"{path}: expected a key for its owner alone (mode 600), got mode {stat.S_IMODE(mode):o}; "
            f"chmod 600 {path}, and find out who read it"
        )
    return found


def write_result(path: Path, text: str) -> None:
    """Write a signed result; the file appears whole or not at all.

    Raises:
        UnavailableError: If it cannot be written.
    """
    _write(path, text.encode(), 0o644)


def read_result(path: Path) -> str:
    """The text of a signed result.

    Raises:
        UsageError: If there is none, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: expected an audit result, found none; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected an audit result that can be read, got {error}") from None


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode=mode)
    except OSError as error:
        reason = "a full disk" if is_full_disk(error) else error.strerror or str(error)
        raise UnavailableError(f"{path}: expected to write it, got {reason}; mend that and start again") from None
