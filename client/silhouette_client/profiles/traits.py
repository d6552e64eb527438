"""Named traits of a person, each with a written definition.

A trait is a pure function of one person's own events and of public constants: no quantile, mean or norm over other
people enters, so a trait never changes because somebody else's record does. Where the record does not say, it is NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_client.profiles.definitions import TRAITS
from silhouette_shared.model.histories import HOURS, UNKNOWN, VALUE_BUCKETS, Histories
from silhouette_shared.schema import BEHAVIOURS

_SECONDS_PER_DAY = 86_400
_SECONDS_PER_HOUR = 3_600
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday
_EVENING = (18, 24)  # hours UTC, the last one excluded
_WEEKEND = 5  # Saturday, from Monday as 0
RECENCY_HALF_LIFE_DAYS = 30.0


@dataclass(frozen=True)
class _Record:
    """What all traits read: events with their owner."""

    histories: Histories
    owner: Tensor  # (E,)
    first: Tensor  # (E,) True at each person's first event
    categories: Tensor  # (V + 1, G) public
    now: int | None  # UTC seconds

    def mean(self, values: Tensor, among: Tensor | None = None) -> Tensor:
        """Mean of values (E,) over each person's events, or over those `among`; NaN where there are none."""
        weight = torch.ones_like(values) if among is None else among.to(values.dtype)
        people = len(self.histories)
        total = values.new_zeros(people).index_add(0, self.owner, values * weight)
        return total / values.new_zeros(people).index_add(0, self.owner, weight)

    def unknown(self) -> Tensor:
        """NaN for everybody."""
        return torch.full((len(self.histories),), torch.nan, dtype=torch.float64, device=self.owner.device)

    def is_behaviour(self, name: str) -> Tensor:
        """True at the events of a behaviour, shape (E,)."""
        return self.histories.behaviours == BEHAVIOURS.index(name) + 1


def trait_scores(histories: Histories, categories: Tensor, *, now: int | None = None) -> Tensor:
    """Scores of everybody, shape (U, traits) in the order of `TRAITS`, float64, NaN where the record does not say.

    Args:
        histories: The partner's people.
        categories: Of the catalogue, shape (V + 1, G), row 0 zero; G may be 0.
        now: The moment that recency counts from, in UTC seconds; None leaves recency open.
    """
    lengths = histories.lengths
    owner = torch.repeat_interleave(torch.arange(len(histories), device=lengths.device), lengths)
    first = torch.zeros_like(owner, dtype=torch.bool)
    first[histories.offsets[:-1]] = True
    record = _Record(histories, owner, first, categories.double(), now)
    return torch.stack([_SCORES[trait.name](record) for trait in TRAITS], dim=1)


def _intensity(record: _Record) -> Tensor:
    if not record.histories.has_times:
        return record.unknown()
    times, offsets = record.histories.timestamps, record.histories.offsets
    days = (times[offsets[1:] - 1] - times[offsets[:-1]]).double() / _SECONDS_PER_DAY
    return record.histories.lengths.double() / days.clamp(min=1.0)


def _recency(record: _Record) -> Tensor:
    if not record.histories.has_times or record.now is None:
        return record.unknown()
    last = record.histories.timestamps[record.histories.offsets[1:] - 1]
    days = (record.now - last).double().clamp(min=0) / _SECONDS_PER_DAY
    return torch.exp2(-days / RECENCY_HALF_LIFE_DAYS)


def _breadth(record: _Record) -> Tensor:
    groups = record.categories.shape[1]
    if groups < 2:
        return record.unknown()
    own = record.categories[record.histories.items]  # (E, G)
    total = own.new_zeros(len(record.histories), groups).index_add(0, record.owner, own)
    share = total / total.sum(1, keepdim=True)  # NaN where nothing has a category
    entropy: Tensor = torch.special.entr(share).sum(1)
    return entropy / math.log(groups)


def _loyalty(record: _Record) -> Tensor:
    items = record.histories.items
    key = record.owner * (int(items.max()) + 1 if len(items) else 1) + items
    order = key.argsort(stable=True)
    again = torch.zeros_like(record.first)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    return record.mean(again.double(), ~record.first)


def _novelty_seeking(record: _Record) -> Tensor:
    if record.categories.shape[1] == 0:
        return record.unknown()
    own = record.categories[record.histories.items]
    before = own.roll(1, 0)
    known = (own.any(1) & before.any(1)) & ~record.first
    return record.mean(((own * before).sum(1) == 0).double(), known)


def _price_level(record: _Record) -> Tensor:
    values = record.histories.values
    priced = record.is_behaviour("purchase") & (values != UNKNOWN)
    return record.mean(values.double() / VALUE_BUCKETS, priced)


def _return_rate(record: _Record) -> Tensor:
    bought = record.mean(record.is_behaviour("purchase").double())
    returned = record.mean(record.is_behaviour("return").double())
    return torch.where(bought > 0, (returned / bought).clamp(max=1.0), torch.nan)


def _evening(record: _Record) -> Tensor:
    if not record.histories.has_times:
        return record.unknown()
    hour = record.histories.timestamps // _SECONDS_PER_HOUR % HOURS
    return record.mean(((hour >= _EVENING[0]) & (hour < _EVENING[1])).double())


def _weekend(record: _Record) -> Tensor:
    if not record.histories.has_times:
        return record.unknown()
    weekday = (record.histories.timestamps // _SECONDS_PER_DAY + _EPOCH_WEEKDAY) % 7
    return record.mean((weekday >= _WEEKEND).double())


_SCORES: dict[str, Callable[[_Record], Tensor]] = {
    "intensity": _intensity,
    "recency": _recency,
    "breadth": _breadth,
    "loyalty": _loyalty,
    "novelty_seeking": _novelty_seeking,
    "price_level": _price_level,
    "return_rate": _return_rate,
    "evening_activity": _evening,
    "weekend_activity": _weekend,
}
