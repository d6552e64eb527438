"""People like some others, by their profiles, and how much better than chance that is. Calculation only.

Nothing but profiles is read: what people declared about themselves is in none of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from silhouette_shared.errors import UsageError

Scoring = Literal["centroid", "logistic", "blend"]
SCORINGS: tuple[Scoring, ...] = ("blend", "logistic", "centroid")

Matrix = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]

FEWEST_SEEDS = 10
_FOLDS = 5
_SEED = 0


@dataclass(frozen=True)
class Lift:
    """How many of some people are among the first, over how many would be by chance."""

    value: float
    share: float  # of the people that counts as first
    found: int
    of: int


def likeness(vectors: Matrix, seeds: Sequence[int], scoring: Scoring = "blend") -> npt.NDArray[np.float64]:
    """How like the seeds everybody is; larger is more.

    `centroid` is the cosine to the mean of the seeds; `logistic` a penalised logistic regression of the seeds
    against everybody else on the standardised columns, seeds weighing as much as the others together; `blend` the
    mean of the ranks of both.

    Args:
        vectors: Columns that describe people, (U, F).
        seeds: Rows.
        scoring: See above.

    Raises:
        UsageError: If there are fewer than 10 seeds, or nobody else.
    """
    rows = np.unique(np.asarray(seeds, np.int64))
    if len(rows) < FEWEST_SEEDS or len(rows) >= len(vectors):
        raise UsageError(
            f"expected {FEWEST_SEEDS} to {len(vectors) - 1} people with profiles as seeds, got {len(rows)}; give others"
        )
    if scoring == "centroid":
        return _centroid(vectors, rows)
    if scoring == "logistic":
        return _logistic(vectors, rows)
    return _ranks(_centroid(vectors, rows)) + _ranks(_logistic(vectors, rows))


def lift(scores: npt.NDArray[np.float64], wanted: Rows, among: Rows, share: float = 0.1) -> Lift:
    """Of the people `among`, how many `wanted` ones are in the first `share`, over what chance would give.

    Args:
        scores: Of everybody, (U,).
        wanted: Rows that should come first; part of `among`.
        among: Rows that are ranked.
        share: Above 0, at most 1.

    >>> lift(np.array([3.0, 2.0, 1.0, 0.0]), np.array([0]), np.arange(4), 0.25).value
    4.0
    """
    first = among[np.argsort(-scores[among], kind="stable")[: max(1, round(share * len(among)))]]
    found = int(np.isin(first, wanted).sum())
    expected = len(wanted) * len(first) / len(among)
    return Lift(found / expected if expected else 0.0, len(first) / len(among), found, len(wanted))


def held_out_lift(vectors: Matrix, seeds: Sequence[int], scoring: Scoring = "blend", share: float = 0.1) -> Lift:
    """The lift that seeds have which the score has not seen: five parts, each found by the other four.

    It needs nothing but the seeds, so it says less than a known class would: people like the seeds who are no seeds
    count as wrong.

    Args:
        vectors: As `likeness`.
        seeds: Rows.
        scoring: As `likeness`.
        share: Of the people that counts as first.

    Raises:
        UsageError: If there are too few seeds.
    """
    rows = np.unique(np.asarray(seeds, np.int64))
    parts = np.array_split(np.random.default_rng(_SEED).permutation(rows), _FOLDS)
    found = of = 0
    expected = 0.0
    for part in parts:
        rest = np.setdiff1d(rows, part)
        one = lift(
            likeness(vectors, [int(row) for row in rest], scoring),
            part,
            np.setdiff1d(np.arange(len(vectors)), rest),
            share,
        )
        found, of, expected = found + one.found, of + one.of, expected + one.of * one.share
    return Lift(found / expected, share, found, of)


def _centroid(vectors: Matrix, rows: Rows) -> npt.NDArray[np.float64]:
    whole = vectors - vectors.mean(0)  # else what everybody shares is most of every cosine
    units = whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
    return np.asarray(units @ units[rows].mean(0), np.float64)


def _logistic(vectors: Matrix, rows: Rows) -> npt.NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    columns = StandardScaler().fit_transform(vectors)
    labels = np.zeros(len(vectors), np.int64)
    labels[rows] = 1
    model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=1000).fit(columns, labels)
    return np.asarray(model.decision_function(columns), np.float64)


def _ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(scores), np.float64)


_PENALTY = 0.003
"""Inverse strength, as scikit-learn counts: a hundred seeds tell little about sixty columns."""
