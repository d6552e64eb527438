"""The ledger of privacy spent: its entries, their bytes, the hash chain and its verification. No I/O.

A ledger is a list of records. A record is the body of an entry, as bytes that only this entry has, and an HMAC over it
under the node's ledger key. Each body holds the SHA-256 of the body before it, so whoever knows the newest hash (the
`Head`) knows the whole list, and an entry that was changed, removed, added or moved is found without trusting the disk.
Without the head a list that was cut at its end still fits together: that is what a witness is for.

`Chain` is the only judge: the store writes what it sealed and reads through it, and `verify` is a chain from the start.
A hash tells its reader nothing: the opening holds 128 random bits, which no peer that sees heads knows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias, cast

from silhouette_shared.errors import IntegrityError, RefusedError, SilhouetteError, UsageError
from silhouette_shared.privacy.mechanism import SampledGaussian

KEY_BYTES = 32
FORMAT = 1

_BODY = b"silhouette ledger body 1\0"
_SEAL = b"silhouette ledger seal 1\0"
_NOTHING = bytes(32)  # what the first entry says came before it
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LARGEST_ROUND = 2**53  # what every reader of JSON keeps exactly
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PURPOSE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Reason(StrEnum):
    """Why a ledger refuses; a coordinator reads it to know how to go on."""

    already_charged = "already_charged"  # go on with a new round: it has new sampling, new noise and a new charge
    run_limit = "run_limit"
    year_limit = "year_limit"
    delta = "delta"
    other_plan = "other_plan"
    receipt = "receipt"


class BudgetRefusedError(RefusedError):
    """The ledger says no, with the reason as a type. Exit code 3.

    Args:
        message: One line: what was expected, what came, what to do next.
        reason: The same for a program.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        """Keep the reason beside the message."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first entry of every ledger.

    Args:
        node: Whose ledger it is; under this name a witness keeps its head.
        ledger: 128 random bits in hex, so that two ledgers never have an entry in common.
    """

    node: str
    ledger: str

    def __post_init__(self) -> None:
        """Refuse a name that could not name a file."""
        check_node(self.node)
        _require(bool(re.fullmatch(r"[0-9a-f]{32}", self.ledger)), "ledger", "32 hex digits", self.ledger)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a partner allows to be spent on each of its people.

    Args:
        epsilon_per_run: Over all charges of one run, at `delta`; None allows any.
        epsilon_per_year: Over all charges of 365 days, at `delta`; None allows any.
        delta: Between 0 and 1, below one over the number of people.

    Raises:
        UsageError: If a value is outside its range.
    """

    epsilon_per_run: float | None
    epsilon_per_year: float | None
    delta: float

    def __post_init__(self) -> None:
        """Refuse a limit that means nothing."""
        for name in ("epsilon_per_run", "epsilon_per_year"):
            value = getattr(self, name)
            _require(
                value is None or (_is_number(value) and 0 < value < math.inf),
                name,
                "a positive, finite number, or none",
                value,
            )
        _require(_is_number(self.delta) and 0 < self.delta < 1, "delta", "a number between 0 and 1", self.delta)


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """A witness that knew nothing was shown this ledger on purpose."""

    witness: str

    def __post_init__(self) -> None:
        """Refuse a name that could not be printed."""
        _check_text("witness", self.witness)


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What one release costs, written down before its noise is drawn.

    Run, round and purpose name the release. No two charges share them, so a release is charged once and a round that
    failed is never repeated under its old number.

    Args:
        run: Name of the training run, as the coordinator's messages carry it; 1 to 200 characters.
        round: Number of the round in its run, 0 or more.
        purpose: What is released: `training`, `statistics`, `metrics`, `audit`, `tuning`, …; lower-case letters,
            digits and hyphens.
        mechanism: The mechanism that will draw the noise of this release, with the steps of this release alone.
        delta: At which the plan states its epsilon.
        plan_digest: SHA-256 of the plan, in hex.
        model_digest: SHA-256 of the model that the round starts from, in hex; empty where there is none.

    Raises:
        UsageError: If a value is outside its range.
    """

    run: str
    round: int
    purpose: str
    mechanism: SampledGaussian
    delta: float
    plan_digest: str
    model_digest: str

    def __post_init__(self) -> None:
        """Refuse what could not be written down exactly."""
        _check_text("run", self.run)
        whole = isinstance(self.round, int) and not isinstance(self.round, bool)
        _require(whole and 0 <= self.round <= _LARGEST_ROUND, "round", "a whole number from 0 to 2^53", self.round)
        _require(
            isinstance(self.purpose, str) and bool(_PURPOSE.fullmatch(self.purpose)),
            "purpose",
            "1 to 64 lower-case letters, digits and hyphens",
            self.purpose,
        )
        _require(isinstance(self.mechanism, SampledGaussian), "mechanism", "a SampledGaussian", self.mechanism)
        _require(_is_number(self.delta) and 0 < self.delta < 1, "delta", "a number between 0 and 1", self.delta)
        for name in ("plan_digest", "model_digest"):
            value = getattr(self, name)
            empty = name == "model_digest" and value == ""
            _require(
                empty or (isinstance(value, str) and bool(_DIGEST.fullmatch(value))),
                name,
                "64 hex digits",
                value,
            )

    @property
    def key(self) -> tuple[str, int, str]:
        """Run, round and purpose, which no other charge of a ledger has."""
        return (self.run, self.round, self.purpose)


Content: TypeAlias = Opening | Limits | Introduction | Charge

_KINDS: Mapping[str, type[Content]] = {
    "opening": Opening,
    "limits": Limits,
    "introduction": Introduction,
    "charge": Charge,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Head:
    """The newest entry of a ledger, which stands for all before it.

    Args:
        sequence: Its number, from 1.
        hash: SHA-256 of its body, 32 bytes.
    """

    sequence: int
    hash: bytes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry.

    Args:
        sequence: From 1, without gaps.
        time: In UTC, whole seconds, never before the entry before it.
        previous: Hash of the entry before it, 32 bytes; zeros in the first.
        content: What it says.
    """

    sequence: int
    time: datetime
    previous: bytes
    content: Content

    @property
    def kind(self) -> str:
        """opening, limits, introduction or charge."""
        return _NAMES[type(self.content)]


@dataclass(frozen=True)
class Record:
    """An entry as it is stored.

    Args:
        body: `encode` of the entry.
        seal: HMAC-SHA-256 of the body under the ledger key, 32 bytes.
    """

    body: bytes
    seal: bytes

    @property
    def hash(self) -> bytes:
        """What the next entry and the head hold of this one, 32 bytes."""
        return hashlib.sha256(_BODY + self.body).digest()


def encode(entry: Entry) -> bytes:
    """The bytes of an entry: JSON with sorted keys, no spaces, in UTF-8.

    Two entries that differ have different bytes: every field is named and has one way to be written, 1 and 1.0 differ,
    a float is written with as many digits as tell it from its neighbours, and text that is no valid Unicode is refused
    (two halves of a surrogate pair would read back as one character).

    Raises:
        UsageError: If a text is no valid Unicode or a number not finite.

    >>> opening = Opening(node="north", ledger="00" * 16)
    >>> first = Entry(sequence=1, time=datetime(2026, 1, 2, tzinfo=UTC), previous=bytes(32), content=opening)
    >>> encode(first)[:60]
    b'{"format":1,"kind":"opening","opening":{"ledger":"0000000000'
    """
    return _canonical(
        {
            "format": FORMAT,
            "sequence": entry.sequence,
            "time": entry.time.astimezone(UTC).strftime(_TIME),
            "previous": entry.previous.hex(),
            "kind": entry.kind,
            entry.kind: asdict(entry.content),
        }
    )


def decode(body: bytes) -> Entry:
    """The entry of these bytes, and of no others: what `encode` would write differently is refused.

    Raises:
        IntegrityError: If these are not the bytes of an entry.
        UsageError: If a newer version of Silhouette wrote them.
    """
    try:
        document = json.loads(body)
        canonical = _canonical(document)
    except (ValueError, RecursionError, UsageError) as error:
        raise IntegrityError(f"expected the bytes of an entry, got something else ({error})") from None
    if canonical != body or not isinstance(document, dict):
        raise IntegrityError("expected the bytes of an entry, got others with the same meaning")
    if document.get("format") != FORMAT:
        raise UsageError(f"expected an entry of format {FORMAT}, got {document.get('format')!r}; update Silhouette")
    try:
        return _entry(document)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SilhouetteError) as error:
        if isinstance(error, UsageError) and str(error).endswith("update Silhouette"):
            raise
        raise IntegrityError(f"expected an entry, got one that cannot be ({error})") from None


def _entry(document: Mapping[str, object]) -> Entry:
    kind = cast(str, document["kind"])
    content_type = _KINDS[kind]
    if set(document) != {"format", "sequence", "time", "previous", "kind", kind}:
        raise ValueError(f"keys {sorted(document)}")
    sequence, previous = document["sequence"], bytes.fromhex(cast(str, document["previous"]))
    if not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 1 or len(previous) != 32:
        raise ValueError("sequence or previous hash out of range")
    values = dict(cast(Mapping[str, object], document[kind]))
    if content_type is Charge:
        mechanism = cast(Mapping[str, object], values["mechanism"])
        unknown = set(mechanism) - {field.name for field in fields(SampledGaussian)}
        if unknown:
            raise UsageError(f"expected a mechanism known here, got one with {sorted(unknown)}; update Silhouette")
        values["mechanism"] = SampledGaussian(**mechanism)  # type: ignore[arg-type] # checked by the class
    time = cast(str, document["time"])
    moment = datetime.strptime(time, _TIME).replace(tzinfo=UTC)
    if moment.strftime(_TIME) != time:
        raise ValueError("a time that is written differently")
    content = content_type(**cast(dict[str, Any], values))  # the classes check their values
    return Entry(sequence=sequence, time=moment, previous=previous, content=content)


def _canonical(document: object) -> bytes:
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except ValueError as error:  # a lone surrogate, NaN or an infinity
        raise UsageError(f"expected text and numbers that can be written down exactly, got others ({error})") from None


class Chain:
    """The entries of one ledger, each checked against the key and the one before it.

    Args:
        key: The ledger key, 32 bytes.

    Raises:
        ValueError: If the key has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        self._key = key
        self._entries: list[Entry] = []
        self._hashes: list[bytes] = []
        self._keys: set[tuple[str, int, str]] = set()
        self._limits: Limits | None = None

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries, oldest first."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def head(self) -> Head | None:
        """The newest entry; None of an empty ledger."""
        return Head(len(self._hashes), self._hashes[-1]) if self._hashes else None

    @property
    def node(self) -> str | None:
        """Whose ledger it is; None of an empty one."""
        return cast(Opening, self._entries[0].content).node if self._entries else None

    @property
    def limits(self) -> Limits | None:
        """The limits that hold now; None before the first."""
        return self._limits

    def holds(self, charge: Charge) -> bool:
        """Whether a charge of the same run, round and purpose is there."""
        return charge.key in self._keys

    def next_time(self, now: datetime) -> datetime:
        """The time of an entry that is made now: a clock that was set back does not go back here."""
        now = now.astimezone(UTC).replace(microsecond=0)
        return max(now, self._entries[-1].time) if self._entries else now

    def seal(self, content: Content, now: datetime) -> Record:
        """The record that `content` would be as the next entry; it is not added.

        Raises:
            UsageError: As `encode`.
        """
        head = self.head
        entry = Entry(
            sequence=1 if head is None else head.sequence + 1,
            time=self.next_time(now),
            previous=_NOTHING if head is None else head.hash,
            content=content,
        )
        body = encode(entry)
        return Record(body, _seal(self._key, body))

    def add(self, record: Record) -> Entry:
        """Check the next record and add it.

        Raises:
            IntegrityError: If it is not the next entry of this ledger; it names the entry. Nothing is added.
            UsageError: If a newer version of Silhouette wrote it.
        """
        sequence = len(self._entries) + 1
        if not hmac.compare_digest(_seal(self._key, record.body), record.seal):
            raise _broken(sequence, "expected an entry sealed with this ledger's key, got one that is not")
        try:
            entry = decode(record.body)
            self._check(entry, sequence)
        except IntegrityError as error:
            raise _broken(sequence, str(error)) from None
        self._entries.append(entry)
        self._hashes.append(record.hash)
        if isinstance(entry.content, Charge):
            self._keys.add(entry.content.key)
        elif isinstance(entry.content, Limits):
            self._limits = entry.content
        return entry

    def _check(self, entry: Entry, sequence: int) -> None:
        if entry.sequence != sequence:
            raise IntegrityError(f"expected the entry {sequence}, got the entry {entry.sequence}")
        if entry.previous != (self._hashes[-1] if self._hashes else _NOTHING):
            raise IntegrityError("expected an entry that continues the one before it, got one that continues another")
        if (sequence == 1) != isinstance(entry.content, Opening):
            raise IntegrityError(f"expected an opening first and only there, got {entry.kind}")
        if self._entries and entry.time < self._entries[-1].time:
            raise IntegrityError("expected a time not before the entry before it, got an earlier one")
        if isinstance(entry.content, Charge):
            if self._limits is None:
                raise IntegrityError("expected limits before the first charge, got none")
            if entry.content.key in self._keys:
                raise IntegrityError("expected a release charged once, got a second charge of the same")

    def check_head(self, head: Head, holder: str) -> None:
        """Make sure that this ledger still holds what somebody else saw of it.

        Args:
            head: What was seen.
            holder: Who saw it, for the message.

        Raises:
            IntegrityError: If this is an older copy, or another ledger.
        """
        if head.sequence > len(self._hashes):
            raise IntegrityError(
                f"expected a ledger with the entry {head.sequence} that {holder} has seen, got one that ends at "
                f"{len(self._hashes)}: an older copy was put back; {_WAY_OUT}"
            )
        if head.sequence < 1 or not hmac.compare_digest(self._hashes[head.sequence - 1], head.hash):
            raise IntegrityError(
                f"expected the entry {head.sequence} that {holder} has seen, got another: this ledger and the one that "
                f"was shown have parted; {_WAY_OUT}"
            )


_WAY_OUT = (
    "stop the node, keep these files, and put back the newest copy of the ledger and its key; without it count the "
    "budget of its people as spent"
)


def verify(records: Iterable[Record], key: bytes, head: Head | None = None) -> tuple[Entry, ...]:
    """Check a whole ledger.

    Args:
        records: All of it, oldest first.
        key: The ledger key, 32 bytes.
        head: What a witness has seen; without it a ledger cut at its end passes.

    Returns:
        The entries.

    Raises:
        IntegrityError: Names the first entry that is wrong and says what to do.
        UsageError: If a newer version of Silhouette wrote an entry.
    """
    chain = Chain(key)
    for record in records:
        chain.add(record)
    if head is not None:
        chain.check_head(head, "the witness")
    return tuple(chain.entries)


def check_node(node: str) -> None:
    """Refuse a node's name that could not name a file.

    Raises:
        UsageError: If it is not 1 to 64 letters, digits, dots, hyphens and underscores, beginning with one of the
            first two.
    """
    _require(
        isinstance(node, str) and bool(_NODE.fullmatch(node)),
        "node",
        "1 to 64 letters, digits, dots, hyphens or underscores, beginning with a letter or a digit",
        node,
    )


def _seal(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _SEAL + body, "sha256")


def _broken(sequence: int, message: str) -> IntegrityError:
    return IntegrityError(f"ledger entry {sequence}: {message}; {_WAY_OUT}")


def _check_text(name: str, value: object) -> None:
    _require(isinstance(value, str) and 1 <= len(value) <= 200, name, "1 to 200 characters", value)
    _require(cast(str, value).isprintable(), name, "characters that can be printed", value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise UsageError(f"expected {name} to be {expected}, got {got!r}; change it")
