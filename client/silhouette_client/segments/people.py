"""The people of a store as rules, clusters and lookalikes see them: facts by name, and vectors of one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.segments.rules import Value
from silhouette_shared.errors import UsageError
from silhouette_shared.schema import BEHAVIOURS

FIELDS = ("vector", "weights", "traits", "tags", "facts", "items")
"""What of a record is read."""

_SECONDS_PER_DAY = 86_400
_HALF_LIFE_DAYS = 30.0  # as `traits.RECENCY_HALF_LIFE_DAYS`; imported, torch would come along
_QUINTILES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class PeopleTable:
    """Everybody with a profile by the model that most have one of.

    Attributes:
        people: HMACs, U of them.
        facts: What rules ask for, of each.
        vectors: Unit length, (U, H), float32; a zero row where the vector is past its time.
        items: What each has touched, by the partner's ids.
        model: Which made the profiles.
        others: People left out because another model made theirs.
    """

    people: tuple[bytes, ...]
    facts: tuple[Mapping[str, Value], ...]
    vectors: npt.NDArray[np.float32]
    items: tuple[tuple[str, ...], ...]
    model: str
    others: int

    def __len__(self) -> int:
        """How many people."""
        return len(self.people)

    @property
    def names(self) -> frozenset[str]:
        """Every name that somebody's facts have."""
        return frozenset(name for one in self.facts for name in one)

    def numbers(self, names: Iterable[str]) -> npt.NDArray[np.float64]:
        """Facts that are numbers as a matrix, (U, names); NaN where unknown."""
        chosen = list(names)
        found = np.full((len(self), len(chosen)), np.nan)
        for row, facts in enumerate(self.facts):
            for column, name in enumerate(chosen):
                value = facts.get(name)
                if isinstance(value, int | float):
                    found[row, column] = value
        return found


def table_of(records: Iterable[tuple[bytes, ProfileRecord]], now: int) -> PeopleTable:
    """The table of what a store gives.

    Args:
        records: People and their records.
        now: UTC seconds, from which days are counted.

    Raises:
        UsageError: If nobody has a profile.
    """
    everybody = list(records)
    if not everybody:
        raise UsageError("expected people with profiles, found none; `silhouette profile build` makes them")
    model, count = Counter(record.model for _, record in everybody).most_common(1)[0]
    own = [(person, record) for person, record in everybody if record.model == model]
    width = max((len(record.vector) for _, record in own if record.vector is not None), default=0)
    vectors = np.zeros((len(own), width), np.float32)
    for row, (_, record) in enumerate(own):
        if record.vector is not None:
            vectors[row] = record.vector / max(float(np.linalg.norm(record.vector)), 1e-12)
    facts = [_facts(record, now) for _, record in own]
    _add_rfm(facts)
    return PeopleTable(
        people=tuple(person for person, _ in own),
        facts=tuple(facts),
        vectors=vectors,
        items=tuple(record.items or () for _, record in own),
        model=model,
        others=len(everybody) - count,
    )


def _facts(record: ProfileRecord, now: int) -> dict[str, Value]:
    stored = record.facts or {}
    found: dict[str, Value] = {name: value for name, value in stored.items() if not name.endswith("_event")}
    if "events" in stored:  # of what is not counted there was none
        found |= {f"count.{name}": stored.get(f"count.{name}", 0.0) for name in BEHAVIOURS}
    if "last_event" in stored:
        days = max(0.0, (now - stored["last_event"]) / _SECONDS_PER_DAY)
        found["recency_days"] = days
        found["trait.recency"] = 2.0 ** (-days / _HALF_LIFE_DAYS)
        found["days_active"] = (stored["last_event"] - stored["first_event"]) / _SECONDS_PER_DAY
    found |= {f"weight.{name}": share for name, share in (record.weights or {}).items()}
    for name, guess in (record.traits or {}).items():
        found[f"guess.{name}"], found[f"sure.{name}"] = guess.value, guess.confidence
    if record.tags is not None:
        found["tags"] = record.tags
    if record.items is not None:
        found["items"] = record.items
    return found


def _add_rfm(facts: list[dict[str, Value]]) -> None:
    """Fifths of the people, 5 the best: of recency, of how often (purchases, else events), of what was spent."""
    bought = any(one.get("count.purchase") for one in facts)
    priced = any("spent" in one for one in facts)  # purchases may come without prices
    columns = {
        "rfm.recency": [_negative(one.get("recency_days")) for one in facts],
        "rfm.frequency": [_number(one.get("count.purchase" if bought else "events")) for one in facts],
        "rfm.monetary": [_number(one.get("spent", 0.0 if bought and "events" in one else None)) for one in facts],
    }
    if not (bought and priced):
        del columns["rfm.monetary"]
    for name, values in columns.items():
        known = np.array([value for value in values if value is not None])
        if not len(known):
            continue
        edges = np.quantile(known, _QUINTILES)
        for one, value in zip(facts, values, strict=True):
            if value is not None:
                one[name] = float(1 + np.searchsorted(edges, value, side="left"))


def _number(value: Value | None) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _negative(value: Value | None) -> float | None:
    found = _number(value)
    return None if found is None else -found
