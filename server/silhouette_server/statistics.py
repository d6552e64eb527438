"""From released sums to a prior: post-processing of what is public, with the public catalogue and nothing else."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from silhouette_server.shrinkage import posterior_means
from silhouette_shared.config import Statistics
from silhouette_shared.model.pairs import pair_matrix
from silhouette_shared.model.prior import ItemPrior

_SMALLEST_MASS = 1.0  # one person who has only this item; less is noise
_FLOOR = 0.7  # of the noise's standard deviation: below it popularities are not told apart
_LEAST_STRENGTH = 0.01  # of an item, as a share of the mean: an item of which nothing is known stays small
_FLATTENING = 0.25  # power of the popularities that transitions are divided by: rare items would be all noise


@dataclass(frozen=True)
class ReleasedSum:
    """A sum with its noise in it."""

    values: Tensor  # (D,) float64
    noise_std: float  # of each coordinate, of all partners' noise together


def active_items(popularity: ReleasedSum, count: int) -> npt.NDArray[np.int64]:
    """The numbers of the most popular items, the first of equal ones first; fewer if there are fewer items.

    >>> active_items(ReleasedSum(torch.tensor([9.0, 1.0, 3.0, 2.0]), 0.1), 2).tolist()
    [2, 3]
    """
    masses = popularity.values[1:].numpy()
    order: npt.NDArray[np.int64] = np.argsort(-masses, kind="stable")[:count] + 1
    return order


def make_prior(
    settings: Statistics,
    content: Tensor,
    popularity: ReleasedSum,
    active: npt.NDArray[np.int64],
    transitions: ReleasedSum | None,
) -> ItemPrior:
    """What the statistics say about every item.

    The bias is the logarithm of popularity. Features come from the transitions: what popularity alone would give is
    taken off, the rest is divided by a root of both popularities, and its largest eigenvectors make the features, so
    that two items' features have a large product if people had them close to one another. Only positive eigenvalues
    count: the scores are a similarity. Where the rest is no larger than its noise there are no features.

    With the estimator "posterior" every pair first gives way to its posterior mean, among pairs of as popular items,
    and is then divided by the roots of what both items have with all others together: nothing is taken off.

    Content counts as far as the transitions bear it out: its weight is multiplied by how much more often than
    popularity says two items with equal content are near each other, at most 1.

    Args:
        settings: Rank and weights.
        content: Public content vectors, shape (V + 1, C).
        popularity: Released, shape (V + 1,).
        active: The items that the transitions are between, shape (M,).
        transitions: Released, by pair of active items; None has no features, and takes the content as it is.
    """
    masses = popularity.values.clamp(min=_SMALLEST_MASS)
    masses[0] = 0.0
    bias = popularity.values.clamp(min=max(_SMALLEST_MASS, _FLOOR * popularity.noise_std)).log()
    bias = bias - bias[1:].mean()
    bias[0] = 0.0
    content = content.double()
    mean = (masses / masses.sum()) @ content
    features = torch.zeros(len(masses), settings.rank, dtype=torch.float64)
    agreement = 1.0
    if transitions is not None and len(active) > 1:  # one item alone follows nothing
        rows = torch.from_numpy(active)
        excess, expected, lift = _excess(transitions.values, masses[rows])
        if _power(excess) > transitions.noise_std**2:
            if settings.estimator == "posterior":
                alike_by_use = _shrunk(transitions, expected)
            else:
                scale = masses[rows].pow(-_FLATTENING)
                alike_by_use = scale[:, None] * excess * scale
            features[rows] = _features(alike_by_use, settings.rank, settings.transition_weight)
        described = (content - mean)[rows]
        agreement = _agreement(excess, expected, lift, described @ described.T)
    return ItemPrior(
        bias=bias.float(),
        features=features.float(),
        content_mean=mean.float(),
        content_weight=settings.content_weight * agreement,
    )


def _excess(values: Tensor, masses: Tensor) -> tuple[Tensor, Tensor, float]:
    """Transitions (M, M) less what popularity gives, what popularity gives up to a factor, and that factor."""
    counts = pair_matrix(values, len(masses))
    expected = torch.outer(masses, masses).fill_diagonal_(0.0)
    factor = float((counts * expected).sum() / expected.square().sum())
    return counts - factor * expected, expected, factor


def _power(excess: Tensor) -> float:
    """Mean square of the pairs."""
    count = len(excess)
    return float(excess.square().sum()) / (count * (count - 1))


def _shrunk(transitions: ReleasedSum, expected: Tensor) -> Tensor:
    """Posterior means of the pairs over the roots of both items' sums, (M, M)."""
    count = len(expected)
    row, column = torch.triu_indices(count, count, 1)
    values = posterior_means(transitions.values.numpy(), transitions.noise_std, expected[row, column].numpy())
    means = pair_matrix(torch.from_numpy(values), count)
    sums = means.sum(1)
    if not float(sums.sum()) > 0:
        return means
    scale = sums.clamp(min=_LEAST_STRENGTH * float(sums.mean())).rsqrt()
    return scale[:, None] * means * scale


def _features(alike: Tensor, rank: int, weight: float) -> Tensor:
    """Features (M, rank) whose products are as `alike` (M, M) as that many can be; columns may be zero."""
    values, vectors = torch.linalg.eigh(alike)  # ascending
    kept = min(rank, len(alike))
    strength = values.flip(0)[:kept].clamp(min=0.0)
    found = vectors.flip(1)[:, :kept] * strength.sqrt()
    spread = math.sqrt(float((found @ found.T).square().mean()))
    features: Tensor = found.new_zeros(len(alike), rank)
    if spread > 0:
        features[:, :kept] = found * math.sqrt(weight / spread)
    return features


def _agreement(excess: Tensor, expected: Tensor, factor: float, alike: Tensor) -> float:
    """Slope of the excess on the likeness of content, as a share of what popularity gives: from 0 to 1."""
    predicted = (expected * alike).fill_diagonal_(0.0)
    predicted = predicted - expected * (predicted * expected).sum() / expected.square().sum()
    power = float(predicted.square().sum())
    if power == 0 or factor <= 0:
        return 0.0
    return min(1.0, max(0.0, float((excess * predicted).sum()) / power / factor))
