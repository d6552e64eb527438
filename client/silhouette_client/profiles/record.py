"""What the store keeps about one person, and its bytes. No I/O.

A record has ten fields, each encrypted by itself, because roles and retention are by field: who may see tags opens
only the tags, and a vector can go before the tags do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from silhouette_shared.errors import IntegrityError, UsageError

Vector = npt.NDArray[np.float32]

FIELDS = ("vector", "weights", "traits", "tags", "recommendations", "facts", "evidence", "user", "items", "tastes")
"""Names of the fields, in the order of their bits in a row of the store; new ones are added at the end."""

_VECTORS = ("vector", "tastes")
_MOST_RECOMMENDATIONS = 1000

_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)  # made once: half of the time


@dataclass(frozen=True)
class Trait:
    """A guess of the model about a person: the likeliest class and its probability."""

    value: str
    confidence: float


@dataclass(frozen=True)
class Recommended:
    """An item that a person has not seen, with the model's score (no unit; larger is better)."""

    item: str
    title: str
    score: float


@dataclass(frozen=True)
class TagEvidence:
    """Why a person has a tag: their share of events with it against the catalogue's, and items that say so."""

    tag: str
    share: float
    expected: float  # of the catalogue's items
    confidence: float  # that such a share is no chance; see `tags.tags_of`
    items: tuple[str, ...]  # titles of the latest events with it, newest first


@dataclass(frozen=True)
class RecentEvent:
    """One of the latest events of a person, and how much of the profile's last state rests on it."""

    title: str
    behaviour: str  # empty where it is unknown
    timestamp: int  # UTC seconds, 0 where the source has no times
    attention: float  # share of all events the encoder reads


@dataclass(frozen=True)
class Evidence:
    """What tags and profile rest on, as titles; built with the profile, so that showing it reads no history."""

    tags: tuple[TagEvidence, ...]
    events: tuple[RecentEvent, ...]  # newest first


@dataclass(frozen=True, kw_only=True)
class ProfileRecord:
    """The profile of one person; a field that is None is not there (never stored, or past its retention).

    Args:
        model: Which model made it, 1 to 200 characters; a record has one.
        vector: Profile vector, (H,), float32.
        weights: How much each dimension says about this person; they add up to about 1.
        traits: By attribute.
        tags: Strongest first.
        recommendations: Best first, at most 1,000.
        facts: Counts, times and trait scores by name (`details.facts_of`); what rules of segments read.
        evidence: What tags and profile rest on.
        user: The partner's identifier of the person, so that the members of a segment can be named; sealed as the rest.
        items: What the person touched, the latest first, each once, at most 500: what lookalikes compare.
        tastes: What they chose and how they valued it, as the partner learnt to tell it (`tastes`), (K,), float32.

    Raises:
        UsageError: If a value cannot be stored exactly.
    """

    model: str
    vector: Vector | None = None
    weights: Mapping[str, float] | None = None
    traits: Mapping[str, Trait] | None = None
    tags: tuple[str, ...] | None = None
    recommendations: tuple[Recommended, ...] | None = field(default=None)
    facts: Mapping[str, float] | None = None
    evidence: Evidence | None = None
    user: str | None = None
    items: tuple[str, ...] | None = None
    tastes: Vector | None = None

    def __post_init__(self) -> None:
        """Refuse what would not come back as it went in; the message names no value."""
        _require(1 <= len(self.model) <= 200 and self.model.isprintable(), "a model name of 1 to 200 characters")
        for vector in (self.vector, self.tastes):
            if vector is not None:
                whole = vector.ndim == 1 and vector.dtype == np.float32 and bool(np.isfinite(vector).all())
                _require(whole, "a finite float32 vector with one axis")
        numbers = [*(self.weights or {}).values()]
        numbers += [trait.confidence for trait in (self.traits or {}).values()]
        numbers += [one.score for one in self.recommendations or ()]
        numbers += [*(self.facts or {}).values()]
        if self.evidence is not None:
            numbers += [x for tag in self.evidence.tags for x in (tag.share, tag.expected, tag.confidence)]
            numbers += [event.attention for event in self.evidence.events]
        _require(all(map(math.isfinite, numbers)), "finite weights, confidences, scores and facts")
        _require(len(self.recommendations or ()) <= _MOST_RECOMMENDATIONS, "at most 1,000 recommendations")

    @property
    def present(self) -> tuple[str, ...]:
        """The fields that are there, in the order of `FIELDS`."""
        return tuple(name for name in FIELDS if getattr(self, name) is not None)


def encode_field(record: ProfileRecord, name: str) -> bytes:
    """The bytes of one field that is there: vector and tastes as little-endian float32, the others as JSON.

    >>> encode_field(ProfileRecord(model="m", tags=("Drama",)), "tags")
    b'["Drama"]'
    """
    if name in _VECTORS:
        return cast(Vector, getattr(record, name)).astype("<f4").tobytes()
    value = getattr(record, name)
    if name == "traits":
        value = {key: [trait.value, trait.confidence] for key, trait in value.items()}
    elif name == "recommendations":
        value = [[one.item, one.title, one.score] for one in value]
    elif name == "evidence":
        value = [
            [[one.tag, one.share, one.expected, one.confidence, list(one.items)] for one in value.tags],
            [[one.title, one.behaviour, one.timestamp, one.attention] for one in value.events],
        ]
    return _JSON.encode(value).encode("utf-8")


def decode_field(name: str, content: bytes) -> Any:
    """The value of one field.

    Raises:
        IntegrityError: If these are not the bytes of that field; they were authentic, so another version wrote them.
    """
    try:
        if name in _VECTORS:
            return np.frombuffer(content, dtype="<f4").astype(np.float32, copy=False)
        value = json.loads(content)
        if name in ("weights", "facts"):
            return {str(key): float(number) for key, number in value.items()}
        if name == "traits":
            return {key: Trait(str(guess), float(confidence)) for key, (guess, confidence) in value.items()}
        if name in ("tags", "items"):
            return tuple(str(one) for one in value)
        if name == "evidence":
            return _evidence(value)
        if name == "user":
            return str(value)
        return tuple(Recommended(str(item), str(title), float(score)) for item, title, score in value)
    except (ValueError, TypeError, AttributeError):
        raise IntegrityError(
            f"expected the bytes of the field {name}, got others; the profile was written by another version: build "
            "the profiles again"
        ) from None


def _evidence(value: Any) -> Evidence:
    tags, events = value
    return Evidence(
        tags=tuple(
            TagEvidence(str(tag), float(share), float(expected), float(confidence), tuple(map(str, items)))
            for tag, share, expected, confidence, items in tags
        ),
        events=tuple(
            RecentEvent(str(title), str(behaviour), int(timestamp), float(attention))
            for title, behaviour, timestamp, attention in events
        ),
    )


def _require(condition: bool, expected: str) -> None:
    if not condition:
        raise UsageError(f"expected {expected} in a profile, got something else; build the profile again")
