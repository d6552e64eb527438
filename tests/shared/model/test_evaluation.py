"""Ranks, metrics, intervals and attribute scores."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torch import Tensor

from silhouette_shared.model.evaluation import (
    Interval,
    attribute_scores,
    coverage,
    diversity,
    hit_rate,
    mean_interval,
    ndcg,
    ndcg_gains,
    novelty,
    paired_bootstrap,
    pessimistic_ranks,
    top_items,
)

INFINITY = math.inf


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ranking_case(seed: int, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random scores with few distinct values, so that ties are the rule, and some infinities."""
    generator = _generator(seed)
    people, items, length = 5, 12, 7
    scores = torch.randint(levels, (people, items + 1), generator=generator).float()
    scores[scores == 0] = -INFINITY
    targets = torch.randint(1, items + 1, (people,), generator=generator)
    seen = torch.randint(0, items + 1, (people, length), generator=generator)
    return scores, targets, seen


def _rank_by_hand(scores: list[float], target: int, seen: list[int]) -> int:
    rivals = [item for item in range(1, len(scores)) if item not in seen and item != target]
    return sum(scores[item] >= scores[target] for item in rivals)


# Ranks


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_ranks_equal_counting_one_user_at_a_time(seed: int, levels: int) -> None:
    scores, targets, seen = _ranking_case(seed, levels)
    before = scores.clone()
    ranks = pessimistic_ranks(scores, targets, seen)
    rows = zip(scores.tolist(), targets.tolist(), seen.tolist(), strict=True)
    assert ranks.tolist() == [_rank_by_hand(*row) for row in rows]
    assert ranks.dtype == torch.int64
    assert torch.equal(scores, before)


def test_a_constant_scorer_comes_last() -> None:
    ranks = pessimistic_ranks(torch.zeros(1, 101), torch.tensor([7]), torch.tensor([[3, 4, 0]]))
    assert ranks.tolist() == [97]


def test_a_target_seen_before_is_still_ranked() -> None:
    scores = torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    assert pessimistic_ranks(scores, torch.tensor([2]), torch.tensor([[1, 2]])).tolist() == [0]


def test_padding_is_never_ahead_whatever_it_scores() -> None:
    scores = torch.tensor([[INFINITY, 1.0, 0.0]])
    no_history = torch.zeros(1, 0, dtype=torch.long)
    assert pessimistic_ranks(scores, torch.tensor([1]), no_history).tolist() == [0]


@pytest.mark.parametrize("width", [1683, 20_001])
def test_a_batch_of_512_users_is_ranked_within_seconds(width: int) -> None:
    generator = _generator(0)
    scores = torch.randn(512, width, generator=generator)
    targets = torch.randint(1, width, (512,), generator=generator)
    seen = torch.randint(0, width, (512, 200), generator=generator)
    started = time.process_time()  # of this process: the machine may have other work
    ranks = pessimistic_ranks(scores, targets, seen)
    top_items(scores, seen, 10)
    assert time.process_time() - started < 5  # 0.1 s and 0.5 s on one core
    assert 0 <= int(ranks.min()) <= int(ranks.max()) < width - 1


@pytest.mark.parametrize(
    ("scores", "targets", "seen", "message"),
    [
        (torch.zeros(4), [1], [[0]], "expected floating scores of shape (B, V + 1)"),
        (torch.zeros(1, 4, dtype=torch.long), [1], [[0]], "expected floating scores"),
        (torch.zeros(1, 1), [1], [[0]], "with V at least 1, got (1, 1)"),
        (torch.zeros(1, 4), [0], [[0]], "expected targets in 1..3, got one outside"),
        (torch.zeros(1, 4), [4], [[0]], "expected targets in 1..3, got one outside"),
        (torch.zeros(1, 4), [1, 2], [[0]], "expected one target per row of scores, shape (1,)"),
        (torch.zeros(1, 4), [1.0], [[0]], "expected integer targets, got torch.float32"),
        (torch.zeros(1, 4), [1], [[4]], "expected seen items in 0..3"),
        (torch.zeros(1, 4), [1], [0], "expected seen items of shape (1, S), got (1,)"),
        (torch.tensor([[0.0, 1.0, math.nan, 0.0]]), [1], [[2]], "got NaN; the model has diverged"),
    ],
)
def test_ranks_refuse_what_does_not_fit(scores: Tensor, targets: list[float], seen: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pessimistic_ranks(scores, torch.tensor(targets), torch.tensor(seen))


# Hit rate and NDCG


def test_hit_rate_and_ndcg_have_their_known_values() -> None:
    ranks = torch.tensor([0, 1, 9, 10, 500])
    assert hit_rate(ranks) == pytest.approx(3 / 5)
    assert ndcg(ranks) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 5, rel=1e-15)
    assert hit_rate(ranks, cutoff=1) == ndcg(ranks, cutoff=1) == pytest.approx(1 / 5)


def test_ndcg_is_that_of_scikit_learn_with_one_relevant_item() -> None:
    scores = torch.randn(40, 31, generator=_generator(1), dtype=torch.float64)
    targets = torch.randint(1, 31, (40,), generator=_generator(2))
    ranks = pessimistic_ranks(scores, targets, torch.zeros(40, 1, dtype=torch.long))
    relevance = torch.nn.functional.one_hot(targets - 1, 30)
    expected = reference.ndcg_score(relevance.numpy(), scores[:, 1:].numpy(), k=10)
    assert ndcg(ranks) == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_ndcg_lies_between_zero_and_the_hit_rate(ranks: list[int], cutoff: int) -> None:
    tensor = torch.tensor(ranks)
    assert 0 <= ndcg(tensor, cutoff) <= hit_rate(tensor, cutoff) + 1e-12
    assert ndcg_gains(tensor, cutoff).mean().item() == ndcg(tensor, cutoff)


@pytest.mark.parametrize(
    ("ranks", "cutoff", "message"),
    [
        (torch.zeros(0, dtype=torch.long), 10, "at least one user, got shape (0,)"),
        (torch.zeros(2, 2, dtype=torch.long), 10, "expected one rank per user"),
        (torch.tensor([-1]), 10, "expected integer ranks counted from 0"),
        (torch.tensor([1.0]), 10, "expected integer ranks counted from 0"),
        (torch.tensor([1]), 0, "expected a cutoff of at least 1, got 0"),
    ],
)
def test_metrics_refuse_what_is_no_rank(ranks: Tensor, cutoff: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        hit_rate(ranks, cutoff)
    with pytest.raises(ValueError, match=re.escape(message)):
        ndcg(ranks, cutoff)


# Lists of recommendations


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_top_items_equal_sorting_one_user_at_a_time(seed: int, levels: int, cutoff: int) -> None:
    scores, _, seen = _ranking_case(seed, levels)
    for row, row_scores, row_seen in zip(
        top_items(scores, seen, cutoff).tolist(), scores.tolist(), seen.tolist(), strict=True
    ):
        unseen = [item for item in range(1, len(row_scores)) if item not in row_seen]
        assert row == sorted(unseen, key=lambda item: (-row_scores[item], item))[:cutoff]


def test_top_items_refuse_a_list_longer_than_what_is_unseen() -> None:
    with pytest.raises(ValueError, match="at least 3 unseen items in every row, got 2"):
        top_items(torch.zeros(2, 4), torch.tensor([[0], [1]]), 3)
    with pytest.raises(ValueError, match="cutoff of at least 1"):
        top_items(torch.zeros(2, 4), torch.tensor([[0], [1]]), 0)


def test_coverage_counts_distinct_items() -> None:
    assert coverage(torch.tensor([[1, 2], [2, 3]]), items=12) == 0.25


def test_novelty_is_self_information_and_an_unknown_item_counts_as_the_rarest() -> None:
    shares = torch.tensor([0.9, 0.5, 0.125, 0.0])
    assert novelty(torch.tensor([[1, 1]]), shares) == 1.0
    assert novelty(torch.tensor([[1, 2]]), shares) == 2.0
    assert novelty(torch.tensor([[3, 2]]), shares) == 3.0


def test_diversity_has_its_known_values() -> None:
    categories = torch.tensor([[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert diversity(torch.tensor([[1, 2]]), categories) == pytest.approx(0)
    assert diversity(torch.tensor([[1, 3]]), categories) == pytest.approx(1)
    assert diversity(torch.tensor([[1, 2, 3]]), categories) == pytest.approx(2 / 3)
    assert diversity(torch.tensor([[4, 4]]), categories) == pytest.approx(1)


def test_diversity_is_the_mean_of_all_pairwise_cosine_distances() -> None:
    generator = _generator(3)
    categories = torch.rand(21, 5, generator=generator)
    top = torch.stack([torch.randperm(20, generator=generator)[:6] + 1 for _ in range(8)])
    distances = reference.pairwise.cosine_distances(categories.numpy())
    pairs = np.triu_indices(6, k=1)
    expected = np.mean([distances[np.ix_(row, row)][pairs].mean() for row in top.numpy()])
    assert diversity(top, categories) == pytest.approx(expected, rel=1e-6)


def test_list_metrics_refuse_what_does_not_fit() -> None:
    top = torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match=re.escape("recommended items in 1..1, got one outside")):
        coverage(top, items=1)
    with pytest.raises(ValueError, match=re.escape("shape (U, k), not empty, got (0, 2)")):
        coverage(top[:0], items=5)
    with pytest.raises(ValueError, match="between 0 and 1, got one outside"):
        novelty(top, torch.tensor([0.0, 3.0, 1.0]))
    with pytest.raises(ValueError, match="between 0 and 1, got one outside"):
        novelty(top, torch.tensor([0.0, math.nan, 1.0]))
    with pytest.raises(ValueError, match="got only shares of 0"):
        novelty(top, torch.zeros(3))
    with pytest.raises(ValueError, match=re.escape("shape (V + 1,), got (1, 3)")):
        novelty(top, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least 2 items per user to compare, got 1"):
        diversity(top[:, :1], torch.ones(3, 2))
    with pytest.raises(ValueError, match="expected finite category weights"):
        diversity(top, torch.full((3, 2), math.nan))
    with pytest.raises(ValueError, match=re.escape("shape (V + 1, G), got (3,)")):
        diversity(top, torch.ones(3))


# Intervals


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = torch.randn(4000, generator=_generator(4), dtype=torch.float64) * 2 + 5
    interval = mean_interval(values, generator=_generator(5))
    half_width = 1.96 * 2 / math.sqrt(4000)
    assert interval.mean == pytest.approx(float(values.mean()), rel=1e-12)
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.1)


def test_pairing_removes_what_the_users_share() -> None:
    hardness = torch.randn(1000, generator=_generator(6), dtype=torch.float64) * 10
    gain = torch.randn(1000, generator=_generator(7), dtype=torch.float64) * 0.1 + 0.05
    paired = paired_bootstrap(hardness + gain, hardness, generator=_generator(8))
    assert 0 < paired.low < 0.05 < paired.high < 0.1
    alone = mean_interval(hardness + gain, generator=_generator(8))
    assert alone.high - alone.low > 20 * (paired.high - paired.low)


def test_an_interval_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    values = torch.rand(50, generator=_generator(9))
    state = torch.get_rng_state()
    first = mean_interval(values, generator=_generator(1))
    assert mean_interval(values, generator=_generator(1)) == first
    assert mean_interval(values, generator=_generator(2)) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wider_level_gives_a_wider_interval_and_one_user_gives_a_point() -> None:
    values = torch.rand(200, generator=_generator(10))
    narrow = mean_interval(values, generator=_generator(1), level=0.5)
    wide = mean_interval(values, generator=_generator(1), level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    single = torch.tensor([0.25])
    assert mean_interval(single, generator=_generator(1)) == Interval(0.25, 0.25, 0.25)


def test_many_users_are_resampled_in_bounded_chunks() -> None:
    values = torch.ones(100_000)
    interval = mean_interval(values, generator=_generator(1), resamples=50)
    assert interval == Interval(1.0, 1.0, 1.0)


def test_intervals_refuse_what_does_not_fit() -> None:
    generator = _generator(0)
    with pytest.raises(ValueError, match="with at least one user, got"):
        mean_interval(torch.zeros(0), generator=generator)
    with pytest.raises(ValueError, match="expected finite values, got NaN"):
        mean_interval(torch.tensor([math.nan]), generator=generator)
    with pytest.raises(ValueError, match="at least 1 resample"):
        mean_interval(torch.ones(3), generator=generator, resamples=0)
    with pytest.raises(ValueError, match="level between 0 and 1, got level=1"):
        mean_interval(torch.ones(3), generator=generator, level=1)
    with pytest.raises(ValueError, match="same users in a and b, got 3 and 2"):
        paired_bootstrap(torch.ones(3), torch.ones(2), generator=generator)
    with pytest.raises(ValueError, match="expected finite b"):
        paired_bootstrap(torch.ones(1), torch.tensor([INFINITY]), generator=generator)


# Attributes


@given(st.integers(0, 10_000), st.integers(2, 6), st.booleans())
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_attribute_scores_are_those_of_scikit_learn(seed: int, classes: int, coarse: bool) -> None:
    generator = _generator(seed)
    probabilities = torch.rand(30, classes, generator=generator, dtype=torch.float64)
    if coarse:  # many ties
        probabilities = (probabilities * 3).round()
    truth = torch.randint(-1, classes, (30,), generator=generator)
    known = truth >= 0
    score = attribute_scores("age", probabilities, truth)
    labels, rows = truth[known].numpy(), probabilities[known].numpy()
    predicted = rows.argmax(axis=1)
    assert score.people == len(labels)
    assert score.classes == classes
    assert score.majority_rate == pytest.approx(np.bincount(labels).max() / len(labels))
    assert score.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    for ours, name in ((score.precision, "precision"), (score.recall, "recall"), (score.f1, "f1")):
        theirs = getattr(reference, f"{name}_score")
        assert ours == pytest.approx(theirs(labels, predicted, average="macro", zero_division=0))
    areas = [
        reference.roc_auc_score(labels == index, rows[:, index])
        for index in (range(classes) if classes > 2 else [1])
        if 0 < (labels == index).sum() < len(labels)
    ]
    assert score.auc == (pytest.approx(np.mean(areas)) if areas else None)


def test_a_constant_answer_reaches_the_majority_rate_and_an_area_of_one_half() -> None:
    truth = torch.tensor([0, 0, 0, 1])
    score = attribute_scores("gender", torch.tensor([[0.7, 0.3]]).expand(4, 2), truth)
    assert score.accuracy == score.majority_rate == 0.75
    assert score.auc == 0.5
    assert score.recall == 0.5
    assert score.precision == 0.375


def test_the_area_is_undefined_when_everybody_is_alike() -> None:
    score = attribute_scores("gender", torch.rand(3, 2), torch.tensor([1, 1, -1]))
    assert score.auc is None
    assert score.people == 2
    assert score.majority_rate == 1.0


def test_unknown_labels_are_left_out_even_where_the_scores_are_broken() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [math.nan, math.nan]])
    assert attribute_scores("gender", probabilities, torch.tensor([0, -1])).accuracy == 1.0


@pytest.mark.parametrize(
    ("probabilities", "truth", "message"),
    [
        (torch.rand(3), [0, 1, 0], "gender probabilities of shape (U, K) with K at least 2"),
        (torch.rand(3, 1), [0, 0, 0], "with K at least 2, got (3, 1)"),
        (torch.rand(3, 2), [0, 1], "expected one gender label per row, shape (3,), got (2,)"),
        (torch.rand(3, 2), [0, 1, 2], "expected gender labels in -1..1, got one outside"),
        (torch.rand(2, 2), [-1, -1], "expected somebody with a known gender, got nobody"),
        (torch.full((1, 2), math.nan), [0], "expected finite gender probabilities"),
    ],
)
def test_attribute_scores_refuse_what_does_not_fit(probabilities: Tensor, truth: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        attribute_scores("gender", probabilities, torch.tensor(truth))
