"""The passphrase of a process that nobody watches: a credential that the service manager hands over at its start.

systemd decrypts it with a key of this machine (`LoadCredentialEncrypted`, a TPM where there is one) into a folder that
only the service's user can read and that never reaches a disk; a container's secrets lie in a folder just as well. The
environment names the folder and holds no secret.
"""

from __future__ import annotations

import os
from pathlib import Path

from silhouette_shared.errors import UnavailableError

FOLDER_VARIABLE = "CREDENTIALS_DIRECTORY"
"""As systemd sets it."""

CREDENTIAL = "silhouette-profile-keys"
"""Name of the file in that folder; its first line is the passphrase."""

_LONGEST = 1 << 16


def credential() -> str | None:
    """The passphrase that was handed over; None where none was.

    Raises:
        UnavailableError: If it is there and cannot be read.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    path = Path(folder) / CREDENTIAL
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_LONGEST).split("\n")[0]
    except FileNotFoundError:
        return None  # the service manager hands over other credentials
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(
            f"{path}: expected a passphrase as the first line, got {type(error).__name__}; make the credential again"
        ) from None
