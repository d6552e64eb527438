"""The profile keys under a secret of the operating system's keyring: macOS Keychain, Secret Service, Windows' locker.

A node that starts by itself needs no passphrase then, and a copy of its disk opens nothing. The library is an optional
extra: `pip install 'silhouette-client[keyring]'`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from silhouette_client.profiles.keys import KEY_BYTES, CipherProtector
from silhouette_shared.errors import IntegrityError, UnavailableError

if TYPE_CHECKING:
    from types import ModuleType

SERVICE = "silhouette profile keys"
"""What the keyring lists the secret under."""


class SystemKeyring(CipherProtector):
    """Seals with a random key that the operating system's keyring keeps. A `keys.Protector`.

    Args:
        settings: `entry`, the name of the secret, as the key file has it; a new secret is made if it is empty.

    Raises:
        UnavailableError: If there is no keyring, it is locked, or it lacks the secret.
        IntegrityError: If the settings or the secret are none of ours.
    """

    kind = "keyring"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        library = _library()
        entry = str(settings.get("entry") or secrets.token_hex(8))
        self.settings: Mapping[str, Any] = {"entry": entry}
        try:
            if not settings.get("entry"):
                library.set_password(SERVICE, entry, secrets.token_hex(KEY_BYTES))
            found = library.get_password(SERVICE, entry)
        except library.errors.KeyringError as error:
            raise UnavailableError(
                f"expected the operating system's keyring to answer, got {type(error).__name__}; unlock it and try "
                "again, or use a passphrase"
            ) from None
        if found is None:
            raise UnavailableError(
                f"expected the secret {entry} of {SERVICE!r} in the keyring, found none; use the account that made the "
                "keys, or put back a key file with another protection"
            )
        try:
            super().__init__(
                bytes.fromhex(found),
                "expected the secret that sealed the profile keys, the keyring has another; restore it there, nothing "
                "was changed",
            )
        except ValueError:
            raise IntegrityError(
                f"expected {KEY_BYTES} bytes in hex as the secret {entry} in the keyring, got others; restore it"
            ) from None


def _library() -> ModuleType:
    try:
        import keyring
        import keyring.errors
    except ModuleNotFoundError:
        raise UnavailableError(
            "expected the library keyring, found none; install it with `pip install 'silhouette-client[keyring]'`, or "
            "use a passphrase"
        ) from None
    return keyring
