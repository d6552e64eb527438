"""The dimensions of a person, each one token for every moment of a history.

A dimension is a function of one person's own events up to a moment and of public constants. No statistic over
other people enters: the gradient of one person must not change when somebody else's record does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silhouette_shared.config import DimensionName
from silhouette_shared.model.histories import GAP_BUCKETS, HOURS, UNKNOWN, VALUE_BUCKETS, WEEKDAYS, Batch
from silhouette_shared.schema import BEHAVIOURS

BROWSING = ("view", "click", "search")
PURCHASES = ("cart", "purchase", "return")
FEEDBACK = ("favourite", "rate", "review", "share")
"""Behaviours of the three dimensions that look at some of a person's events."""

QUANTITY_BUCKETS = 16
"""Of the number of purchases so far: one for each doubling, the last for all above."""

RECENT_HALF_LIFE_EVENTS = 10.0
"""After so many events a category or content vector counts half in the recent mean."""


@dataclass(frozen=True)
class Moments:
    """What all dimensions share about a batch."""

    batch: Batch
    states: Tensor  # (B, L, H) states of the sequence encoder
    running: Tensor  # (B, L, L) or (L, L), row t takes the mean over events up to t
    recent: Tensor  # (L, L), row t takes the mean over events up to t, late ones counting more
    categories: Tensor  # (V + 1, G) public, row 0 is zero
    content: Tensor  # (V + 1, C) public, row 0 is zero


def running_mean_weights(length: int, half_life: float | None, like: Tensor) -> Tensor:
    """Lower-triangular weights whose row t averages events 0..t, shape (length, length).

    Args:
        length: Number of events.
        half_life: Events after which the weight halves; None weighs all alike.
        like: Gives dtype and device.
    """
    position = torch.arange(length, device=like.device, dtype=like.dtype)
    age = (position[:, None] - position[None, :]).clamp(min=0)
    weights = torch.ones_like(age) if half_life is None else torch.exp2(-age / half_life)
    weights = weights.tril()
    return weights / weights.sum(1, keepdim=True)


class Activity(nn.Module):
    """Everything a person did: the mean state of the events so far."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        return self.project(moments.running @ moments.states), moments.batch.mask


class Rhythm(nn.Module):
    """When a person acts: hours, weekdays and gaps so far; absent where times are unknown."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(HOURS + WEEKDAYS + GAP_BUCKETS + 3, width)
        self.project = nn.Linear(width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        batch = moments.batch
        dtype = moments.states.dtype
        parts = [
            F.one_hot(batch.hours, HOURS + 1),
            F.one_hot(batch.weekdays, WEEKDAYS + 1),
            F.one_hot(batch.gaps, GAP_BUCKETS + 1),
        ]
        histograms = moments.running @ torch.cat(parts, dim=-1).to(dtype)
        return self.project(F.gelu(self.expand(histograms))), batch.hours != UNKNOWN


class Demographics(nn.Module):
    """Attributes that a person declared and that are not hidden from this pass."""

    def __init__(self, width: int, classes: tuple[int, ...]) -> None:
        super().__init__()
        starts = [0]
        for count in classes:
            starts.append(starts[-1] + count + 1)
        self.register_buffer("starts", torch.tensor(starts[:-1]), persistent=False)
        self.table = nn.Embedding(starts[-1], width)
        self.project = nn.Linear(width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        attributes, (people, length) = moments.batch.attributes, moments.batch.items.shape
        starts = self.get_buffer("starts")
        token = self.project(self.table(attributes + starts).mean(1))  # (B, H)
        present = (attributes != UNKNOWN).any(1)
        return token[:, None].expand(-1, length, -1), present[:, None].expand(people, length)


class Interests(nn.Module):
    """Categories of what a person touched, over the whole history and of late."""

    def __init__(self, width: int, categories: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * categories, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        return _pooled(moments, moments.categories, self.project)


class Content(nn.Module):
    """What the items are: their public content vectors, over the whole history and of late."""

    def __init__(self, width: int, content_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * content_width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        return _pooled(moments, moments.content, self.project)


def _pooled(moments: Moments, table: Tensor, project: nn.Module) -> tuple[Tensor, Tensor]:
    features = table[moments.batch.items]  # (B, L, F)
    pooled = torch.cat([moments.running @ features, moments.recent @ features], dim=-1)
    return project(pooled), (pooled != 0).any(-1)


class SomeBehaviours(nn.Module):
    """What a person did in some behaviours only: the mean state of those events so far, absent before the first.

    With texts, the mean vector of what was written at those events stands beside it.
    """

    def __init__(self, width: int, behaviours: tuple[str, ...], text_width: int = 0) -> None:
        super().__init__()
        self.text_width = text_width
        self.register_buffer("members", _members(behaviours), persistent=False)
        self.project = nn.Linear(width + text_width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        own = self.get_buffer("members")[moments.batch.behaviours]  # (B, L)
        mean, count = _mean_so_far(moments.states, own)
        if self.text_width:
            texts = moments.batch.texts.to(mean)
            if texts.shape[-1] == 0:  # these histories bring none
                texts = mean.new_zeros((*own.shape, self.text_width))
            written = own & (texts != 0).any(-1)
            mean = torch.cat([mean, _mean_so_far(texts, written)[0]], dim=-1)
        return self.project(mean), count > 0


class Spending(nn.Module):
    """What a person spends: values of the purchases so far, how many they are and what share was returned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("bought", _members(("purchase",)), persistent=False)
        self.register_buffer("returned", _members(("return",)), persistent=False)
        self.expand = nn.Linear(VALUE_BUCKETS + 1 + QUANTITY_BUCKETS + 1, width)
        self.project = nn.Linear(width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        batch, dtype = moments.batch, moments.states.dtype
        bought = self.get_buffer("bought")[batch.behaviours]  # (B, L)
        values, count = _mean_so_far(F.one_hot(batch.values, VALUE_BUCKETS + 1).to(dtype), bought)
        doublings = torch.log2(count.clamp(min=1)).long().clamp(max=QUANTITY_BUCKETS - 1)
        quantity = F.one_hot(doublings, QUANTITY_BUCKETS).to(dtype)
        returned = self.get_buffer("returned")[batch.behaviours].to(dtype).cumsum(1)
        share = (returned / count.clamp(min=1).to(dtype)).clamp(max=1)
        features = torch.cat([values, quantity, share[..., None]], dim=-1)
        return self.project(F.gelu(self.expand(features))), count > 0


def dimension(
    name: DimensionName,
    width: int,
    *,
    attribute_classes: tuple[int, ...],
    categories: int,
    content_width: int,
    text_width: int,
) -> nn.Module | None:
    """The module of a dimension, or None if the public facts say that no data can ever fill it.

    Args:
        name: Which.
        width: Of the encoder, H.
        attribute_classes: Classes of each declared attribute.
        categories: Of the catalogue, G.
        content_width: Of the catalogue's vectors, C.
        text_width: Of the vectors of what people write, X; 0 reads none.
    """
    made: dict[DimensionName, nn.Module | None] = {
        "activity": Activity(width),
        "browsing": SomeBehaviours(width, BROWSING),
        "purchases": SomeBehaviours(width, PURCHASES),
        "feedback": SomeBehaviours(width, FEEDBACK, text_width),
        "spending": Spending(width),
        "rhythm": Rhythm(width),
        "demographics": Demographics(width, attribute_classes) if attribute_classes else None,
        "interests": Interests(width, categories) if categories else None,
        "content": Content(width, content_width) if content_width else None,
    }
    return made[name]


def _members(behaviours: tuple[str, ...]) -> Tensor:
    """True at the numbers of some behaviours, shape (behaviours + 1,); an unknown one is in no group."""
    return torch.tensor([False, *(name in behaviours for name in BEHAVIOURS)])


def _mean_so_far(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of values (B, L, F) over the chosen events (B, L) up to each moment, zero before the first; their number.

    A running sum of one person's own events: no entry of another row and no later event enters.
    """
    total = (values * chosen[..., None]).cumsum(1)
    count = chosen.cumsum(1)
    return total / count.clamp(min=1)[..., None].to(values.dtype), count
