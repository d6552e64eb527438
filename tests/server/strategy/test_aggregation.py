"""The mean is weighted by the roster and does not depend on who answered first."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from silhouette_server.strategy.aggregation import weighted_mean

vectors = st.dictionaries(
    st.text(max_size=3),
    hnp.arrays(np.float32, 5, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    min_size=1,
    max_size=4,
)


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


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0}])
def test_an_update_without_a_weight_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected a positive weight for every update, got none for \['a'\]"):
        weighted_mean({"a": np.zeros(2, np.float32)}, weights)
