"""The counting recommenders, by hand and against the numbers measured before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silhouette_shared.errors import UnavailableError
from silhouette_shared.model.evaluation import hit_rate, ndcg, pessimistic_ranks
from silhouette_simulations.baselines import Ease, Popularity, Scorer, TransitionCounts

Array = npt.NDArray[np.int64]
Fit = Callable[[list[Array], int], Scorer]
FITS: tuple[Fit, ...] = (Popularity.fit, TransitionCounts.fit, Ease.fit)
MOVIELENS_1M = Path(__file__).parents[3] / "shared" / "data" / "ml-1m" / "interactions.csv"

histories_of_five_items = st.lists(st.lists(st.integers(1, 5), max_size=15), min_size=1, max_size=8).map(
    lambda rows: [np.array(row, dtype=np.int64) for row in rows]
)


def _histories(*rows: Sequence[int]) -> list[Array]:
    return [np.array(row, dtype=np.int64) for row in rows]


def _leave_one_out(
    sequences: list[Array], items: int, fit: Callable[[list[Array], int], Scorer]
) -> tuple[float, float]:
    """HR@10 and NDCG@10 of the last events, fitted on all but them."""
    histories = [sequence[:-1] for sequence in sequences]
    targets = torch.tensor([int(sequence[-1]) for sequence in sequences])
    seen = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(history.astype(np.int64)) for history in histories], batch_first=True
    )
    scorer = fit(histories, items)
    ranks = torch.cat(
        [
            pessimistic_ranks(
                torch.from_numpy(scorer.scores(histories[start : start + 512])),
                targets[start : start + 512],
                seen[start : start + 512],
            )
            for start in range(0, len(histories), 512)
        ]
    )
    return hit_rate(ranks), ndcg(ranks)


@pytest.mark.parametrize("fit", FITS)
@given(histories=histories_of_five_items)
@settings(max_examples=30, deadline=None)
def test_every_item_gets_a_finite_score_and_padding_none(fit: Fit, histories: list[Array]) -> None:
    scores = fit(histories, 5).scores(histories)
    assert scores.shape == (len(histories), 6)
    assert scores.dtype == np.float64
    assert np.isneginf(scores[:, 0]).all()
    assert np.isfinite(scores[:, 1:]).all()


@pytest.mark.parametrize("fit", FITS)
@given(histories=histories_of_five_items)
@settings(max_examples=30, deadline=None)
def test_a_person_is_scored_alike_alone_and_in_a_batch(fit: Fit, histories: list[Array]) -> None:
    scorer = fit(histories, 5)
    together = scorer.scores(histories)
    for row, history in zip(together, histories, strict=True):
        np.testing.assert_allclose(scorer.scores([history])[0], row, rtol=1e-12, atol=1e-12)


def test_popularity_counts_people_and_not_events() -> None:
    histories = _histories([1, 1, 1, 2], [2], [2, 3])
    scorer = Popularity.fit(histories, items=4)
    assert scorer.people_per_item.tolist() == [0, 1, 3, 1, 0]
    order = np.argsort(-scorer.scores(histories)[0])
    assert order.tolist() == [2, 3, 1, 4, 0]  # of 1 and 3, equally popular, the larger id


@given(histories=histories_of_five_items)
@settings(max_examples=50, deadline=None)
def test_transition_counts_equal_counting_pair_by_pair(histories: list[Array]) -> None:
    counts = np.zeros((6, 6))
    people = np.zeros(6)
    for history in histories:
        for position, item in enumerate(history):
            for lag in (1, 2, 3):
                if position >= lag:
                    counts[history[position - lag], item] += 1 / lag
        people[list(set(history.tolist()))] += 1
    totals = counts.sum(axis=1, keepdims=True)
    rows = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    for history, scores in zip(histories, TransitionCounts.fit(histories, 5).scores(histories), strict=True):
        expected = 1e-9 * people + 1e-13 * np.arange(6)
        for age, item in enumerate(history[::-1][:10]):
            expected = expected + 0.8**age * rows[item]
        np.testing.assert_allclose(scores[1:], expected[1:], rtol=1e-10, atol=1e-15)


def test_no_transition_is_counted_from_one_person_to_the_next() -> None:
    scorer = TransitionCounts.fit(_histories([1, 2], [3, 4]), items=4)
    assert scorer.transitions.toarray()[2].sum() == 0
    assert scorer.transitions.toarray()[1].tolist() == [0, 0, 1, 0, 0]


def test_a_person_without_history_gets_the_popular_items() -> None:
    histories = _histories([1, 2], [2, 3], [2])
    for fit in (Popularity.fit, TransitionCounts.fit):
        scores = fit(histories, 3).scores(_histories([]))
        assert scores[0].argmax() == 2


@given(histories=histories_of_five_items, regularisation=st.floats(0.5, 500))
@settings(max_examples=30, deadline=None)
def test_ease_solves_its_constrained_ridge_regression(histories: list[Array], regularisation: float) -> None:
    incidence = np.zeros((len(histories), 5))
    for row, history in zip(incidence, histories, strict=True):
        row[history - 1] = 1
    weights = Ease.fit(histories, 5, regularisation=regularisation).weights
    assert not weights[0].any()
    assert not weights[:, 0].any()
    for item in range(5):
        others = [index for index in range(5) if index != item]
        x = incidence[:, others]
        expected = np.linalg.solve(x.T @ x + regularisation * np.eye(4), x.T @ incidence[:, item])
        np.testing.assert_allclose(weights[1:, 1:][others, item], expected, atol=1e-9)
        assert weights[item + 1, item + 1] == 0


@pytest.mark.parametrize("fit", FITS)
def test_ids_outside_the_catalogue_and_empty_input_are_refused(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"item ids in 1\.\.3, got one outside"):
        fit(_histories([1, 4]), 3)
    with pytest.raises(ValueError, match=r"item ids in 1\.\.3, got one outside"):
        fit(_histories([0, 1]), 3)
    with pytest.raises(ValueError, match="at least one item and one person"):
        fit([], 3)
    with pytest.raises(ValueError, match="at least one item and one person"):
        fit(_histories([1]), 0)
    floats: Any = [np.array([1.0, 2.0])]
    with pytest.raises(ValueError, match="one-dimensional integer histories"):
        fit(floats, 3)
    scorer = fit(_histories([1, 2]), 3)
    with pytest.raises(ValueError, match=r"item ids in 1\.\.3, got one outside"):
        scorer.scores(_histories([9]))
    assert scorer.scores([]).shape == (0, 4)


@pytest.mark.parametrize("regularisation", [0.0, -1.0, np.inf, np.nan])
def test_ease_refuses_a_regularisation_that_is_not_positive(regularisation: float) -> None:
    with pytest.raises(ValueError, match="positive, finite regularisation"):
        Ease.fit(_histories([1, 2]), 2, regularisation=regularisation)


@pytest.mark.slow
def test_the_numbers_of_movielens_100k_are_reproduced(home: Path) -> None:
    datasets = pytest.importorskip("silhouette_simulations.datasets")
    try:
        dataset = datasets.get("ml-100k", home=home, source=None, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(f"the data set cannot be fetched here: {error}")
    events = dataset.events.sort_values("timestamp", kind="stable")
    index = dataset.catalogue.index
    sequences = [
        np.array([index[item] for item in group["item"]], dtype=np.int64)
        for _, group in events.groupby("user", sort=False)
    ]
    items = len(dataset.catalogue.items)
    assert _leave_one_out(sequences, items, Popularity.fit)[1] == pytest.approx(0.0439, abs=2e-3)
    assert _leave_one_out(sequences, items, Ease.fit)[1] == pytest.approx(0.0718, abs=2e-3)
    hits, gain = _leave_one_out(sequences, items, TransitionCounts.fit)
    assert hits == pytest.approx(0.1877, abs=2e-3)
    assert gain == pytest.approx(0.1074, abs=2e-3)


@pytest.mark.slow
@pytest.mark.skipif(not MOVIELENS_1M.is_file(), reason="MovieLens-1M is not in ../shared/data beside the repository")
def test_the_numbers_of_movielens_1m_are_reproduced() -> None:
    table = np.loadtxt(MOVIELENS_1M, delimiter=",", skiprows=1, dtype=np.int64)
    table = table[np.lexsort((table[:, 3], table[:, 0]))]  # user_id, movie_id, rating, seq
    movies, ids = np.unique(table[:, 1], return_inverse=True)
    starts = np.flatnonzero(np.diff(table[:, 0])) + 1
    sequences = np.split(ids + 1, starts)
    items = len(movies)

    def ease(histories: list[Array], count: int) -> Scorer:
        return Ease.fit(histories, count, regularisation=500.0)

    assert _leave_one_out(sequences, items, Popularity.fit)[1] == pytest.approx(0.0179, abs=5e-4)
    assert _leave_one_out(sequences, items, ease)[1] == pytest.approx(0.0545, abs=5e-4)
    hits, gain = _leave_one_out(sequences, items, TransitionCounts.fit)
    assert hits == pytest.approx(0.2634, abs=5e-4)
    assert gain == pytest.approx(0.1514, abs=5e-4)
