"""The signed records of a run's secure rounds, as files: written by the coordinator, read by whoever checks.

A folder holds `about.json` (the run and the public keys it was played under), one `NNNNNN.transcript` a completed round
and, for what is released by itself (statistics, evaluations), `NNNNNN.sum` with the words of its sum. Nothing in it is
secret: what one partner sent cannot be read from it, but who took part, when, and where the ledgers stood can.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.files import write_atomically
from silhouette_shared.secagg import AbortError, Checked, Pins, check_ledgers, verify_chain
from silhouette_shared.secagg.masking import WORD, Words, vector_digest
from silhouette_shared.wire.agreement import pins_document, pins_of

ABOUT = "about.json"


@dataclass(frozen=True)
class Records:
    """What a folder of records says of itself."""

    run: str
    pins: Pins
    transcripts: tuple[bytes, ...]  # oldest first


class RecordFolder:
    """The records of one run.

    Args:
        path: The folder; made when the first record is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def transcript(self, count: int) -> Path:
        """File of the `count`-th completed round, from 1."""
        return self.path / f"{count:06d}.transcript"

    def sum(self, count: int) -> Path:
        """File of its sum, if that was kept."""
        return self.path / f"{count:06d}.sum"

    def begin(self, run: str, pins: Pins) -> None:
        """Say whose records these are, once.

        Raises:
            IntegrityError: If they are another run's, or were made under other keys.
        """
        document = {"run": run, "pins": pins_document(pins)}
        path = self.path / ABOUT
        if not path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(document, indent=1).encode())
        elif _read_json(path) != document:
            raise IntegrityError(f"{path}: expected the records of run {run} under its keys, got others; restore it")

    def add(self, count: int, transcript: bytes, total: Words | None) -> None:
        """Keep a round, on the disk when this returns. The transcript comes last: without it there is no round."""
        if total is not None:
            write_atomically(self.sum(count), total.tobytes())
        write_atomically(self.transcript(count), transcript)

    def transcripts(self) -> list[bytes]:
        """All transcripts there, oldest first.

        Raises:
            IntegrityError: If one is missing among them.
        """
        found = sorted(self.path.glob("*.transcript"))
        for count, path in enumerate(found, start=1):
            if path != self.transcript(count):
                raise IntegrityError(
                    f"{self.transcript(count)}: expected the transcript of a secure round, found none; restore it"
                )
        return [path.read_bytes() for path in found]

    def read(self) -> Records:
        """Everything there, as it says itself; nothing of it is checked yet.

        Raises:
            UsageError: If these are no records.
            IntegrityError: If they are damaged.
        """
        path = self.path / ABOUT
        if not path.is_file():
            raise UsageError(f"{self.path}: expected records of secure rounds with an {ABOUT}, found none")
        document = _read_json(path)
        try:
            return Records(str(document["run"]), pins_of(document["pins"]), tuple(self.transcripts()))
        except (KeyError, TypeError, ValueError, UsageError):
            raise IntegrityError(
                f"{path}: expected a run and its public keys, got something else; restore it"
            ) from None

    def verified(self, transcripts: Sequence[bytes], pins: Pins, run: str) -> tuple[Checked, ...]:
        """The chain of transcripts, every signature checked.

        Raises:
            IntegrityError: Naming the first file that breaks it.
        """
        try:
            return verify_chain(transcripts, pins, run=run)
        except AbortError as error:
            count = next(
                count for count in range(1, len(transcripts) + 1) if not _verifies(pins, transcripts[:count], run)
            )
            raise IntegrityError(
                f"{self.transcript(count)}: expected the record of a secure round of this run: {error}; restore it"
            ) from error

    def verify(self, pins: Pins | None = None, *, ledgers: bool = True) -> tuple[Checked, ...]:
        """Check all records without trusting who made them: chain, signatures, ledgers, and every sum that was kept.

        Args:
            pins: Whom the caller trusts to be who; None believes the records' own word for the keys.
            ledgers: Whether one that went back is an error. Those of a simulation end with its process, so one that was
                resumed goes back.

        Raises:
            UsageError: If these are no records.
            IntegrityError: Naming what does not hold.
        """
        records = self.read()
        if pins is not None and pins != records.pins:
            raise IntegrityError(
                f"{self.path / ABOUT}: expected rounds under the trusted keys, got others; find out who made them"
            )
        checked = self.verified(records.transcripts, records.pins, records.run)
        if ledgers:
            try:
                check_ledgers(checked)
            except AbortError as error:
                raise IntegrityError(f"{self.path}: {error}") from error
        for count, one in enumerate(checked, start=1):
            path = self.sum(count)
            if path.exists() and vector_digest(_words(path)) != one.sum_digest:
                raise IntegrityError(f"{path}: expected the sum that its transcript names, got another; restore it")
        return checked


def _words(path: Path) -> Words:
    data = path.read_bytes()
    if len(data) % WORD.itemsize:
        raise IntegrityError(f"{path}: expected whole words of 4 bytes, got {len(data)} bytes; restore it")
    return np.frombuffer(data, WORD)


def _verifies(pins: Pins, transcripts: Sequence[bytes], run: str) -> bool:
    try:
        verify_chain(transcripts, pins, run=run)
    except AbortError:
        return False
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise IntegrityError(f"{path}: expected a JSON object, got something else; restore it")
    return document
