"""What a partner's own people did next, added to a model's scores: a local part of recommendations, never sent.

The shared model knows what people of all partners have in common, under privacy only roughly; a partner's own counts
are exact and need no budget, because they stay. The logarithm of their chances is added to the model's scores: a
product of experts (Hinton 2002, section 1), a logarithmic opinion pool. Chances of items with few counts are drawn
towards an even distribution (Dirichlet smoothing: Zhai and Lafferty 2004, section 3).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from silhouette_client.profiles.build import PEOPLE_AT_ONCE, seen_items
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.evaluation import ndcg
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource

LEAST_PEOPLE = 40
"""Of a partner; fewer have too little in common."""

LEAST_PEOPLE_A_PAIR = 2
"""Who did one after the other; what a single person did moves nobody's recommendations."""

_APART = (1, 2, 3)  # events; a pair counts one over that
_MEMORY = 10  # last events that are read
_DECAY = 0.8  # of an event against the one after it
_SMOOTHING = 100.0  # counts that an even distribution stands for
_MOST_PEOPLE = 50_000  # who are counted
_COUNTED_AT_ONCE = 5_000  # people
_MOST_ASKED = 2_000  # people whose last events say what is to be believed
_ALTERNATIVES = 4_096  # items that each of these is held against
_SEED = 0  # draws the alternatives: the same people give the same parts
_BARRED = -1e9  # logit of what is no alternative


@dataclass(frozen=True)
class OwnTransitions:
    """Chances of what comes next at a partner, by item; local, and never sent."""

    offsets: NDArray[np.int64]  # (V + 2,) where each item's begin, in the order of items
    targets: NDArray[np.int64]  # (P,) items that came up to three events later
    chances: NDArray[np.float32]  # (P,) what is missing to one is spread evenly
    scale: float = 1.0  # of the logarithm of the model's chances
    weight: float = 1.0  # of the logarithm of these

    @classmethod
    def count(cls, histories: Histories, items: int) -> Self:
        """Count what came after what.

        Args:
            histories: The partner's people.
            items: Of the catalogue, V.
        """
        pairs, counts, people = (np.concatenate(parts) for parts in zip(*_parts(histories, items), strict=True))
        pairs, place = np.unique(pairs, return_inverse=True)
        enough = np.bincount(place, people, len(pairs)) >= LEAST_PEOPLE_A_PAIR
        counted = np.bincount(place, counts, len(pairs))[enough]
        sources, targets = np.divmod(pairs[enough], items + 1)
        total = np.bincount(sources, counted, items + 1)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=items + 1))])
        chances = (counted / (total[sources] + _SMOOTHING)).astype(np.float32)
        return cls(offsets.astype(np.int64), targets.astype(np.int64), chances)

    def log_chances(self, histories: Histories) -> Tensor:
        """Of all items to come next for everybody, (U, V + 1) on the histories' device; column 0 has no meaning."""
        size = len(self.offsets) - 1
        items, offsets = histories.items.cpu().numpy(), histories.offsets.cpu().numpy()
        people, recent = len(histories), np.minimum(np.diff(offsets), _MEMORY)
        owner = np.repeat(np.arange(people), recent)
        ages = np.repeat(recent.cumsum(), recent) - 1 - np.arange(len(owner))
        weights = (_DECAY**ages).astype(np.float32)
        read = items[offsets[1:][owner] - 1 - ages]
        query = sparse.coo_array((weights, (owner, read)), shape=(people, size)).tocsr()
        whole = np.bincount(owner, weights, people).clip(min=1e-9)
        known = (query @ self._matrix).tocoo()
        row, column = (torch.from_numpy(part.astype(np.int64)) for part in known.coords)
        chances = known.data / whole[known.coords[0]]
        even = (1.0 - np.bincount(known.coords[0], chances, people)) / (size - 1)
        # Of a large catalogue few items have a count, so only their logarithms are taken.
        found = torch.from_numpy(np.log(even)).float()[:, None].repeat(1, size)
        found[row, column] = torch.from_numpy(np.log(chances + even[known.coords[0]])).float()
        return found.to(histories.items.device)

    @cached_property
    def _matrix(self) -> sparse.csr_array:
        size = len(self.offsets) - 1
        return sparse.csr_array((self.chances, self.targets, self.offsets), shape=(size, size))

    def __call__(self, scores: Tensor, histories: Histories) -> Tensor:
        """Scores of all items with the chances here, (U, V + 1).

        Args:
            scores: A model's, (U, V + 1), column 0 never a candidate.
            histories: Of the same people, in the same order.
        """
        together = self.scale * scores.log_softmax(1) + self.weight * self.log_chances(histories).to(scores.dtype)
        together[:, 0] = -torch.inf
        return together


def learn_transitions(encoder: ProfileEncoder, histories: Histories, *, private: bool) -> OwnTransitions | None:
    """Count at a partner, and find what to believe how much; None where counts do not help or people are too few.

    A model trained with privacy hardly remembers whom it was trained on, so these people's last events can say how
    much the model and the counts are to be believed: the two coefficients of a conditional logit (McFadden 1974), or
    only one of the two where that ranks these events better. A model trained without privacy has learnt those very
    events; both are believed as they are then.

    Args:
        encoder: Frozen.
        histories: The partner's people, on the encoder's device.
        private: Whether the encoder was trained with privacy.
    """
    people, items = len(histories), len(encoder.item.weight) - 1
    if people < LEAST_PEOPLE:
        return None
    counted = histories.of_people(torch.arange(min(people, _MOST_PEOPLE), device=histories.items.device))
    own = OwnTransitions.count(counted, items)
    if not private:
        return own
    earlier, sought = _without_last(counted)
    if not len(sought):
        return None
    said = _alternatives(encoder, OwnTransitions.count(earlier, items), earlier, sought)
    if not len(said[0]):
        return None
    fitted = _fitted(*said)
    both = max(0.0, fitted[0]), max(0.0, fitted[1])
    scale, weight = max((both, (0.0, 1.0), (1.0, 0.0)), key=lambda believed: _gain(*said, believed))
    return replace(own, scale=scale, weight=weight) if weight else None


@torch.no_grad()
def _alternatives(
    encoder: ProfileEncoder, own: OwnTransitions, histories: Histories, sought: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the model and the counts say of each item sought, in column 0, and of others; which of these are barred.

    Others are the same for everybody, drawn evenly where the catalogue is large, which leaves the coefficients
    consistent (McFadden 1978). What a person had before is no alternative, and whoever had the item sought is left out.

    Returns:
        Log chances by the model and by the counts, float64, and whether each is barred, all (N, 1 + A), on the CPU.
    """
    items, device = len(own.offsets) - 2, sought.device
    draw = ReproducibleSource(_SEED).child("alternatives").torch_generator(device)
    others = torch.randperm(items, generator=draw, device=device)[:_ALTERNATIVES].sort().values + 1
    encoder.eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for people in torch.arange(min(len(sought), _MOST_ASKED), device=device).split(PEOPLE_AT_ONCE):
        seen = seen_items(histories, people)
        new = ~(seen == sought[people, None]).any(1)
        if not new.any():
            continue
        people, seen = people[new], seen[new]
        part, asked = histories.of_people(people), sought[people, None]
        batch = part.batch(torch.arange(len(part), device=device), encoder.history_length)
        scores = encoder.next_item_scores(batch).log_softmax(1)
        had = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, seen, True)
        columns = torch.cat([asked, others.expand(len(part), -1)], 1)
        barred = had.gather(1, columns) | (columns == asked)
        barred[:, 0] = False
        found.append((scores.gather(1, columns), own.log_chances(part).gather(1, columns), barred))
    if not found:
        none = torch.zeros(0, 1 + len(others))
        return none.double(), none.double(), none.bool()
    model, counts, barred = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return model.double(), counts.double(), barred


def _gain(model: Tensor, counts: Tensor, barred: Tensor, believed: tuple[float, float]) -> float:
    """NDCG@10 of what was chosen, column 0, among the alternatives."""
    together = (believed[0] * model + believed[1] * counts).masked_fill(barred, -torch.inf)
    return ndcg((together[:, 1:] >= together[:, :1]).sum(1))


def _fitted(model: Tensor, counts: Tensor, barred: Tensor) -> tuple[float, float]:
    """Maximum-likelihood coefficients of the two, column 0 being what was chosen."""
    chosen = torch.zeros(len(model), dtype=torch.int64)
    believed = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([believed], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = (believed[0] * model + believed[1] * counts).masked_fill(barred, _BARRED)
        found = F.cross_entropy(logits, chosen)
        found.backward()
        return found

    optimiser.step(loss)
    scale, weight = believed.detach().tolist()
    return scale, weight


def _without_last(histories: Histories) -> tuple[Histories, Tensor]:
    """Histories of everybody with two events or more, the last one left out; and those last events' items, (U,)."""
    long_enough = histories.of_people(torch.nonzero(histories.lengths >= 2).flatten())
    return long_enough.without_last(1), long_enough.items[long_enough.offsets[1:] - 1]


def _parts(
    histories: Histories, items: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Pairs as one number each, their counts and how many people had them, for some people at a time."""
    offsets, item = histories.offsets.cpu().numpy(), histories.items.cpu().numpy().astype(np.int64)
    for first in range(0, len(offsets) - 1, _COUNTED_AT_ONCE):
        bounds = offsets[first : first + _COUNTED_AT_ONCE + 1]
        own, owner = item[bounds[0] : bounds[-1]], np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        pairs, counts, people = [], [], []
        for apart in _APART:
            same = owner[apart:] == owner[:-apart]
            pairs.append(own[:-apart][same] * (items + 1) + own[apart:][same])
            counts.append(np.full(int(same.sum()), 1.0 / apart))
            people.append(owner[apart:][same])
        pair, inverse = np.unique(np.concatenate(pairs), return_inverse=True)
        place = inverse.astype(np.int64)
        both = np.unique(place * len(bounds) + np.concatenate(people))  # each pair of each person once
        yield (
            pair.astype(np.int64),
            np.bincount(place, np.concatenate(counts), len(pair)).astype(np.float64),
            np.bincount(both // len(bounds), minlength=len(pair)).astype(np.float64),
        )
