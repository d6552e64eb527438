"""Tastes: what a person chose and how they valued it, against what is usual at the partner.

A local dimension, as friends are: which items go together is learnt from the partner's own people, without a label,
and is never sent; nothing of it enters a forward pass of the encoder. Once learnt, a person's tastes are a function of
that person's record alone. They hold what the encoder leaves out because the next event does not need it: the whole
history, and what is rare in it.

Latent semantic analysis of the histories: Deerwester et al. 1990, with the randomised decomposition of Halko,
Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray
from scipy import sparse

from silhouette_shared.model.histories import UNKNOWN, Histories
from silhouette_shared.schema import BEHAVIOURS, FEEDBACK

COLUMNS = 256
"""Of the tastes, at most; on ML-1M 512 tell no more of a person."""

LEAST_PEOPLE = 40
"""Fewer cannot say what goes together."""

_PEOPLE_A_COLUMN = 4
_MOST_PEOPLE = 20_000  # to learn from
_MOST_ITEMS = 20_000  # the most common ones
_VALUE_WEIGHT = 0.5  # of how things were valued, beside what was chosen


@dataclass(frozen=True)
class Tastes:
    """Which items go together at a partner; local, and never sent."""

    items: NDArray[np.int64]  # (N,) item numbers, ascending
    rarity: NDArray[np.float64]  # (N,) inverse document frequency
    usual: NDArray[np.float64]  # (N,) how much higher an item is valued than others, in value buckets
    basis: NDArray[np.float32]  # (2 N, K): N rows for what was chosen, N for how it was valued

    def __call__(self, histories: Histories) -> NDArray[np.float32]:
        """Tastes of everybody, (U, K) float32; each row depends on that person's own record alone."""
        found: NDArray[np.float32] = (_rows(histories, self) @ self.basis).astype(np.float32)
        return found


def learn_tastes(histories: Histories, items: int, seed: int, *, columns: int = COLUMNS) -> Tastes | None:
    """Learn which items go together, without a label; None where the people are too few.

    Args:
        histories: The partner's people.
        items: Of the catalogue, V.
        seed: Draws the people to learn from, and starts the decomposition.
        columns: At most so many, and at most one for four people.
    """
    if len(histories) < LEAST_PEOPLE:
        return None
    from sklearn.utils.extmath import randomized_svd  # half a second, which nobody else should wait for

    rows = Generator(PCG64(seed)).permutation(len(histories))[:_MOST_PEOPLE]
    owner, item = _owners(histories), histories.items.cpu().numpy()
    taught = np.isin(owner, rows)
    held = sparse.csr_matrix((np.ones(taught.sum()), (owner[taught], item[taught])), (len(histories), items + 1))
    people_with = np.asarray((held > 0).sum(0)).ravel()
    common = np.sort(np.argsort(-people_with, kind="stable")[: min(_MOST_ITEMS, int((people_with > 0).sum()))])
    empty = Tastes(
        items=common.astype(np.int64),
        rarity=np.log((1 + len(rows)) / (1 + people_with[common])) + 1.0,
        usual=_usual(histories, owner, item, items)[common],
        basis=np.zeros((0, 0), np.float32),
    )
    matrix = _rows(histories, empty)[np.sort(rows)]
    width = min(columns, len(rows) // _PEOPLE_A_COLUMN, min(matrix.shape) - 1)
    _, _, components = randomized_svd(matrix, width, random_state=seed)
    return Tastes(empty.items, empty.rarity, empty.usual, np.ascontiguousarray(components.T, np.float32))


def _rows(histories: Histories, tastes: Tastes) -> sparse.csr_matrix:
    """What everybody chose and how they valued it, each of length one, side by side, (U, 2 N)."""
    people, width = len(histories), len(tastes.items)
    owner, item = _owners(histories), histories.items.cpu().numpy()
    place = np.searchsorted(tastes.items, item).clip(max=max(0, width - 1))
    known = tastes.items[place] == item if width else np.zeros(len(item), bool)
    chosen = _summed(np.ones(known.sum()), owner[known], place[known], (people, width))
    chosen.data = 1.0 + np.log(chosen.data)
    valued, value = _valued(histories)
    own = np.bincount(owner[valued], value[valued], people) / np.bincount(owner[valued], minlength=people).clip(min=1)
    told = known & valued
    above = value[told] - own[owner[told]] - tastes.usual[place[told]]
    likes = _summed(above, owner[told], place[told], (people, width))
    parts = [_unit(part.multiply(tastes.rarity[None]).tocsr()) for part in (chosen, likes)]
    return sparse.hstack([parts[0], _VALUE_WEIGHT * parts[1]]).tocsr()


def _usual(histories: Histories, owner: NDArray[np.int64], item: NDArray[np.int64], items: int) -> NDArray[np.float64]:
    """How much higher than everything each item is valued, in value buckets, (V + 1,); 0 where it never is."""
    valued, value = _valued(histories)
    if not valued.any():
        return np.zeros(items + 1)
    times = np.bincount(item[valued], minlength=items + 1)
    mean = np.bincount(item[valued], value[valued], items + 1) / times.clip(min=1)
    found: NDArray[np.float64] = np.where(times > 0, mean - value[valued].mean(), 0.0)
    return found


def _valued(histories: Histories) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which events are feedback with a value, and the values' buckets, (E,) each."""
    feedback = [BEHAVIOURS.index(name) + 1 for name in FEEDBACK]
    values, behaviours = histories.values.cpu().numpy(), histories.behaviours.cpu().numpy()
    return np.isin(behaviours, feedback) & (values != UNKNOWN), values.astype(np.float64)


def _owners(histories: Histories) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(histories)), histories.lengths.cpu().numpy())


def _summed(
    data: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]
) -> sparse.csr_matrix:
    found = sparse.csr_matrix((data, (rows, columns)), shape)
    found.sum_duplicates()
    return found


def _unit(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Every row with length one; an empty one stays empty."""
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 1e-9)
    return (sparse.diags(scale) @ matrix).tocsr()
