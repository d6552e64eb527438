"""Tags of a person: categories they turn to more than the catalogue would have it, and the events that say so."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_shared.model.histories import Histories


@dataclass(frozen=True)
class Tag:
    """A category of a person."""

    category: int  # column of the category matrix
    share: float  # of the person's events
    expected: float  # share of the catalogue's items
    confidence: float  # that the person's events are not draws from the catalogue; from 0 to 1
    events: tuple[int, ...]  # latest events with the category, counted from the person's first as 0, newest first


def tags_of(
    histories: Histories, person: int, categories: Tensor, *, most: int = 3, supporting: int = 5
) -> Sequence[Tag]:
    """Tags of one person, the surest first; none where the catalogue has no categories.

    Were a person's n events draws from the catalogue, the number in a category would be binomial. The confidence is the
    chance that such draws have fewer in the category than the person has, plus half the chance of as many (the mid-p
    value). It says nothing about other people and needs none of them.

    Args:
        histories: The partner's people.
        person: Row number.
        categories: Of the catalogue, shape (V + 1, G), row 0 zero.
        most: Tags at most; only those whose share is above the catalogue's.
        supporting: Events to name for each, at most.
    """
    start, end = histories.offsets[person : person + 2].tolist()
    own = categories[histories.items[start:end]] > 0  # (n, G)
    items = max(1, len(categories) - 1)
    found = []
    for category in range(categories.shape[1]):
        count, expected = int(own[:, category].sum()), int((categories[:, category] > 0).sum()) / items
        share = count / len(own)
        if share <= expected:
            continue
        where = torch.nonzero(own[:, category]).flatten().flip(0)[:supporting]
        confidence = chance_of_fewer(count, len(own), expected)
        found.append(Tag(category, share, expected, confidence, tuple(where.tolist())))
    return sorted(found, key=lambda tag: (-tag.confidence, -(tag.share - tag.expected), tag.category))[:most]


def chance_of_fewer(count: int, events: int, chance: float) -> float:
    """P(X < count) + P(X = count) / 2 for binomial X of so many events, by exact sums in float64."""
    if chance <= 0:
        return 1.0 if count else 0.5
    k = torch.arange(count + 1, dtype=torch.float64)
    n = torch.tensor(float(events), dtype=torch.float64)
    p = torch.tensor(chance, dtype=torch.float64)
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    chances = (ways + k * p.log() + torch.xlogy(n - k, 1 - p)).exp()
    return min(1.0, float(chances[:-1].sum() + chances[-1] / 2))
