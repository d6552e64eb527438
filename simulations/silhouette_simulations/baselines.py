"""Recommenders that count: what any learned model must be compared with.

Histories are ragged, chronological lists of item ids 1..V, one integer array per person. A scorer
is fitted on what people did before the event that is asked for, and gives every item a score. What
was seen is removed by the ranking, not here. Column 0 is padding and always scores minus infinity.

Exact ties are common among counts; a tiny term orders equal scores by item id, the larger first
(on MovieLens the one that entered the catalogue later). It decides the third digit: .0439 below
would be .0449 the other way round.

NDCG@10 on MovieLens (all ratings, leave-one-out, fitted on all but each person's last event, full
ranking, seen items removed), as the slow tests check it:

    data set   popularity   EASE (regularisation)   transition counts
    ml-100k         .0439   .0718 (300)                         .1074
    ml-1m           .0179   .0545 (500)                         .1514
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.linalg import lapack

Histories: TypeAlias = Sequence[npt.NDArray[np.integer[Any]]]
Scores: TypeAlias = npt.NDArray[np.float64]


class Scorer(Protocol):
    """A fitted recommender: scores every item for a batch of people."""

    def scores(self, histories: Histories) -> Scores:
        """Score items 0..V for each history, shape (B, V + 1), float64, column 0 minus infinity."""
        ...


@dataclass(frozen=True)
class Popularity:
    """The same list for everybody: items by how many people have them."""

    people_per_item: npt.NDArray[np.float64]  # (V + 1,), entry 0 is 0

    @classmethod
    def fit(cls, histories: Histories, items: int) -> Self:
        """Count the distinct people of every item.

        Args:
            histories: Item ids in 1..items per person; repeats count once.
            items: Size of the catalogue, V.

        Raises:
            ValueError: If there is nobody, or an id is outside the catalogue.

        >>> Popularity.fit([np.array([1, 2]), np.array([2, 2])], items=3).people_per_item
        array([0., 1., 2., 0.])
        """
        return cls(_people_per_item(_incidence(histories, items)))

    def scores(self, histories: Histories) -> Scores:
        """Counts, for every history alike; shape (B, V + 1)."""
        size = len(self.people_per_item)
        _flatten(histories, size - 1)
        row = self.people_per_item + 1e-9 * np.arange(size)
        row[0] = -np.inf
        return np.tile(row, (len(histories), 1))


@dataclass(frozen=True)
class TransitionCounts:
    """What people did next: a Markov chain over items with a short memory.

    A pair of events up to three apart counts 1 / distance; rows are normalised to 1. A person is
    scored from the last ten events, each weighing 0.8 times the one after it. Popularity breaks
    ties and ranks what no chain reaches.
    """

    transitions: sp.csr_array  # (V + 1, V + 1), rows sum to 1 or are empty
    people_per_item: npt.NDArray[np.float64]  # (V + 1,)
    memory: int = 10
    decay: float = 0.8

    @classmethod
    def fit(cls, histories: Histories, items: int) -> Self:
        """Count transitions one, two and three events apart.

        Args:
            histories: Chronological item ids in 1..items per person.
            items: Size of the catalogue, V.

        Raises:
            ValueError: If there is nobody, or an id is outside the catalogue.
        """
        popularity = _people_per_item(_incidence(histories, items))
        ids, people = _flatten(histories, items)
        sources, targets, weights = [], [], []
        for lag in (1, 2, 3):
            within = people[lag:] == people[:-lag]  # a pair never spans two people
            sources.append(ids[:-lag][within])
            targets.append(ids[lag:][within])
            weights.append(np.full(int(within.sum()), 1.0 / lag))
        counts = sp.coo_array(
            (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets))),
            shape=(items + 1, items + 1),
        ).tocsr()
        totals = counts.sum(axis=1)
        scale = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
        return cls(sp.csr_array(sp.diags_array(scale) @ counts), popularity)

    def scores(self, histories: Histories) -> Scores:
        """Decayed sum of the transition rows of the last events; shape (B, V + 1)."""
        size = len(self.people_per_item)
        recent = [history[-self.memory :] for history in histories]
        ids, people = _flatten(recent, size - 1)
        ages = np.concatenate([np.arange(len(part))[::-1] for part in recent] or [ids])
        query = sp.coo_array((self.decay**ages, (people, ids)), shape=(len(recent), size)).tocsr()
        result: Scores = (query @ self.transitions).toarray()
        # Below the smallest transition on data of this size, so it only orders what is equal or
        # unreached.
        result += 1e-9 * self.people_per_item + 1e-13 * np.arange(size)
        result[:, 0] = -np.inf
        return result


@dataclass(frozen=True)
class Ease:
    """A linear item-to-item model with zero diagonal, solved in closed form.

    Steck 2019, https://arxiv.org/abs/1905.03375. Fitting holds some five dense V x V
    arrays of float64 and takes time that grows with V cubed: 3,700 items take seconds and half a
    gigabyte, 20,000 take minutes and 16 gigabytes.
    """

    weights: npt.NDArray[np.float64] = field(repr=False)  # (V + 1, V + 1), row and column 0 are 0

    @classmethod
    def fit(cls, histories: Histories, items: int, *, regularisation: float = 300.0) -> Self:
        """Solve for the item weights.

        Args:
            histories: Item ids in 1..items per person; repeats count once.
            items: Size of the catalogue, V.
            regularisation: Added to the diagonal of the item-item counts, in people (lambda in the
                paper). It should grow with the number of people: 300 for ML-100K and 500 for ML-1M
                are near the best there.

        Raises:
            ValueError: If there is nobody, an id is outside the catalogue, or `regularisation` is
                not positive.
        """
        if not 0 < regularisation < np.inf:
            raise ValueError(f"expected a positive, finite regularisation, got {regularisation}")
        incidence = _incidence(histories, items)[:, 1:]
        gram = (incidence.T @ incidence).toarray()
        gram[np.diag_indices(items)] += regularisation
        # Symmetric and positive definite: Cholesky takes half the time of a general inverse.
        factor, failed = lapack.dpotrf(gram, lower=True, overwrite_a=True)
        inverse, failed_too = lapack.dpotri(factor, lower=True, overwrite_c=True)
        if failed or failed_too:
            raise ValueError(f"expected a well-conditioned problem, got {regularisation=}; raise it")
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = np.zeros((items + 1, items + 1))
        np.divide(inverse, -np.diag(inverse), out=weights[1:, 1:])
        np.fill_diagonal(weights, 0.0)
        return cls(weights)

    def scores(self, histories: Histories) -> Scores:
        """Sum of the weights of the distinct items of each history; shape (B, V + 1)."""
        size = len(self.weights)
        _flatten(histories, size - 1)
        if not histories:
            return np.empty((0, size))
        result: Scores = _incidence(histories, size - 1) @ self.weights
        result += 1e-13 * np.arange(size)
        result[:, 0] = -np.inf
        return result


def _flatten(histories: Histories, items: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All events in order: item ids and the position of their person, both of shape (E,)."""
    for history in histories:
        if history.ndim != 1 or not np.issubdtype(history.dtype, np.integer):
            raise ValueError(
                f"expected one-dimensional integer histories, got shape {history.shape} of {history.dtype}"
            )
    people = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    ids = np.concatenate([*histories, np.empty(0, np.int64)]).astype(np.int64, copy=False)
    if len(ids) and not (ids.min() >= 1 and ids.max() <= items):
        raise ValueError(f"expected item ids in 1..{items}, got one outside; index by the catalogue")
    return ids, people


def _incidence(histories: Histories, items: int) -> sp.csr_array:
    """Who has which item, once each: (people, V + 1) of ones."""
    if items < 1 or not histories:
        raise ValueError(f"expected at least one item and one person, got {items=} and {len(histories)} people")
    ids, people = _flatten(histories, items)
    matrix = sp.coo_array((np.ones(len(ids)), (people, ids)), shape=(len(histories), items + 1)).tocsr()
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _people_per_item(incidence: sp.csr_array) -> npt.NDArray[np.float64]:
    return np.asarray(incidence.sum(axis=0), np.float64)
