"""A model in a folder that needs nothing else to be checked: card, bytes, and the alias if it is promoted.

model.safetensors   the bytes
card.json           signed by the coordinator
alias.json          signed; only in the folder of the promoted model
coordinator.pub     the public signing key, as hexadecimal digits: a convenience, believed by nobody who has a kit
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from silhouette_server.registry.model_files import Model
from silhouette_shared.cards.checks import accept_promoted, check_model, check_privacy
from silhouette_shared.cards.documents import Alias, Card, card_digest
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.files import flush_folder, write_atomically

MODEL, CARD, ALIAS, KEY = "model.safetensors", "card.json", "alias.json", "coordinator.pub"


@dataclass(frozen=True)
class Checked:
    """What is in a folder that passed."""

    card: Card
    alias: Alias | None


def write_export(folder: Path, model: Model, promoted: tuple[Alias, bytes] | None, public: bytes) -> None:
    """Write a model into a new folder, which appears whole.

    Args:
        folder: Must not exist yet.
        model: Is checked before anything is written.
        promoted: The alias and its document; left out unless it stands for this very card.
        public: The coordinator's signing key.

    Raises:
        UsageError: If there is something of this name.
        IntegrityError: If the model is damaged.
        UnavailableError: If the disk fails or is full.
    """
    if folder.exists():
        raise UsageError(f"{folder}: expected no such folder yet, found one; take another name")
    files = {MODEL: model.read(), CARD: model.signed_card, KEY: public.hex().encode() + b"\n"}
    if promoted is not None and promoted[0].card == card_digest(model.signed_card):
        files[ALIAS] = promoted[1]
    draft = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, content in files.items():
            write_atomically(draft / name, content)
        draft.rename(folder)
        flush_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise UnavailableError(
            f"{folder}: cannot be written: {error.strerror or error}; mend that or free some room and export again"
        ) from error


def verify_export(folder: Path, key: str | None) -> Checked:
    """Check a folder with nothing but its files and a key.

    Args:
        folder: As `write_export` makes it.
        key: 64 hexadecimal digits, or a file that holds them; None takes the one in the folder.

    Raises:
        UsageError: If a file is missing, or the key is none.
        IntegrityError: If anything is not as it was signed.
    """
    public = _key(folder, key)
    card_bytes, content = _read(folder / CARD), _read(folder / MODEL)
    if (folder / ALIAS).exists():
        accepted = accept_promoted(_read(folder / ALIAS), card_bytes, content, [public])
        check_privacy(accepted.card)
        return Checked(accepted.card, accepted.alias)
    card = Card.decode(card_bytes, [public])
    check_model(card, content)
    check_privacy(card)
    return Checked(card, None)


def _key(folder: Path, key: str | None) -> bytes:
    text = _read(folder / KEY).decode("ascii", "replace") if key is None else key
    if key is not None and not _is_key(key) and Path(key).is_file():
        text = _read(Path(key)).decode("ascii", "replace")
    if not _is_key(text):
        raise UsageError(
            "--key: expected the coordinator's public key as 64 hexadecimal digits, or a file that holds them, got "
            "something else; it is `coordinator` in a partner's kit.json"
        )
    return bytes.fromhex(text.strip())


def _is_key(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text.strip()) is not None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"{path}: expected a file of an exported model, found none; export it again with `silhouette model export`"
        ) from None
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror or error}; get it again") from None
