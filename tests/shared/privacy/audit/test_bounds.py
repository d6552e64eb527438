"""Bounds on epsilon: known answers, another implementation, and both sides of the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from silhouette_shared.privacy.audit.bounds import (
    Shift,
    declared_shift,
    gaussian_bound,
    gaussian_epsilon,
    one_run_bound,
    one_run_epsilon,
    one_run_p_value,
    shift,
)
from silhouette_shared.privacy.mechanism import SampledGaussian

MECHANISM = SampledGaussian(noise_multiplier=0.8, sampling_rate=0.05, steps=100, clip_norm=2.0)


def p_value_of_the_paper(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The algorithm of Steinke et al. 2023, Appendix D, line by line."""
    q = 1 / (1 + math.exp(-epsilon))
    beta = stats.binom.sf(v - 1, r, q)
    alpha = total = 0.0
    for i in range(1, v + 1):
        total += stats.binom.pmf(v - i, r, q)
        if total > i * alpha:
            alpha = total / i
    return float(min(beta + alpha * delta * 2 * m, 1))


@pytest.mark.parametrize(
    ("m", "r", "v", "epsilon", "delta"),
    [(10, 10, 10, 0.0, 0.0), (1000, 100, 90, 1.0, 1e-5), (2000, 400, 380, 2.5, 1e-4), (50, 20, 3, 0.5, 0.1)],
)
def test_the_p_value_is_that_of_the_papers_algorithm(m: int, r: int, v: int, epsilon: float, delta: float) -> None:
    expected = p_value_of_the_paper(m, r, v, epsilon, delta)
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9)


def test_delta_makes_the_p_value_larger() -> None:
    assert one_run_p_value(1000, 100, 90, 1.0, 1e-3) > one_run_p_value(1000, 100, 90, 1.0, 0.0)


def test_all_guesses_right_without_delta_refutes_the_epsilon_of_a_closed_form() -> None:
    accuracy = 0.05 ** (1 / 100)  # P[100 of 100] = 0.05
    assert one_run_epsilon(100, 100, 100, 0.0, 0.05) == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-6)


def test_guesses_no_better_than_a_coin_refute_nothing() -> None:
    assert one_run_epsilon(1000, 200, 110, 1e-5, 0.05) == 0.0


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_counts_that_do_not_fit_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected correct <= guesses <= canaries"):
        one_run_p_value(*counts, 1.0, 0.0)


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="expected epsilon of 0 or more"):
        one_run_p_value(10, 5, 3, -1.0, 0.0)


def randomised_response(epsilon: float, canaries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A mechanism whose epsilon is known: each canary's bit, turned with probability 1 / (1 + e^epsilon)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    included = generator.random(canaries) < 0.5
    turned = generator.random(canaries) < 1 / (1 + math.exp(epsilon))
    return (included ^ turned) + 1e-3 * generator.random(canaries), included


def test_the_one_run_bound_lies_below_the_epsilon_of_randomised_response_and_near_it() -> None:
    bounds = [one_run_bound(*randomised_response(2.0, 4000, seed), delta=0.0) for seed in range(20)]
    assert sum(bound > 2.0 for bound in bounds) <= 3  # 5 % of 20 is one
    assert min(bounds) > 1.5


def test_the_one_run_bound_refutes_a_claim_half_as_large_as_the_truth() -> None:
    assert min(one_run_bound(*randomised_response(2.0, 4000, seed), delta=1e-6) for seed in range(5)) > 1.0


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0, 20.0])
def test_the_epsilon_of_a_gaussian_shift_is_that_of_the_gaussian_mechanism(mu: float) -> None:
    from dp_accounting import gaussian_mechanism

    expected = gaussian_mechanism.get_epsilon_gaussian(1 / mu, 1e-5)
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_no_shift_is_no_epsilon() -> None:
    assert gaussian_epsilon(0.0, 1e-5) == gaussian_epsilon(-1.0, 1e-5) == gaussian_epsilon(1e-7, 1e-5) == 0.0


def test_the_gaussian_bound_takes_off_three_standard_errors() -> None:
    found = Shift(difference=1.0, standardised=2.0, error=0.1)
    assert gaussian_bound(found, 1e-5) == pytest.approx(gaussian_epsilon(2 - 3.0902 * 0.1, 1e-5), rel=1e-4)


def test_the_shift_is_the_difference_of_the_means_over_the_pooled_deviation() -> None:
    included = np.array([True] * 4 + [False] * 4)
    scores = np.array([4.0, 6.0, 4.0, 6.0, 1.0, 3.0, 1.0, 3.0])
    found = shift(scores, included)
    assert found.difference == 3.0
    assert found.standardised == pytest.approx(3.0 / math.sqrt(4 / 3))


def test_a_shift_without_two_sides_or_without_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="two canaries on each side, got 3 and 0"):
        shift(np.arange(3.0), np.array([True] * 3))
    with pytest.raises(ValueError, match="expected scores that vary"):
        shift(np.ones(8), np.array([True, False] * 4))


def played(mechanism: SampledGaussian, included: np.ndarray, seed: int, noise: float = 1.0) -> np.ndarray:
    """The canaries' scores in clip norms, one step after the other."""
    generator = np.random.Generator(np.random.PCG64(seed))
    scores = np.zeros(len(included))
    for _ in range(mechanism.steps):
        there = included & (generator.random(len(included)) < mechanism.sampling_rate)
        scores += there + noise * mechanism.noise_std / mechanism.clip_norm * generator.standard_normal(len(included))
    return scores


@pytest.mark.parametrize(("noise", "there"), [(1.0, True), (0.5, False), (1.5, False)])
def test_the_declared_mechanism_is_recognised_and_no_other(noise: float, there: bool) -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    included = generator.random(2000) < 0.5
    expected = declared_shift(MECHANISM, included, 1.0, generator)
    found = shift(played(MECHANISM, included, 2, noise), included)
    mean, spread = expected.standardised
    assert (abs(found.standardised - mean) < 4 * spread) == there
    mean, spread = expected.difference
    assert mean == pytest.approx(5.0, abs=4 * spread)  # 100 steps, one in twenty


def test_the_simulation_is_the_same_each_time() -> None:
    included = np.arange(50) % 2 == 0
    one, other = (
        declared_shift(MECHANISM, included, 1.0, np.random.Generator(np.random.PCG64(3)), runs=5) for _ in range(2)
    )
    assert one == other
