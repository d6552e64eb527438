"""People like some others, by their profiles, and how much better than chance that is. Calculation only.

Everybody is described three times: by the profile (vector, shares of categories, behaviour), by tastes (how the shares
stand to one another) and by the items touched. In each description people are ordered along the direction that best
parts the seeds from everybody (Fisher's linear discriminant with a ridge: Friedman 1989,
https://doi.org/10.2307/2289860), and the orders are added. Nothing but profiles is read: what
people declared about themselves is in none of the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from silhouette_client.segments.people import PeopleTable
from silhouette_shared.errors import UsageError

Scoring = Literal["blend", "profile", "tastes", "items"]
SCORINGS: tuple[Scoring, ...] = ("blend", "profile", "tastes", "items")

Matrix = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

FEWEST_SEEDS = 10
_FOLDS = 5
_SEED = 0
_RIDGE = {"profile": 3.0, "tastes": 3.0, "items": 1.0}  # a hundred seeds tell little about a hundred columns
_MOST_CATEGORIES = 64
_ITEM_COLUMNS = 256
_LEAST_SHARE = 0.01  # of a category that somebody has nothing of: logarithms need one


@dataclass(frozen=True)
class Described:
    """Everybody in three descriptions, columns of mean 0 and variance 1; one without columns says nothing."""

    profile: Matrix  # (U, F)
    tastes: Matrix  # (U, K)
    items: Matrix  # (U, G)

    def __len__(self) -> int:
        """How many people."""
        return len(self.profile)

    @cached_property
    def spreads(self) -> dict[str, Matrix]:
        """The inverse of each description's covariance with its ridge: the same for all seeds."""
        return {name: _inverse(getattr(self, name), ridge) for name, ridge in _RIDGE.items()}


@dataclass(frozen=True)
class Lift:
    """How many of some people are among the first, over how many would be by chance."""

    value: float
    share: float  # of the people that counts as first
    found: int
    of: int


def described(table: PeopleTable) -> Described:
    """The descriptions of a table's people."""
    shares = _shares(table)
    return Described(_profile(table, shares), _tastes(shares), _items(table))


def likeness(people: Described, seeds: Sequence[int], scoring: Scoring = "blend") -> Matrix:
    """How like the seeds everybody is, (U,); larger is more.

    Args:
        people: Everybody.
        seeds: Rows.
        scoring: By which description; `blend` adds them.

    Raises:
        UsageError: If there are fewer than 10 seeds, nobody else, or nothing to go by.
    """
    rows = np.unique(np.asarray(seeds, np.int64))
    if len(rows) < FEWEST_SEEDS or len(rows) >= len(people):
        raise UsageError(
            f"expected {FEWEST_SEEDS} to {len(people) - 1} people with profiles as seeds, got {len(rows)}; give others"
        )
    parts = {"profile": people.profile, "tastes": people.tastes, "items": people.items}
    chosen = [name for name in parts if scoring in (name, "blend") and parts[name].shape[1]]
    if not chosen:
        raise UsageError(f"expected profiles with what `{scoring}` compares, got none; build the profiles again")
    orders = [parts[name] @ (people.spreads[name] @ parts[name][rows].mean(0)) for name in chosen]
    return np.asarray(np.sum([_standard(order[:, None]) for order in orders], axis=0)[:, 0], np.float64)


def lift(scores: Matrix, wanted: Rows, among: Rows, share: float = 0.1) -> Lift:
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


def held_out_lift(people: Described, seeds: Sequence[int], scoring: Scoring = "blend", share: float = 0.1) -> Lift:
    """The lift that seeds have which the score has not seen: five parts, each found by the other four.

    It needs nothing but the seeds, so it says less than a known class would: people like the seeds who are no seeds
    count as wrong.

    Args:
        people: Everybody.
        seeds: Rows; at least 13, so that 10 are left to look by.
        scoring: As `likeness`.
        share: Of the people that counts as first.

    Raises:
        UsageError: If there are too few seeds.
    """
    rows = np.unique(np.asarray(seeds, np.int64))
    found = of = 0
    expected = 0.0
    for part in np.array_split(np.random.default_rng(_SEED).permutation(rows), _FOLDS):
        rest = np.setdiff1d(rows, part)
        scores = likeness(people, [int(row) for row in rest], scoring)
        one = lift(scores, part, np.setdiff1d(np.arange(len(people)), rest), share)
        found, of, expected = found + one.found, of + one.of, expected + one.of * one.share
    return Lift(found / expected, share, found, of)


def _inverse(columns: Matrix, ridge: float) -> Matrix:
    width = columns.shape[1]
    return np.asarray(np.linalg.inv(columns.T @ columns / len(columns) + ridge * np.eye(width)), np.float64)


def _shares(table: PeopleTable) -> Matrix:
    """Shares of the categories that most people have something of, (U, K)."""
    frequent = Counter(name for facts in table.facts for name in facts if name.startswith("share."))
    return np.nan_to_num(table.numbers(sorted(name for name, _ in frequent.most_common(_MOST_CATEGORIES))))


def _profile(table: PeopleTable, shares: Matrix) -> Matrix:
    from silhouette_client.segments.making import behaviour_of

    return _standard(np.hstack([table.vectors.astype(np.float64), shares, behaviour_of(table)]))


def _tastes(shares: Matrix) -> Matrix:
    """Centred log-ratios: Aitchison 1982, https://doi.org/10.1111/j.2517-6161.1982.tb01195.x."""
    if shares.shape[1] < 2:
        return np.zeros((len(shares), 0))
    logarithms = np.log(shares + _LEAST_SHARE)
    return _standard(logarithms - logarithms.mean(1, keepdims=True))


def _items(table: PeopleTable) -> Matrix:
    """TF-IDF of the items touched, in as many columns as say most of it (latent semantic analysis)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    number: dict[str, int] = {}
    columns = [number.setdefault(item, len(number)) for items in table.items for item in items]
    lengths = [len(items) for items in table.items]
    kept = min(_ITEM_COLUMNS, len(number) - 1, len(table) - 1)
    if kept < 1:
        return np.zeros((len(table), 0))
    rows = np.repeat(np.arange(len(table)), lengths)
    touched = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(table), len(number)))
    weighted = TfidfTransformer().fit_transform(touched)
    return _standard(np.asarray(TruncatedSVD(kept, random_state=_SEED).fit_transform(weighted), np.float64))


def _standard(columns: Matrix) -> Matrix:
    spread = columns.std(0)
    return np.asarray((columns - columns.mean(0)) / np.where(spread > 1e-12, spread, 1.0))
