"""What a profile's tags, facts and evidence are made of: a person's own events, the catalogue, and attention. No I/O.

Everything here is about one person at a time: no figure of one changes with the record of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_client.profiles.build import ProfileBatch
from silhouette_client.profiles.definitions import TRAITS
from silhouette_client.profiles.explain import attention_over_events
from silhouette_client.profiles.record import (
    Evidence,
    ProfileRecord,
    RecentEvent,
    Recommended,
    TagEvidence,
    Trait,
)
from silhouette_client.profiles.tags import chance_of_fewer
from silhouette_client.profiles.traits import trait_scores
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import UNKNOWN, Histories
from silhouette_shared.schema import BEHAVIOURS

RECENT_EVENTS = 10
_SUPPORTING_EVENTS = 5
_MOST_ITEMS = 500
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Words:
    """The public words for what an encoder numbers.

    Args:
        items: Ids, in the catalogue's order.
        titles: Of the items; the id stands where one is empty.
        categories: In the order of the category matrix.
        attributes: Classes of each declared attribute, in the encoder's order.
    """

    items: tuple[str, ...]
    titles: tuple[str, ...]
    categories: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]]

    def title(self, number: int) -> str:
        """Of the item with a number of the catalogue, from 1."""
        return self.titles[number - 1] or self.items[number - 1]


def facts_of(histories: Histories, categories: Tensor) -> list[dict[str, float]]:
    """Counts, times and trait scores of everybody, in the order of the histories; what is unknown is left out.

    `events`; `count.<behaviour>` for each that occurs; `last_event` and `first_event` in UTC seconds, where there are
    times; `spent`, the sum of what purchases cost, from buckets 19 % wide; `trait.<name>` for all traits but
    `recency`, which follows from `last_event` when it is asked for. `records_of` adds `share.<category>`.

    Args:
        histories: The partner's people.
        categories: Of the catalogue, shape (V + 1, G), row 0 zero.
    """
    people = len(histories)
    owner = torch.repeat_interleave(torch.arange(people, device=histories.items.device), histories.lengths)
    counts = torch.zeros(people, len(BEHAVIOURS) + 1, dtype=torch.int64, device=owner.device)
    counts.index_put_((owner, histories.behaviours), torch.ones_like(owner), accumulate=True)
    bought = histories.behaviours == BEHAVIOURS.index("purchase") + 1
    priced = bought & (histories.values != UNKNOWN)
    # The middle of a bucket on its logarithmic scale; `value_buckets` has the edges.
    value = torch.exp2((histories.values.double() - 0.5) / 4) - 1
    spent = torch.zeros(people, dtype=torch.float64, device=owner.device).index_add(0, owner, value * priced)
    any_priced = torch.zeros(people, dtype=torch.bool, device=owner.device).index_put(
        (owner[priced],), torch.ones((), dtype=torch.bool, device=owner.device)
    )
    first, last = histories.offsets[:-1], histories.offsets[1:] - 1
    scores = trait_scores(histories, categories).tolist()
    lists = (
        histories.lengths.tolist(),
        counts.tolist(),
        histories.timestamps[first].tolist(),
        histories.timestamps[last].tolist(),
        spent.tolist(),
        any_priced.tolist(),
        scores,
    )
    return [_facts(*one, has_times=histories.has_times) for one in zip(*lists, strict=True)]


def _facts(
    events: int,
    counts: Sequence[int],
    first: int,
    last: int,
    spent: float,
    priced: bool,
    scores: Sequence[float],
    *,
    has_times: bool,
) -> dict[str, float]:
    found: dict[str, float] = {"events": events}
    found |= {f"count.{name}": count for name, count in zip(BEHAVIOURS, counts[1:], strict=True) if count}
    if has_times:
        found |= {"first_event": first, "last_event": last}
    if priced:
        found["spent"] = spent
    found |= {
        f"trait.{trait.name}": score
        for trait, score in zip(TRAITS, scores, strict=True)
        if trait.name != "recency" and not math.isnan(score)
    }
    return found


@torch.no_grad()
def records_of(
    encoder: ProfileEncoder, histories: Histories, batch: ProfileBatch, words: Words, model: str
) -> list[ProfileRecord]:
    """The records of a batch of profiles, in its order.

    Args:
        encoder: Which made the batch.
        histories: Which it was made from.
        batch: As `build_profiles` gives it.
        words: Of the encoder's catalogue.
        model: Name of the model.
    """
    own = histories.of_people(batch.people)
    categories = encoder.get_buffer("categories")
    window = own.batch(torch.arange(len(own), device=own.items.device), encoder.history_length)
    attention = attention_over_events(encoder, window).tolist()
    facts = facts_of(own, categories)
    scores = batch.scores.gather(1, batch.recommended).tolist()
    guesses = [(part.max(1).values.tolist(), part.argmax(1).tolist()) for part in batch.attributes]
    vectors = batch.vectors.float().cpu().numpy()
    weights = batch.weights.tolist()
    tags, listed = batch.tags.tolist(), batch.recommended.tolist()
    public = (categories > 0).sum(0).double().div(max(1, len(categories) - 1)).tolist()
    columns = _Columns.of(own)
    shares = _shares(own, categories, words)
    found = []
    for row in range(len(own)):
        start, end = columns.offsets[row], columns.offsets[row + 1]
        kept = [tag for tag in tags[row] if tag >= 0]
        found.append(
            ProfileRecord(
                model=model,
                vector=vectors[row].copy(),
                weights=dict(zip(encoder.dimension_names, weights[row], strict=True)),
                traits={
                    name: Trait(classes[guess[row]], chance[row])
                    for (name, classes), (chance, guess) in zip(words.attributes.items(), guesses, strict=True)
                },
                tags=tuple(words.categories[tag] for tag in kept),
                recommendations=tuple(
                    Recommended(words.items[item - 1], words.title(item), score)
                    for item, score in zip(listed[row], scores[row], strict=True)
                    if item  # 0 where the person has seen nearly everything
                ),
                facts=facts[row] | shares[row],
                items=_touched(columns.items[start:end], words),
                evidence=Evidence(
                    tags=tuple(_tag(tag, own.items[start:end], categories, public[tag], words) for tag in kept),
                    events=_recent(columns, start, end, attention[row], encoder.history_length, words),
                ),
            )
        )
    return found


@dataclass(frozen=True)
class _Columns:
    """Histories as lists: one by one they are read quicker than tensors."""

    items: list[int]
    behaviours: list[int]
    timestamps: list[int]
    offsets: list[int]

    @classmethod
    def of(cls, histories: Histories) -> _Columns:
        times = histories.timestamps if histories.has_times else torch.zeros_like(histories.timestamps)
        return cls(histories.items.tolist(), histories.behaviours.tolist(), times.tolist(), histories.offsets.tolist())


def _shares(histories: Histories, categories: Tensor, words: Words) -> list[dict[str, float]]:
    """Of everybody, the part of their events' categories that each one is; those they have none of are left out."""
    owner = torch.repeat_interleave(torch.arange(len(histories), device=histories.items.device), histories.lengths)
    total = categories.new_zeros(len(histories), categories.shape[1])
    total.index_add_(0, owner, categories[histories.items])
    total = total / total.sum(1, keepdim=True).clamp(min=1)
    found: list[dict[str, float]] = [{} for _ in range(len(histories))]
    for row, column in torch.nonzero(total).tolist():
        found[row][f"share.{words.categories[column]}"] = float(total[row, column])
    return found


def _touched(items: Sequence[int], words: Words) -> tuple[str, ...]:
    return tuple(words.items[item - 1] for item in list(dict.fromkeys(reversed(items)))[:_MOST_ITEMS])


def _tag(tag: int, items: Tensor, categories: Tensor, expected: float, words: Words) -> TagEvidence:
    own = categories[items, tag] > 0
    where = torch.nonzero(own).flatten()
    newest = items[where.flip(0)[:_SUPPORTING_EVENTS]].tolist()
    return TagEvidence(
        tag=words.categories[tag],
        share=len(where) / len(items),
        expected=expected,
        confidence=chance_of_fewer(len(where), len(items), expected),
        items=tuple(words.title(item) for item in newest),
    )


def _recent(
    columns: _Columns, start: int, end: int, attention: Sequence[float], window: int, words: Words
) -> tuple[RecentEvent, ...]:
    seen = max(start, end - window)  # where the encoder begins to read
    return tuple(
        RecentEvent(
            title=words.title(columns.items[place]),
            behaviour="" if columns.behaviours[place] == UNKNOWN else BEHAVIOURS[columns.behaviours[place] - 1],
            timestamp=columns.timestamps[place],
            attention=attention[place - seen],
        )
        for place in range(end - 1, max(seen, end - RECENT_EVENTS) - 1, -1)
    )


def recency_days(facts: dict[str, float], now: int) -> float | None:
    """Days since a person's last event; None where there are no times."""
    last = facts.get("last_event")
    return None if last is None else max(0.0, (now - last) / _SECONDS_PER_DAY)
