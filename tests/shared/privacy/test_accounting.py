"""Epsilon against other accountants and formulas, and calibration back and forth."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import GaussianAccountant

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy import SampledGaussian, calibrate, curve, epsilon, epsilons

DELTA = 1e-5


def _mechanism(sigma: float, rate: float = 1.0, steps: int = 1) -> SampledGaussian:
    return SampledGaussian(noise_multiplier=sigma, sampling_rate=rate, steps=steps, clip_norm=1.0)


USUAL = _mechanism(1.0, 1 / 15, 300)


def _exact_gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, solved for epsilon; https://arxiv.org/abs/1805.06530."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    low, high = 0.0, 200.0
    for _ in range(200):
        middle = (low + high) / 2
        spent = normal(0.5 / sigma - middle * sigma) - math.exp(middle) * normal(-0.5 / sigma - middle * sigma)
        low, high = (middle, high) if spent > delta else (low, middle)
    return high


# Known answers


def test_prv_is_within_its_error_above_google_pld() -> None:
    # 7.921 is dp-accounting's PLD for the same mechanism with add-or-remove neighbours.
    assert 7.921 <= epsilon(USUAL, DELTA) <= 7.921 + 0.02


def test_rdp_is_looser_by_the_known_amount() -> None:
    both = epsilons(USUAL, DELTA)
    assert list(both) == ["prv", "rdp"]
    assert both["rdp"] == pytest.approx(8.762, abs=0.01)
    assert 1.07 < both["rdp"] / both["prv"] < 1.24


@pytest.mark.parametrize(("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (5.0, 30, 1e-6), (60.0, 3000, 1e-4)])
def test_without_sampling_epsilon_is_that_of_one_gaussian(sigma: float, steps: int, delta: float) -> None:
    exact = _exact_gaussian_epsilon(sigma / math.sqrt(steps), delta)
    assert exact <= epsilon(_mechanism(sigma, 1.0, steps), delta) <= exact + 0.02
    assert exact <= epsilon(_mechanism(sigma, 1.0, steps), delta, "rdp") <= exact * 1.25


@pytest.mark.filterwarnings("ignore:GDP accounting is experimental")
def test_the_accountant_we_leave_out_does_under_report() -> None:
    gdp = GaussianAccountant()
    gdp.history.append((0.6, 0.005, 300))
    assert gdp.get_epsilon(DELTA) == pytest.approx(1.284, abs=0.001)
    assert epsilon(_mechanism(0.6, 0.005, 300), DELTA) == pytest.approx(3.209, abs=0.01)


def test_no_library_warning_reaches_the_person() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epsilons(_mechanism(41.0, 1.0, 300), 2e-6)
        epsilons(_mechanism(41.0, 0.3, 300), 2e-6)


# Properties


@given(st.floats(0.7, 5.0), st.floats(1.05, 2.0), st.sampled_from([0.02, 0.1, 1.0]))
@settings(max_examples=4, deadline=None)
def test_more_noise_costs_less(sigma: float, factor: float, rate: float) -> None:
    weak, strong = _mechanism(sigma, rate, 50), _mechanism(sigma * factor, rate, 50)
    for accountant in ("prv", "rdp"):
        assert epsilon(strong, DELTA, accountant) < epsilon(weak, DELTA, accountant)


@given(st.floats(0.8, 5.0), st.floats(0.01, 0.4), st.integers(2, 200))
@settings(max_examples=4, deadline=None)
def test_more_steps_more_people_and_a_smaller_delta_cost_more(sigma: float, rate: float, steps: int) -> None:
    base = epsilon(_mechanism(sigma, rate, steps), DELTA)
    assert epsilon(_mechanism(sigma, rate, 2 * steps), DELTA) >= base
    assert epsilon(_mechanism(sigma, 2 * rate, steps), DELTA) >= base
    assert epsilon(_mechanism(sigma, rate, steps), DELTA / 10) >= base


def test_the_clip_norm_does_not_change_epsilon() -> None:
    wide = SampledGaussian(noise_multiplier=1.0, sampling_rate=1 / 15, steps=300, clip_norm=50.0)
    assert epsilon(wide, DELTA) == epsilon(USUAL, DELTA)


@given(st.floats(0.5, 16.0), st.sampled_from([0.005, 1 / 15, 1.0]), st.sampled_from([1, 60, 300]))
@settings(max_examples=4, deadline=None)
def test_calibration_meets_its_target_from_below_and_closely(target: float, rate: float, steps: int) -> None:
    mechanism = calibrate(epsilon=target, delta=DELTA, sampling_rate=rate, steps=steps, clip_norm=0.5)
    assert epsilon(mechanism, DELTA) <= target
    less = _mechanism(mechanism.noise_multiplier * (1 - 2e-3), rate, steps)
    assert epsilon(less, DELTA) > target
    assert (mechanism.sampling_rate, mechanism.steps, mechanism.clip_norm) == (rate, steps, 0.5)


def test_epsilon_to_noise_to_epsilon_and_back_is_a_round_trip() -> None:
    target = epsilon(USUAL, DELTA)
    mechanism = calibrate(epsilon=target, delta=DELTA, sampling_rate=1 / 15, steps=300, clip_norm=1.0)
    assert mechanism.noise_multiplier == pytest.approx(1.0, rel=1.1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "rate", "steps", "delta"),
    list(itertools.product((0.5, 2.0, 16.0), (0.005, 1 / 15, 1.0), (1, 300, 3000), (1e-6, 1e-4))),
)
def test_every_usual_setting_can_be_calibrated(target: float, rate: float, steps: int, delta: float) -> None:
    mechanism = calibrate(epsilon=target, delta=delta, sampling_rate=rate, steps=steps, clip_norm=1.0)
    assert 0.99 * target <= epsilon(mechanism, delta) <= target


# Curves


def test_a_curve_rises_to_the_epsilon_of_all_steps() -> None:
    points = curve(USUAL, DELTA, points=10)
    assert [steps for steps, _ in points] == list(range(30, 301, 30))
    spent = [value for _, value in points]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(epsilon(USUAL, DELTA), abs=1e-9)


def test_a_curve_agrees_with_epsilon_at_every_point_asked_for() -> None:
    for steps, value in curve(USUAL, DELTA, points=[1, 7, 150]):
        assert value == pytest.approx(epsilon(USUAL.after(steps), DELTA), abs=0.02)


def test_a_short_run_has_one_point_a_step() -> None:
    assert [steps for steps, _ in curve(USUAL.after(3), DELTA)] == [1, 2, 3]


# Refusals


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    for call in (epsilon, epsilons, curve):
        with pytest.raises(UsageError, match="expected a delta between 0 and 1"):
            call(USUAL, delta)
    with pytest.raises(UsageError, match="expected a delta between 0 and 1"):
        calibrate(epsilon=1, delta=delta, sampling_rate=0.1, steps=1, clip_norm=1)


def test_the_accountant_that_under_reports_is_refused() -> None:
    with pytest.raises(UsageError, match="got 'gdp'; gdp is not offered because it under-reports"):
        epsilon(USUAL, DELTA, "gdp")  # type: ignore[arg-type]


def test_noise_too_weak_to_account_for_is_refused_and_never_approximated() -> None:
    for call in (epsilon, curve):
        with pytest.raises(UsageError, match="move the noise multiplier towards 1") as caught:
            call(_mechanism(0.01, 1.0, 3000), DELTA)
        assert "noise_multiplier=0.01" in str(caught.value)


@pytest.mark.parametrize("target", [0.0, -1.0, 0.04, math.inf, math.nan])
def test_a_target_out_of_range_is_refused(target: float) -> None:
    with pytest.raises(UsageError, match=r"expected a finite epsilon of at least 0\.05"):
        calibrate(epsilon=target, delta=DELTA, sampling_rate=0.1, steps=1, clip_norm=1)


def test_calibration_checks_the_other_arguments_as_the_mechanism_does() -> None:
    with pytest.raises(UsageError, match="expected a sampling_rate above 0"):
        calibrate(epsilon=1, delta=DELTA, sampling_rate=0, steps=1, clip_norm=1)
    with pytest.raises(UsageError, match="whole number of steps"):
        calibrate(epsilon=1, delta=DELTA, sampling_rate=0.1, steps=0, clip_norm=1)


def test_a_target_that_needs_no_noise_is_refused() -> None:
    # Below delta people are sampled at all, so any noise keeps it.
    with pytest.raises(UsageError, match="expected a target that needs noise"):
        calibrate(epsilon=1, delta=1e-3, sampling_rate=1e-4, steps=1, clip_norm=1)


def test_points_outside_the_run_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected points in 1\.\.300, got 0\.\.301"):
        curve(USUAL, DELTA, points=[0, 301])
    with pytest.raises(UsageError, match="at least 1 point"):
        curve(USUAL, DELTA, points=0)
