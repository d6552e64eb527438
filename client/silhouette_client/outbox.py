"""The log of everything that leaves a node: one line a message, written to the disk before the message is sent.

A line is JSON: its number, when, to whom, what kind of message, run, round and step where it is about one, bytes, the
SHA-256 of what was sent, and the hash of the line before, so that a line that was changed, removed or moved is found.
What is written and then lost on the way is in the log; nothing that left is missing. Nothing in it is about a person.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from flwr.app import Message
from flwr.common.serde import message_to_proto

from silhouette_shared.cli import is_full_disk
from silhouette_shared.errors import IntegrityError, UnavailableError

OUTBOX_NAME = "outbox.jsonl"
"""In a node's folder."""

_START = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One message that left.

    Args:
        number: From 1.
        time: UTC, to the second.
        to: Consortium whose coordinator it went to.
        kind: Of the message, as Flower names it; `error` for a refusal.
        run: That it is about; empty where it is about none.
        purpose: Of the release, such as training or popularity; empty where it is none.
        round: Its number, 0 where there is none.
        step: Of the secure round, empty where there is none.
        size: Bytes of the whole message.
        sha256: Of those bytes.
        previous: Hash of the line before.
    """

    number: int
    time: str
    to: str
    kind: str
    run: str
    purpose: str
    round: int
    step: str
    size: int
    sha256: str
    previous: str


class Outbox:
    """The log of one node, for one process that sends.

    Args:
        path: Of the file; made if missing.
        to: Consortium.
        clock: UTC.

    Raises:
        IntegrityError: If what is there was changed.
        UnavailableError: If it cannot be written.
    """

    def __init__(self, path: Path, to: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path, self._to, self._clock = path, to, clock
        _cut_half_written(path)
        self._number, self._last = 0, _START
        for number, line in enumerate(_lines(path), start=1):
            _checked(path, number, line, self._last)
            self._number, self._last = number, _hash(line)

    def note(self, reply: Message) -> None:
        """Write a message down; on the disk when this returns.

        Raises:
            UnavailableError: If it cannot be written; then the message must not be sent.
        """
        content = message_to_proto(reply).SerializeToString(deterministic=True)
        settings = _settings(reply)
        sent = Sent(
            number=self._number + 1,
            time=self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
            to=self._to,
            kind="error" if reply.has_error() else reply.metadata.message_type,
            run=str(settings.get("run", "")),
            purpose=str(settings.get("purpose") or settings.get("statistic") or ""),
            round=int(str(settings.get("round", 0))),
            step=str(settings.get("step", "")),
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            previous=self._last,
        )
        line = json.dumps(asdict(sent), sort_keys=True).encode("ascii")
        self._append(line)
        self._number, self._last = sent.number, _hash(line)

    def _append(self, line: bytes) -> None:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                before = os.fstat(file).st_size
                if os.write(file, line + b"\n") != len(line) + 1:
                    os.ftruncate(file, before)
                    raise OSError(28, os.strerror(28))
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            reason = "the disk is full" if is_full_disk(error) else error.strerror or str(error)
            raise UnavailableError(
                f"{self._path}: cannot be written ({reason}); mend that, nothing leaves before"
            ) from None


def read_outbox(path: Path) -> Iterator[Sent]:
    """Every message that left, oldest first, each line checked before it is given; none where there is no log.

    Raises:
        IntegrityError: Names the first line that is wrong.
    """
    last = _START
    for number, line in enumerate(_lines(path), start=1):
        yield _checked(path, number, line, last)
        last = _hash(line)


def _checked(path: Path, number: int, line: bytes, last: str) -> Sent:
    try:
        found = Sent(**json.loads(line))
        whole = (found.number, found.previous) == (number, last)
    except (ValueError, TypeError):
        whole, found = False, None
    if not whole or found is None:
        raise IntegrityError(
            f"{path}: line {number}: expected a line that continues the one before it, got a changed one, or one is "
            "missing; keep the file, and find out who wrote to it"
        )
    return found


def _lines(path: Path) -> list[bytes]:
    """The whole lines; half of one is being written at this moment, or a kill left it: its message was not sent."""
    try:
        content = path.read_bytes()
        return content[: content.rfind(b"\n") + 1].splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnavailableError(f"{path}: expected a log that can be read, got {error.strerror}") from None


def _cut_half_written(path: Path) -> None:
    """Drop what a kill left of a line: its message was never sent."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        os.truncate(path, end)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _settings(reply: Message) -> dict[str, object]:
    if reply.has_error():
        return {}
    found: dict[str, object] = {}
    for record in reply.content.config_records.values():
        found |= cast("dict[str, object]", dict(record))
    return found
