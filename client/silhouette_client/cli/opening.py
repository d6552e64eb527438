"""What the commands around profiles share: their options, who is asking, and the opened vault."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.errors import UsageError

if TYPE_CHECKING:
    from silhouette_client.profiles.vault import Vault

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Read the passphrase of the keys from this file's first line; else it is asked for at the terminal.",
        show_default=False,
    ),
]
UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The partner's own identifier of a person.")]


def who() -> str:
    """The user at this terminal, as the audit log names them."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return "cli:" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]


def passphrase(file: Path | None, *, confirm: bool = False) -> str:
    """The passphrase from a file, a credential of the service manager, or the terminal, in this order.

    Never from the command line, nor from the environment itself. A new one, which is confirmed, is none of a
    credential: whoever chooses it types it or has it in a file.

    Raises:
        UsageError: If the file cannot be read.
        UnavailableError: If the credential is there and cannot be read.
    """
    if file is None:
        from silhouette_client.profiles.credential import credential

        given = None if confirm else credential()
        if given is not None:
            return given
        return str(
            typer.prompt("passphrase of the profile keys", hide_input=True, confirmation_prompt=confirm, err=True)
        )
    try:
        return file.read_text(encoding="utf-8").split("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file}: expected a file with a passphrase, got {type(error).__name__}; give another"
        ) from None


def open_vault(home: Path, file: Path | None) -> Vault:
    """The vault of a node's home; errors as `Vault.open`."""
    from silhouette_client.profiles.vault import Vault

    return Vault.open(home, passphrase=lambda: passphrase(file))
