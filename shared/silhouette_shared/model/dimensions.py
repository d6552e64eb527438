"""The dimensions of a person, each one token for every moment of a history.

A dimension is a function of one person's own events up to a moment and of public constants. No statistic over
other people enters: the gradient of one person must not change when somebody else's record does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silhouette_shared.model.histories import GAP_BUCKETS, HOURS, UNKNOWN, VALUE_BUCKETS, WEEKDAYS, Batch
from silhouette_shared.schema import BEHAVIOURS

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


def mean_so_far(values: Tensor, chosen: Tensor) -> Tensor:
    """Means over the chosen events up to each moment, zero before the first: (B, L, F) and (B, L) give (B, L, F)."""
    counted = chosen.to(values.dtype).cumsum(1).clamp(min=1)
    return (values * chosen[..., None]).cumsum(1) / counted[..., None]


def _among(behaviours: tuple[str, ...]) -> Tensor:
    """Which numbers of behaviours are meant, (1 + number of behaviours,); 0 is an unknown one."""
    return torch.tensor([False, *(name in behaviours for name in BEHAVIOURS)])


class Deeds(nn.Module):
    """What a person did of some kinds: the mean state of these events so far; absent before the first.

    Browsing, purchases and feedback are such dimensions, with the behaviours of `schema`. With `text_width`, the mean
    vector of what was written at these events so far stands beside it, zero where nothing was.
    """

    def __init__(self, width: int, behaviours: tuple[str, ...], text_width: int = 0) -> None:
        super().__init__()
        self.text_width = text_width
        self.register_buffer("wanted", _among(behaviours), persistent=False)
        self.project = nn.Linear(width + text_width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        chosen = self.get_buffer("wanted")[moments.batch.behaviours] & moments.batch.mask
        present = (chosen.cumsum(1) > 0) & moments.batch.mask
        mean = mean_so_far(moments.states, chosen)
        if self.text_width:
            texts = moments.batch.texts.to(mean)
            if texts.shape[-1] == 0:  # these histories bring none
                texts = mean.new_zeros((*chosen.shape, self.text_width))
            written = chosen & (texts != 0).any(-1)
            mean = torch.cat([mean, mean_so_far(texts, written)], dim=-1)
        return self.project(mean), present


class Spending(nn.Module):
    """What a person pays: values of the purchases so far, and how large a part of all events they are.

    Absent before the first purchase with a value.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("wanted", _among(("purchase",)), persistent=False)
        self.expand = nn.Linear(VALUE_BUCKETS + 1, width)
        self.project = nn.Linear(width, width)

    def forward(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Token (B, L, H) and whether it is present (B, L)."""
        batch = moments.batch
        paid = self.get_buffer("wanted")[batch.behaviours] & (batch.values != UNKNOWN) & batch.mask
        values = F.one_hot(batch.values, VALUE_BUCKETS + 1)[..., 1:].to(moments.states.dtype)
        share = moments.running @ paid[..., None].to(moments.states.dtype)
        token = self.project(F.gelu(self.expand(torch.cat([mean_so_far(values, paid), share], dim=-1))))
        return token, (paid.cumsum(1) > 0) & batch.mask


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
