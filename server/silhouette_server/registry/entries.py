"""What may be written into a registry, and its one encoding.

An entry holds the hash of the one before it, so that a signature on the newest vouches for all.
"""

from __future__ import annotations

import hashlib
from dataclasses import field
from typing import Literal, TypeAlias

from pydantic.dataclasses import dataclass

from silhouette_shared.cards.documents import Parent
from silhouette_shared.enrolment.refusals import MalformedError
from silhouette_shared.enrolment.signed import STRICT, build, canonical, content_of, parse

NOTHING = "0" * 64
"""In the first entry, in place of the hash of the one before."""

_LABEL = b"silhouette registry entry\0"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Submitted:
    """Somebody asked for a run."""

    run: str
    plan: str  # TOML
    plan_digest: str
    rounds: int
    offer: str = ""  # SHA-256 of the signed offer; empty before there is one
    catalogue: str = ""  # digest
    roster: int = 0  # version
    partners: dict[str, int] = field(default_factory=dict)  # declared people, by name
    parent: Parent | None = None  # the model it starts from


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Moved:
    """A run came into another state."""

    run: str
    state: Literal["submitted", "running", "stopping", "stopped", "failed", "completed"]
    reason: str = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Begun:
    """A round's number is used up."""

    run: str
    round: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Committed:
    """A round gave a model, whose file and card are on the disk."""

    run: str
    round: int
    card: str  # SHA-256 of the signed card
    model: str  # SHA-256 of the model's file
    seconds: float = 0.0
    sent: int = 0  # bytes to all partners
    received: int = 0  # bytes from all partners
    survivors: tuple[str, ...] = ()  # whose updates are in the sum
    metrics: dict[str, float] = field(default_factory=dict)
    epsilon: float | None = None  # spent by the run so far
    total_epsilon: float | None = None  # and by the runs that it started from


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Voided:
    """A round gave nothing, and its number is not used again."""

    run: str
    round: int
    reason: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Amended:
    """A model has a new edition of its card."""

    run: str
    round: int
    edition: int
    card: str  # SHA-256 of the signed card


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Named:
    """The alias stands for another card; the signed document that nodes get is part of it."""

    run: str
    round: int
    number: int
    reason: Literal["promotion", "rollback"]
    document: str
    verdict: str = ""  # why it was allowed


Content: TypeAlias = Submitted | Moved | Begun | Committed | Voided | Amended | Named

_KINDS: dict[str, type[Content]] = {
    "submitted": Submitted,
    "moved": Moved,
    "begun": Begun,
    "committed": Committed,
    "voided": Voided,
    "amended": Amended,
    "named": Named,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Frame:
    sequence: int
    time: int
    previous: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry in its place."""

    sequence: int  # from 1
    time: int  # UTC seconds; never before the entry before
    previous: str  # hash of the entry before
    content: Content


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    return canonical(
        {
            "sequence": entry.sequence,
            "time": entry.time,
            "previous": entry.previous,
            "kind": _NAMES[type(entry.content)],
            "content": content_of(entry.content),
        }
    )


def decode(body: bytes) -> Entry:
    """The entry of these bytes, and of no others.

    Raises:
        MalformedError: If they are none.
    """
    found = parse(body, "entry")
    content = found.pop("content", None)
    frame = build(_Frame, found, "entry")
    if frame.kind not in _KINDS:
        raise MalformedError("entry: expected a kind that is known here, got another; update Silhouette")
    return Entry(
        sequence=frame.sequence,
        time=frame.time,
        previous=frame.previous,
        content=build(_KINDS[frame.kind], content, "entry"),
    )


def entry_hash(body: bytes) -> str:
    """What the next entry holds of this one."""
    return hashlib.sha256(_LABEL + body).hexdigest()
