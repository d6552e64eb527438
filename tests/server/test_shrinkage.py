"""A released number gives way to what it probably is, and how much is noise needs no setting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silhouette_server.shrinkage import posterior_means

COUNT = 10_000


def noised(true: np.ndarray, noise_std: float, seed: int = 0) -> np.ndarray:
    return true + noise_std * np.random.default_rng(seed).standard_normal(len(true))


def few_large() -> np.ndarray:
    """One number in fifty is twelve, the others are nothing."""
    return np.where(np.arange(COUNT) % 50 == 0, 12.0, 0.0)


def error(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.square(found - true).mean())


@pytest.mark.parametrize("noise_std", [0.5, 2.0, 6.0])
def test_means_are_nearer_to_the_truth_than_any_threshold(noise_std: float) -> None:
    true = few_large()
    released = noised(true, noise_std)
    found = posterior_means(released, noise_std, np.ones(COUNT))
    thresholds = [np.where(released > times * noise_std, released, 0.0) for times in (0.0, 1.0, 2.0, 3.0, 4.0)]
    assert error(found, true) < min(error(kept, true) for kept in thresholds)


def test_what_is_known_to_be_larger_is_believed_more() -> None:
    true = np.repeat([0.0, 4.0], COUNT // 2)
    released = noised(true, 2.0)
    told = posterior_means(released, 2.0, true)
    untold = posterior_means(released, 2.0, np.ones(COUNT))
    assert error(told, true) < 0.2 * error(untold, true)


def test_pure_noise_becomes_next_to_nothing() -> None:
    found = posterior_means(noised(np.zeros(COUNT), 3.0), 3.0, np.ones(COUNT))
    assert float(found.max()) < 1.0
    assert float(found.mean()) < 0.3


def test_without_noise_only_what_is_below_zero_changes() -> None:
    assert posterior_means(np.array([-1.0, 0.5, 7.0]), 0.0, np.ones(3)).tolist() == [0.0, 0.5, 7.0]
    assert posterior_means(np.empty(0), 1.0, np.empty(0)).shape == (0,)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=40),
    st.floats(0.01, 100.0),
    st.integers(0, 5),
)
def test_means_are_finite_at_least_zero_and_ascend_within_a_group(values: list[float], noise: float, seed: int) -> None:
    released = np.sort(np.array(values))
    found = posterior_means(released, noise, np.ones(len(values)))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (np.diff(found) >= -0.3 * noise).all()  # where the group's table ends, by no more than a bin
    expected = np.random.default_rng(seed).random(len(values))
    assert np.isfinite(posterior_means(released, noise, expected)).all()
