"""What a partner counts before training: item popularity and transitions, each person with one vector of norm one.

A person's vector depends on that person's record and public constants alone and is scaled to the bound, so a long
history buys no more influence than a short one, and doing a thing a hundred times moves the sum no further than doing
it once. The sum leaves as any other: on the grid, with noise that the ledger has charged.
"""

import torch
from torch import Tensor

from silhouette_client.training.release import ClippedSum
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.pairs import pair_count, pair_numbers
from silhouette_shared.privacy.budget import STATISTIC_NORM

_PEOPLE_AT_ONCE = 1024  # whose pairs are held in memory together
_WITHIN = STATISTIC_NORM * (1 - 1e-12)  # so that rounding never passes the bound


def popularity_sum(histories: Histories, items: int) -> ClippedSum:
    """How much people have of each item, shape (V + 1,), float64; place 0 stays zero.

    A person with n different items adds 1 / sqrt(n) to each of them.

    Args:
        histories: The partner's people.
        items: Items of the catalogue, V.
    """
    owner = _owners(histories)
    total = torch.zeros(items + 1, dtype=torch.float64, device=owner.device)
    distinct = torch.unique(owner * (items + 1) + histories.items)  # who has which item, once
    person, item = distinct // (items + 1), distinct % (items + 1)
    count = torch.bincount(person, minlength=len(histories))[person]
    total.index_add_(0, item, _WITHIN / count.double().sqrt())
    return ClippedSum(total, STATISTIC_NORM)


def transition_sum(histories: Histories, active: Tensor, window: int, items: int) -> ClippedSum:
    """How near to one another people had two active items, by pair, float64.

    Of a person's events those with active items count, an item that follows itself once. Two of them d apart, at most
    `window`, add 1 / d to their pair, in either order; then the person's vector is scaled to norm one. Direction is
    given up on purpose: half the coordinates have half the noise, and with it order told less than it cost (measured).

    Args:
        histories: The partner's people.
        active: Different item numbers, public, shape (M,).
        window: Events apart at most.
        items: Items of the catalogue, V.

    Returns:
        The sum in the order of `pair_numbers`, shape (M (M - 1) / 2,).
    """
    count = len(active)
    place = torch.full((items + 1,), -1, dtype=torch.long, device=active.device)
    place[active] = torch.arange(count, device=active.device)
    owner, places = _owners(histories), place[histories.items]
    kept = places >= 0
    owner, places = owner[kept], places[kept]
    repeated = (owner[1:] == owner[:-1]) & (places[1:] == places[:-1])
    kept = torch.cat([torch.ones(min(1, len(owner)), dtype=torch.bool, device=owner.device), ~repeated])
    owner, places = owner[kept], places[kept]
    total = torch.zeros(pair_count(count), dtype=torch.float64, device=active.device)
    starts = torch.searchsorted(owner, torch.arange(0, len(histories) + _PEOPLE_AT_ONCE, _PEOPLE_AT_ONCE).to(owner))
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if end > start:
            _add_transitions(total, owner[start:end] - owner[start], places[start:end], window, count)
    return ClippedSum(total, STATISTIC_NORM)


def _add_transitions(total: Tensor, owner: Tensor, places: Tensor, window: int, active: int) -> None:
    """Add the scaled vectors of some people; `owner` ascends from 0."""
    size = len(total)
    cells, weights = [], []
    for apart in range(1, min(window, len(owner) - 1) + 1):
        first, second = places[:-apart], places[apart:]
        counts = (owner[:-apart] == owner[apart:]) & (first != second)
        pairs = pair_numbers(first[counts], second[counts], active)
        cells.append(owner[apart:][counts] * size + pairs)
        weights.append(torch.full((len(pairs),), 1.0 / apart, dtype=torch.float64, device=total.device))
    if not cells:
        return
    cell, inverse = torch.unique(torch.cat(cells), return_inverse=True)
    weight = total.new_zeros(len(cell)).index_add_(0, inverse, torch.cat(weights))
    person = cell // size
    squares = total.new_zeros(int(owner[-1]) + 1).index_add_(0, person, weight.square())
    total.index_add_(0, cell % size, _WITHIN * weight / squares.sqrt()[person])


def _owners(histories: Histories) -> Tensor:
    """Row number of the person of every event, (E,)."""
    rows = torch.arange(len(histories), device=histories.items.device)
    return torch.repeat_interleave(rows, histories.lengths)
