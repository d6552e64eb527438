"""People's histories as tensors: packed and ragged at rest, right-padded in a batch.

Right-padding lets the plain causal mask keep padding away from every real event, so the fused attention path is used
and the gradient at padding is exactly zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UNKNOWN = 0
"""Index of a missing behaviour, value, time or attribute; real ones count from 1."""

HOURS = 24
WEEKDAYS = 7
GAP_BUCKETS = 32
VALUE_BUCKETS = 64
_SECONDS_PER_HOUR = 3600
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday


@dataclass(frozen=True)
class Batch:
    """Histories of B people, right-padded to L events, oldest first.

    What stands at position t describes event t and events before it; `targets` and `next_behaviours` alone look ahead.
    """

    items: Tensor  # (B, L) int64, 1..V, 0 is padding
    behaviours: Tensor  # (B, L) int64, 1.., 0 unknown
    values: Tensor  # (B, L) int64 bucket, 0 unknown
    hours: Tensor  # (B, L) int64, 1..24 UTC, 0 unknown
    weekdays: Tensor  # (B, L) int64, 1..7 from Monday, 0 unknown
    gaps: Tensor  # (B, L) int64 bucket of the time since the event before, 0 unknown
    lengths: Tensor  # (B,) int64, at least 1
    attributes: Tensor  # (B, A) int64, 1.., 0 unknown
    targets: Tensor  # (B, L) int64, the item of event t + 1, 0 where nothing is to be predicted
    next_behaviours: Tensor  # (B, L) int64, the behaviour of event t + 1, 0 where unknown or nothing is to be predicted
    texts: Tensor  # (B, L, X) vector of what the person wrote, zero where nothing; X is 0 where nobody's is read

    @property
    def mask(self) -> Tensor:
        """True at real events, shape (B, L)."""
        return self.items > 0


@dataclass(frozen=True)
class Histories:
    """All events of all people of one partner, packed one person after the other, each oldest first."""

    items: Tensor  # (E,) int64, 1..V
    behaviours: Tensor  # (E,) int64
    values: Tensor  # (E,) int64 bucket
    timestamps: Tensor  # (E,) int64 seconds UTC; read only if `has_times`
    offsets: Tensor  # (U + 1,) int64
    attributes: Tensor  # (U, A) int64
    has_times: bool
    texts: Tensor | None = None  # (E, X) vector of what the person wrote, zero where nothing; None: no texts are read

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError("expected offsets from 0 to the number of events")
        if len(self.offsets) != len(self.attributes) + 1:
            raise ValueError("expected one row of attributes a person")
        if self.texts is not None and len(self.texts) != len(self.items):
            raise ValueError("expected one vector of text an event")
        # A person without events would be read as the first event of the next one.
        if len(self.attributes) and int(self.lengths.min()) < 1:
            raise ValueError("expected at least one event of every person")

    def __len__(self) -> int:
        return len(self.attributes)

    @property
    def lengths(self) -> Tensor:
        """Events of each person, shape (U,)."""
        return self.offsets.diff()

    def to(self, device: torch.device) -> "Histories":
        """The same histories on `device`, where they stay for the whole run."""
        return Histories(
            items=self.items.to(device),
            behaviours=self.behaviours.to(device),
            values=self.values.to(device),
            timestamps=self.timestamps.to(device),
            offsets=self.offsets.to(device),
            attributes=self.attributes.to(device),
            has_times=self.has_times,
            texts=None if self.texts is None else self.texts.to(device),
        )

    def of_events(self, index: Tensor, people: Tensor, lengths: Tensor) -> "Histories":
        """Histories made of chosen events.

        Args:
            index: Events in their order, one person after the other, shape (E',).
            people: Row number of each person of the result, whose attributes are taken over, shape (U',).
            lengths: How many of the events are each person's, at least 1, shape (U',).
        """
        return Histories(
            items=self.items[index],
            behaviours=self.behaviours[index],
            values=self.values[index],
            timestamps=self.timestamps[index],
            offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
            attributes=self.attributes[people],
            has_times=self.has_times,
            texts=None if self.texts is None else self.texts[index],
        )

    def of_people(self, people: Tensor) -> "Histories":
        """The histories of some people, in the order of the row numbers (U',)."""
        lengths = self.lengths[people]
        before = lengths.cumsum(0) - lengths
        start = torch.repeat_interleave(self.offsets[people] - before, lengths)
        return self.of_events(start + torch.arange(len(start), device=start.device), people, lengths)

    def without_last(self, events: int | Tensor) -> "Histories":
        """The histories with the last `events` events of everybody, or of each person (U,), left out.

        Raises:
            ValueError: If a person has no more than `events` events.
        """
        lengths = self.lengths - events
        everybody = torch.arange(len(self), device=lengths.device)
        owner = torch.repeat_interleave(everybody, self.lengths)
        position = torch.arange(len(self.items), device=lengths.device) - self.offsets[owner]
        return self.of_events(torch.nonzero(position < lengths[owner]).flatten(), everybody, lengths)

    def training_batch(self, people: Tensor, length: int, generator: torch.Generator | None) -> Batch:
        """Windows of up to `length` inputs with the next item as target.

        A person with more than `length + 1` events gives a window that ends at a random event when a `generator` is
        given, the latest one otherwise. A person with one event gives one input and nothing to predict.

        Args:
            people: Row numbers, shape (B,).
            length: Largest number of input events.
            generator: Reproducible or secure source on the device of the histories.
        """
        own = self.lengths[people]
        window = own.clamp(max=length + 1)
        spare = own - window  # events before the window if it ends at the last event
        if generator is not None:
            shift = torch.rand(len(people), generator=generator, device=own.device)
            first = (shift * (spare + 1)).long().clamp(max=spare)
        else:
            first = spare
        inputs = (window - 1).clamp(min=1)
        batch = self._gather(people, first, inputs)
        return batch

    def batch(self, people: Tensor, length: int) -> Batch:
        """The latest `length` events of each person, with nothing to predict after the last."""
        own = self.lengths[people]
        inputs = own.clamp(max=length)
        return self._gather(people, own - inputs, inputs)

    def _gather(self, people: Tensor, first: Tensor, inputs: Tensor) -> Batch:
        width = int(inputs.max()) if len(people) else 1
        column = torch.arange(width, device=people.device)
        mask = column < inputs[:, None]  # (B, L)
        start = self.offsets[people] + first
        index = torch.where(mask, start[:, None] + column, start[:, None])  # (B, L)
        following = index + 1
        has_next = mask & (following < self.offsets[people + 1][:, None])
        following = torch.where(has_next, following, index)
        unknown = torch.zeros_like(index)
        hours, weekdays, gaps = unknown, unknown, unknown
        if self.has_times:
            hour = self.timestamps[index] // _SECONDS_PER_HOUR
            hours = (hour % HOURS + 1) * mask
            weekdays = ((hour // HOURS + _EPOCH_WEEKDAY) % WEEKDAYS + 1) * mask
            has_previous = mask & (index > self.offsets[people][:, None])
            gap = self.timestamps[index] - self.timestamps[torch.where(has_previous, index - 1, index)]
            bucket = torch.log2(gap.clamp(min=0).double() + 1).long() + 1
            gaps = bucket.clamp(max=GAP_BUCKETS) * has_previous
        return Batch(
            items=self.items[index] * mask,
            behaviours=self.behaviours[index] * mask,
            values=self.values[index] * mask,
            hours=hours,
            weekdays=weekdays,
            gaps=gaps,
            lengths=inputs,
            attributes=self.attributes[people],
            targets=self.items[following] * has_next,
            next_behaviours=self.behaviours[following] * has_next,
            texts=self._texts(index, mask),
        )

    def _texts(self, index: Tensor, mask: Tensor) -> Tensor:
        if self.texts is None:
            return torch.zeros((*index.shape, 0), device=index.device)
        return self.texts[index] * mask[..., None]


def value_buckets(values: Tensor) -> Tensor:
    """Sort values into logarithmic buckets, four to a doubling.

    A missing value (NaN) and a negative one become `UNKNOWN`. Ratings of one to five keep a bucket each.

    Args:
        values: Any unit, shape (E,).

    >>> value_buckets(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, float("nan")])).tolist()
    [5, 7, 9, 10, 11, 0]
    """
    known = torch.isfinite(values) & (values >= 0)
    scaled = 4 * torch.log2(1 + torch.where(known, values, torch.zeros_like(values)).double())
    return (scaled.long() + 1).clamp(max=VALUE_BUCKETS) * known
