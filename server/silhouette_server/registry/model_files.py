"""Models and their cards as files: `models/<run>/<round>.safetensors` and `<round>.<edition>.card.json` beside it.

A file is written whole and flushed before the registry names it, and never changed once it is named.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from silhouette_shared.cards.checks import check_model
from silhouette_shared.cards.documents import Card
from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.files import flush_folder, write_atomically

_NAMED = re.compile(r"(\d{6})(?:\.safetensors|\.\d+\.card\.json)")


@dataclass(frozen=True)
class ModelFiles:
    """The files of all models of one registry."""

    folder: Path

    def model_path(self, run: str, number: int) -> Path:
        """Where the model of a round lies."""
        return self.folder / run / f"{number:06d}.safetensors"

    def card_path(self, run: str, number: int, edition: int) -> Path:
        """Where an edition of its card lies."""
        return self.folder / run / f"{number:06d}.{edition}.card.json"

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of a round whose row comes after; UnavailableError if the disk does not take it."""
        try:
            for folder in (self.folder, path.parent):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)
                    flush_folder(folder.parent)
            write_atomically(path, content)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            remedy = "free some and resume the run" if full else "mend that and resume the run"
            raise UnavailableError(
                f"{path}: cannot be written: {error.strerror or error}; the round is not committed: {remedy}"
            ) from error

    def read(self, path: Path, expected: str) -> bytes:
        """A file whose SHA-256 the registry names.

        Raises:
            IntegrityError: If it is missing, cannot be read, or is another.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"{path}: expected a file that the registry names, got {error.strerror or error}; put it back"
            ) from None
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise IntegrityError(
                f"{path}: expected the SHA-256 {expected[:16]}, got {found[:16]}; it was damaged: put it back"
            )
        return content

    def remove(self, run: str, number: int) -> None:
        """Remove what an interrupted commitment left of a round that is void."""
        for path in self.folder.glob(f"{run}/{number:06d}.*"):
            path.unlink(missing_ok=True)

    def rounds(self) -> Iterator[tuple[str, int, Path]]:
        """Run and round of every file that looks like one of a model."""
        for path in sorted(self.folder.glob("*/*")):
            if found := _NAMED.fullmatch(path.name):
                yield path.parent.name, int(found[1]), path


@dataclass(frozen=True)
class Model:
    """A committed round's model: its card, checked, and where its bytes lie."""

    card: Card
    signed_card: bytes
    path: Path

    @property
    def reference(self) -> str:
        """How a person names it: run:round."""
        return self.card.reference

    def read(self) -> bytes:
        """The bytes, checked against the card.

        Raises:
            IntegrityError: If they are others, or cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"{self.path}: expected the model of {self.reference}, got {error.strerror or error}; put it back"
            ) from None
        check_model(self.card, content)
        return content
