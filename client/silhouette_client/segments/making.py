"""Segments from a rule, a preset or by clustering. Calculation only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_client.segments.people import PeopleTable
from silhouette_client.segments.rules import parse_rule
from silhouette_client.segments.segment import Segment, check_least, check_name
from silhouette_shared.errors import UsageError
from silhouette_shared.schema import BEHAVIOURS

UNUSUAL = "unusual-behaviour"
_UNUSUAL_SHARE = 0.05
_TELLING = 0.02
_SEED = 0  # trees and centres are drawn from it: the same people give the same segments

PRESETS: Mapping[str, tuple[str, ...]] = {
    "high-value": ("rfm.monetary >= 4 and rfm.frequency >= 4", "rfm.frequency >= 5"),
    "at-risk": ("rfm.frequency >= 4 and rfm.recency <= 2",),
    UNUSUAL: (),
}
"""Rules by name; of several the first one that the people here can be asked. The last one is no rule: see `unusual`."""


@dataclass(frozen=True)
class Cluster:
    """People that clustering put together, and what they have more of than everybody: tags, else kinds of events."""

    rows: npt.NDArray[np.int64]
    more: tuple[str, ...]


def by_rule(table: PeopleTable, text: str) -> npt.NDArray[np.int64]:
    """Rows for which a rule holds; RuleError if it is none."""
    rule = parse_rule(text, table.names)
    return np.flatnonzero([rule(facts) for facts in table.facts])


def by_preset(table: PeopleTable, name: str) -> tuple[str, npt.NDArray[np.int64]]:
    """What a preset chose, in words, and the rows.

    Raises:
        UsageError: If there is no such preset, or the people here do not have what it asks.
    """
    if name not in PRESETS:
        raise UsageError(
            f"expected a preset out of {', '.join(PRESETS)}, got {name[:60]!r}; choose one, or give a rule"
        )
    if name == UNUSUAL:
        return f"the {_UNUSUAL_SHARE:.0%} that an isolation forest finds easiest to set apart", unusual(table)
    names = table.names
    for text in PRESETS[name]:
        if all(word in names for word in ("rfm.monetary", "rfm.frequency", "rfm.recency") if word in text):
            return text, by_rule(table, text)
    raise UsageError(
        f"expected people with times of events and, for spending, purchases, as {name} asks for, found none with them; "
        "build the profiles from events that have times, or give a rule"
    )


def unusual(table: PeopleTable) -> npt.NDArray[np.int64]:
    """Rows of the people whose behaviour is set apart soonest by random cuts of traits, counts and weights.

    Isolation forest, Liu, Ting and Zhou 2008, https://doi.org/10.1109/ICDM.2008.17. It says that somebody is unlike
    the others, not that anything is wrong with them.

    Raises:
        UsageError: If profiles have nothing to go by.
    """
    from sklearn.ensemble import IsolationForest

    numbers = behaviour_of(table)
    forest = IsolationForest(n_estimators=200, random_state=_SEED).fit(numbers)
    most = max(1, round(_UNUSUAL_SHARE * len(table)))
    return np.sort(np.argsort(forest.score_samples(numbers), kind="stable")[:most])


def behaviour_of(table: PeopleTable) -> npt.NDArray[np.float64]:
    """Traits, weights and logarithms of counts as a matrix, (U, F); what is unknown is the mean of the others."""
    names = sorted(
        name
        for name in table.names
        if name == "events" or name.startswith(("count.", "trait.", "weight.")) or name in ("spent", "days_active")
    )
    if not names:
        raise UsageError("expected profiles with facts or weights, found none; build the profiles again")
    numbers = table.numbers(names)
    counted = [name == "events" or name.startswith("count.") or name in ("spent", "days_active") for name in names]
    numbers[:, counted] = np.log1p(np.maximum(numbers[:, counted], 0.0))
    known = ~np.isnan(numbers)
    means = np.where(known, numbers, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known, numbers, means)


def by_clusters(table: PeopleTable, count: int) -> list[Cluster]:
    """K-means on the unit vectors, the largest cluster first; told apart by tags, without tags by behaviour.

    Raises:
        UsageError: If there are fewer people than clusters, or no vectors.
    """
    from sklearn.cluster import KMeans

    rows = np.flatnonzero(np.abs(table.vectors).sum(1) > 0)
    if not 2 <= count <= len(rows):
        raise UsageError(f"expected 2 to {len(rows)} clusters, as many as there are people with vectors, got {count}")
    labels = KMeans(count, random_state=_SEED, n_init=3).fit(table.vectors[rows]).labels_
    groups = sorted((rows[labels == label] for label in range(count)), key=lambda group: -len(group))
    return [Cluster(group, telling_tags(table, group) or telling_behaviours(table, group)) for group in groups]


def telling_tags(table: PeopleTable, rows: Sequence[int] | npt.NDArray[np.int64], most: int = 3) -> tuple[str, ...]:
    """Tags that some people have more often than everybody, by how much more often."""
    everybody, own = Counter[str](), Counter[str]()
    for facts in table.facts:
        everybody.update(_tags(facts))
    for row in rows:
        own.update(_tags(table.facts[int(row)]))
    excess = {
        tag: count / max(1, len(rows)) - everybody[tag] / len(table)
        for tag, count in own.items()
        if count / max(1, len(rows)) > everybody[tag] / len(table)
    }
    return tuple(sorted(excess, key=lambda tag: (-excess[tag], tag))[:most])


def telling_behaviours(table: PeopleTable, rows: npt.NDArray[np.int64], most: int = 2) -> tuple[str, ...]:
    """Kinds of events that make up more of some people's records than of everybody's, with both shares.

    Differences of less than `_TELLING` say nothing and are left out.
    """
    counts = np.nan_to_num(table.numbers([f"count.{name}" for name in BEHAVIOURS]))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1.0)
    own, everybody = shares[rows].mean(0), shares.mean(0)
    order = np.argsort(everybody - own, kind="stable")[:most]
    return tuple(
        f"{BEHAVIOURS[kind]} ({own[kind]:.0%} of their events, {everybody[kind]:.0%} of all)"
        for kind in order
        if own[kind] - everybody[kind] >= _TELLING
    )


def _tags(facts: Mapping[str, object]) -> tuple[str, ...]:
    found = facts.get("tags")
    return found if isinstance(found, tuple) else ()


def segment_of(
    table: PeopleTable,
    rows: npt.NDArray[np.int64],
    *,
    name: str,
    made_by: str,
    rule: str,
    least: int,
    now: int,
) -> Segment:
    """The segment of some rows; errors as `Segment`."""
    check_name(name)
    check_least(least)
    centre = table.vectors[rows].mean(0) if len(rows) else table.vectors[:0].sum(0)
    return Segment(
        name=name,
        made_by=made_by,
        rule=rule,
        model=table.model,
        created=now,
        least=least,
        centre=centre.astype(np.float32),
        members=tuple(sorted(table.people[row] for row in rows)),
    )
