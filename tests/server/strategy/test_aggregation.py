"""The mean is weighted by the roster and does not depend on who answered first."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from silhouette_server.strategy.aggregation import OrderedMean

vectors = st.dictionaries(
    st.text(max_size=3),
    hnp.arrays(np.float32, 5, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    min_size=1,
    max_size=4,
)


def weighted_mean(updates: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    mean = OrderedMean(weights)
    for name, update in updates.items():
        mean.add(name, update)
    return mean.finish()


def test_the_mean_counts_each_partner_by_its_people() -> None:
    updates = {"a": np.array([1, 0], np.float32), "b": np.array([4, 2], np.float32)}
    assert weighted_mean(updates, {"a": 1.0, "b": 3.0}).tolist() == [3.25, 1.5]


def test_a_partner_that_did_not_answer_does_not_count() -> None:
    updates = {"a": np.array([1, 0], np.float32)}
    assert weighted_mean(updates, {"a": 1.0, "b": 300.0}).tolist() == [1.0, 0.0]


@given(vectors, st.integers(1, 1000))
def test_the_order_of_arrival_does_not_change_a_bit(updates: dict[str, np.ndarray], start: int) -> None:
    weights = {name: float(start + 7 * i) for i, name in enumerate(sorted(updates))}
    means = [
        weighted_mean({name: updates[name] for name in order}, weights).tobytes() for order in permutations(updates)
    ]
    assert len(set(means)) == 1


def test_large_sums_do_not_overflow() -> None:
    largest = np.full(3, np.finfo(np.float32).max)
    assert np.array_equal(weighted_mean({"a": largest, "b": largest}, {"a": 1e6, "b": 1e6}), largest.astype(np.float64))


def test_nothing_to_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one update, got none"):
        weighted_mean({}, {"a": 1.0})


def test_an_update_of_somebody_who_is_not_in_the_roster_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a positive weight for every update, got none for a"):
        weighted_mean({"a": np.zeros(2, np.float32)}, {"b": 1.0})


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"expected a positive weight for every partner, got none for \['a'\]"):
        OrderedMean({"a": weight})


def test_updates_that_come_in_turn_are_not_kept_and_one_that_is_passed_over_is_not_waited_for() -> None:
    mean = OrderedMean({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
    mean.add("a", np.ones(2, np.float32))
    assert not mean._waiting
    mean.add("c", np.full(2, 3, np.float32))
    assert set(mean._waiting) == {"c"}
    mean.pass_over("b")
    assert not mean._waiting
    assert mean.finish().tolist() == [2.0, 2.0]
