"""How unlike its neighbours a history is: a score without labels, learnt and used at the partner.

What is usual comes from everybody at the partner, so nothing of it is shared; it enters no forward pass of the encoder.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import HOURS, Histories

_PEOPLE_AT_ONCE = 64


@dataclass(frozen=True)
class RiskScale:
    """What is usual at a partner: a median and a spread of each column, and everybody's distance in order."""

    median: Tensor  # (F,)
    spread: Tensor  # (F,)
    distances: Tensor  # (U,) ascending

    def distance(self, features: Tensor) -> Tensor:
        """Mean of the three largest deviations of each person, in spreads, (U,)."""
        deviations = ((features - self.median) / self.spread).abs()
        return deviations.topk(min(3, deviations.shape[1]), dim=1).values.mean(1)

    def __call__(self, features: Tensor) -> Tensor:
        """Share of the partner's people who lie nearer to what is usual, (U,)."""
        place = torch.searchsorted(self.distances, self.distance(features))
        return place.double() / len(self.distances)


def fit_risk(features: Tensor) -> RiskScale:
    """Learn what is usual from everybody, without a label: medians and median absolute deviations.

    A few odd histories among the people move neither.
    """
    median = features.median(0).values
    spread = 1.4826 * (features - median).abs().median(0).values
    # A column that is the same for half of the people has a deviation of nothing; its mean deviation stands in.
    spread = torch.where(spread > 1e-9, spread, (features - median).abs().mean(0)).clamp(min=1e-3)
    scale = RiskScale(median, spread, features.new_zeros(0))
    return RiskScale(median, spread, scale.distance(features).sort().values)


@torch.no_grad()
def risk_features(encoder: ProfileEncoder, histories: Histories) -> Tensor:
    """What may be odd in a history, (U, 8) float64; a function of the person's own record and the frozen encoder.

    Mean surprise of the encoder by each next item, and of the worst third; spread and regularity of the gaps; share of
    events that repeat an item; largest share of one hour of the day; events in the busiest hour and their number.

    Args:
        encoder: Trained.
        histories: On its device; without times the columns of time are zero.
    """
    encoder.eval()
    surprise = []
    for people in torch.arange(len(histories), device=histories.items.device).split(_PEOPLE_AT_ONCE):
        batch = histories.training_batch(people, encoder.history_length, None)
        states = encoder(batch).state
        for line in range(len(people)):  # one person's scores at a time: L x V numbers
            known = batch.targets[line] > 0
            scores = encoder.item_scores(states[line][known])
            lost = scores.logsumexp(-1) - scores.gather(1, batch.targets[line][known][:, None]).squeeze(1)
            worst = lost.sort(descending=True).values[: max(1, len(lost) // 3)]
            surprise.append([float(lost.mean()), float(worst.mean())] if len(lost) else [0.0, 0.0])
    rows = [
        [*first, *_oddities(histories.items[a:b], histories.timestamps[a:b] if histories.has_times else None)]
        for first, (a, b) in zip(surprise, pairwise(histories.offsets.tolist()), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64, device=histories.items.device)


def _oddities(items: Tensor, times: Tensor | None) -> list[float]:
    repeats = 1.0 - len(items.unique()) / len(items)
    if times is None or len(items) < 2:
        return [0.0, 0.0, repeats, 0.0, 0.0, math.log1p(len(items))]
    gaps = (times.diff().double() + 1).log()
    spread = float(gaps.std(correction=0))
    same = float(times.diff().unique(return_counts=True)[1].max()) / len(gaps)
    hours = torch.bincount(times // 3600 % HOURS, minlength=HOURS)
    busiest = float((times // 3600).unique_consecutive(return_counts=True)[1].max())
    return [spread, same, repeats, float(hours.max()) / len(items), math.log1p(busiest), math.log1p(len(items))]
