"""Epsilon against other accountants and formulas, and calibration back and forth."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import GaussianAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy import Grid, SampledGaussian, accounting, calibrate, curve, epsilon, epsilons, split
from silhouette_shared.privacy.accounting import ACCOUNTANTS, DISAGREEMENT, Accountant

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


def test_a_moments_accountant_of_2016_and_what_is_tight() -> None:
    """Abadi et al. 2016, section 5.1: q = 0.01, sigma = 4, 10,000 steps, delta 1e-5 give epsilon 1.26.

    They convert moments by the simplest rule; PLD and PRV have to lie below, and above the central limit 0.93 at which
    nothing is left out.
    """
    mechanism = _mechanism(4.0, 0.01, 10_000)
    orders = [1 + n / 10 for n in range(1, 100)] + list(range(12, 64))
    moments = compute_rdp(q=0.01, noise_multiplier=4.0, steps=10_000, orders=orders)
    simplest = min(a + math.log(1 / DELTA) / (order - 1) for order, a in zip(orders, moments, strict=True))
    assert simplest == pytest.approx(1.26, abs=0.005)
    assert 0.94 < epsilon(mechanism, DELTA) < epsilon(mechanism, DELTA, "rdp") < simplest


def test_the_answers_that_opacus_holds_itself_to() -> None:
    """Opacus' own test of its RDP accountant: noise 1.5, q = 0.04, 90 epochs."""
    assert epsilon(_mechanism(1.5, 0.04, 2250), DELTA, "rdp") == pytest.approx(7.32911117143, abs=1e-6)


def test_pld_is_what_dp_accounting_gives_with_its_own_events_on_a_finer_grid() -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp_event.PoissonSampledDpEvent(1 / 15, dp_event.GaussianDpEvent(1.0)), 300)
    accountant.compose(dp_event.GaussianDpEvent(4.0))
    exact = accountant.get_epsilon(DELTA)
    assert exact <= epsilon([USUAL, _mechanism(4.0)], DELTA) <= exact + 0.001


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_one_shots_and_training_compose_to_more_than_each_and_less_than_the_sum(accountant: Accountant) -> None:
    once = _mechanism(4.0)
    both = epsilon([once, USUAL], DELTA, accountant)
    assert both == epsilon([USUAL, once], DELTA, accountant)
    alone = epsilon(USUAL, DELTA, accountant)
    assert alone < both < alone + epsilon(once, DELTA, accountant)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_a_failed_round_costs_what_a_round_costs(accountant: Accountant) -> None:
    assert epsilon([USUAL.after(290), USUAL.after(10)], DELTA, accountant) == epsilon(USUAL, DELTA, accountant)


def test_gaussians_that_differ_compose_to_the_gaussian_of_their_squares() -> None:
    mechanisms = [_mechanism(3.0), _mechanism(5.0), _mechanism(7.0, steps=4)]
    together = (1 / 9 + 1 / 25 + 4 / 49) ** -0.5
    exact = _exact_gaussian_epsilon(together, DELTA)
    assert exact <= epsilon(mechanisms, DELTA) <= exact + 0.001
    assert exact <= epsilon(mechanisms, DELTA, "prv") <= exact + 0.02
    assert exact <= epsilon(mechanisms, DELTA, "rdp")


def test_prv_is_within_its_error_above_pld_and_rdp_is_looser_by_the_known_amount() -> None:
    found = epsilons(USUAL, DELTA)
    assert list(found) == ["pld", "prv", "rdp"]
    assert found["pld"] == pytest.approx(7.917, abs=0.001)
    assert 0 < found["prv"] - found["pld"] <= 0.02
    assert found["rdp"] == pytest.approx(8.762, abs=0.01)


AGREEMENT = [
    (sigma, rate, steps, delta)
    for (sigma, rate), (steps, delta) in itertools.product(
        ((0.7, 0.005), (1.0, 1 / 15), (2.0, 0.3), (8.0, 1.0), (5.0, 0.2), (1.5, 0.04)),
        ((1, 1e-5), (30, 1e-6), (60, 1e-5), (300, 1e-7), (1000, 1e-5)),
    )
]


@pytest.mark.parametrize(
    "uncapped", [pytest.param(AGREEMENT[3::7], id="few"), pytest.param(AGREEMENT, id="thirty", marks=pytest.mark.slow)]
)
def test_pld_and_prv_agree_and_neither_exceeds_rdp(uncapped: list[tuple[float, float, int, float]]) -> None:
    assert len(AGREEMENT) == 30
    for sigma, rate, steps, delta in uncapped:
        mechanism = _mechanism(sigma, rate, steps)
        pld, prv, rdp = (epsilon(mechanism, delta, accountant) for accountant in ACCOUNTANTS)
        assert abs(pld - prv) <= DISAGREEMENT, (sigma, rate, steps, delta)
        assert max(pld, prv) <= rdp, (sigma, rate, steps, delta)


@pytest.mark.parametrize(("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (5.0, 30, 1e-6), (60.0, 3000, 1e-4)])
def test_without_sampling_epsilon_is_that_of_one_gaussian(sigma: float, steps: int, delta: float) -> None:
    exact = _exact_gaussian_epsilon(sigma / math.sqrt(steps), delta)
    assert exact <= epsilon(_mechanism(sigma, 1.0, steps), delta) <= exact + 0.001
    assert exact <= epsilon(_mechanism(sigma, 1.0, steps), delta, "prv") <= exact + 0.02
    assert exact <= epsilon(_mechanism(sigma, 1.0, steps), delta, "rdp") <= exact * 1.25


@pytest.mark.filterwarnings("ignore:GDP accounting is experimental")
def test_the_accountant_we_leave_out_does_under_report() -> None:
    gdp = GaussianAccountant()
    gdp.history.append((0.6, 0.005, 300))
    assert gdp.get_epsilon(DELTA) == pytest.approx(1.284, abs=0.001)
    assert epsilon(_mechanism(0.6, 0.005, 300), DELTA) == pytest.approx(3.198, abs=0.01)


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
    for accountant in ACCOUNTANTS:
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
@settings(max_examples=2, deadline=None)
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
    assert spent[-1] == pytest.approx(epsilon(USUAL, DELTA), abs=1e-6)


def test_a_curve_agrees_with_epsilon_at_every_point_asked_for() -> None:
    for steps, value in curve(USUAL, DELTA, points=[1, 7, 150]):
        assert value == pytest.approx(epsilon(USUAL.after(steps), DELTA), abs=1e-4)


def test_a_curve_begins_above_what_was_paid_before() -> None:
    before = _mechanism(4.0)
    points = curve(USUAL, DELTA, points=[1, 300], beside=[before])
    assert points[0][1] > epsilon(before, DELTA)
    assert points[1][1] == pytest.approx(epsilon([before, USUAL], DELTA), abs=1e-4)


def test_a_short_run_has_one_point_a_step() -> None:
    assert [steps for steps, _ in curve(USUAL.after(3), DELTA)] == [1, 2, 3]


# What the formulas do not know


def test_overflow_and_arithmetic_are_taken_out_of_delta_and_added_to_epsilon() -> None:
    full = replace(USUAL.on_grid(Grid.of(1.0, 16), 100_000), batch_cap=40, overflow=1e-13)
    spent = epsilon(full, DELTA)
    parts = split(full, DELTA, spent)
    assert parts.overflow == pytest.approx(300 * (1 + math.exp(spent)) * 1e-13, rel=1e-6)
    assert parts.sampler == pytest.approx(DELTA / 200, rel=1e-3)
    assert 0 < parts.epsilon < 0.01
    assert parts.formula == pytest.approx(DELTA - parts.overflow - parts.sampler, rel=1e-3)
    assert epsilon(USUAL, parts.formula) + parts.epsilon == pytest.approx(spent, abs=1e-4)
    assert epsilon(USUAL, DELTA) < spent
    # Beside others the overflow of each counts, and those without a grid cost no arithmetic.
    assert split([full, USUAL], DELTA, spent) == parts
    assert split([full, full], DELTA, spent).overflow == pytest.approx(2 * parts.overflow)


def test_noise_of_several_parties_costs_the_arithmetic_of_all_their_draws() -> None:
    alone = USUAL.on_grid(Grid.of(1.0, 16), 100_000)
    shared = replace(alone, shares=4)
    # Four times the draws of half the standard deviation.
    assert split(shared, DELTA, 8.0).epsilon == pytest.approx(split(alone, DELTA, 8.0).epsilon, rel=0.05)
    assert split(replace(alone, noise_multiplier=2.0, shares=4), DELTA, 8.0).epsilon > split(alone, DELTA, 8.0).epsilon


def test_a_cap_that_cuts_too_often_is_refused_with_the_figures() -> None:
    with pytest.raises(UsageError, match=r"leave some of delta 1e-05, got .* for samples larger than their cap"):
        epsilon(replace(USUAL, batch_cap=19, overflow=0.03), DELTA)


def test_calibration_on_a_grid_with_a_cap_keeps_the_promise_as_a_whole() -> None:
    mechanism = calibrate(
        epsilon=2.0,
        delta=DELTA,
        sampling_rate=0.2,
        steps=60,
        clip_norm=0.5,
        people_bound=1000,
        grid=Grid.of(0.5, 16),
        size=300_000,
    )
    plain = calibrate(epsilon=2.0, delta=DELTA, sampling_rate=0.2, steps=60, clip_norm=0.5)
    assert mechanism.batch_cap is not None
    assert 200 < mechanism.batch_cap < 400
    assert mechanism.rounding > 0
    assert plain.noise_multiplier < mechanism.noise_multiplier < 1.01 * plain.noise_multiplier
    assert 1.99 < epsilon(mechanism, DELTA) <= 2.0


@given(st.floats(1.0, 8.0), st.floats(6.0, 40.0), st.sampled_from([(0.2, 60), (1 / 15, 300)]))
@settings(max_examples=2, deadline=None)
def test_calibration_pays_for_what_is_beside(target: float, sigma: float, schedule: tuple[float, int]) -> None:
    beside = (_mechanism(sigma), _mechanism(2 * sigma))
    rate, steps = schedule
    if epsilon(beside, DELTA) > 0.9 * target:
        return
    mechanism = calibrate(epsilon=target, delta=DELTA, sampling_rate=rate, steps=steps, clip_norm=1.0, beside=beside)
    assert 0.99 * target < epsilon([*beside, mechanism], DELTA) <= target


def test_a_budget_that_is_spent_before_training_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected a target within reach, got epsilon 1\.0 .*noise_multiplier=1,"):
        calibrate(epsilon=1.0, delta=DELTA, sampling_rate=0.2, steps=60, clip_norm=1.0, beside=[_mechanism(1.0)])


def test_noise_is_not_used_if_the_accountants_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    right = accounting._prv
    monkeypatch.setattr(accounting, "_prv", lambda steps, delta: right(steps, delta) + 0.05)
    accounting._epsilon.cache_clear()
    try:
        with pytest.raises(IntegrityError, match=r"agree within 0\.02, got PLD 3\.\d+ and PRV 3\.\d+"):
            calibrate(epsilon=3.3, delta=DELTA, sampling_rate=0.11, steps=33, clip_norm=1.0)
    finally:
        accounting._epsilon.cache_clear()


# Refusals


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    for call in (epsilon, epsilons, curve):
        with pytest.raises(UsageError, match="expected a delta between 0 and 1"):
            call(USUAL, delta)
    with pytest.raises(UsageError, match="expected a delta between 0 and 1"):
        calibrate(epsilon=1, delta=delta, sampling_rate=0.1, steps=1, clip_norm=1)


def test_the_accountant_that_under_reports_is_refused() -> None:
    with pytest.raises(UsageError, match=r"got 'gdp'; gdp is not offered because it under-reports: 1\.28 where pld"):
        epsilon(USUAL, DELTA, "gdp")  # type: ignore[arg-type]


def test_noise_too_weak_to_account_for_is_refused_and_never_approximated() -> None:
    for call in (epsilon, curve, lambda mechanism, delta: epsilon(mechanism, delta, "prv")):
        with pytest.raises(UsageError, match="move the noise multiplier towards 1") as caught:
            call(_mechanism(0.01, 1.0, 3000), DELTA)
        assert "noise_multiplier=0.01" in str(caught.value)


@pytest.mark.parametrize("accountant", ["pld", "prv"])
def test_a_delta_at_which_transforms_round_too_much_is_left_to_rdp(accountant: Accountant) -> None:
    with pytest.raises(UsageError, match=r"expected a delta of at least 1e-11 for .*ask the rdp accountant"):
        epsilon(USUAL, 1e-12, accountant)
    assert epsilon(USUAL, 1e-12, "rdp") > epsilon(USUAL, 1e-10, "rdp")


def test_pld_does_not_under_report_at_the_smallest_delta() -> None:
    """Composed by transforms, on coarse and fine grids; without the allowance for their rounding it would."""
    for sigma, rate, steps in ((60.0, 1 - 1e-12, 3000), (5.0, 1 - 1e-12, 30)):
        exact = _exact_gaussian_epsilon(sigma / math.sqrt(steps), 1e-11)
        assert exact <= epsilon(_mechanism(sigma, rate, steps), 1e-11) <= exact + 0.02


def test_nothing_spent_is_no_budget() -> None:
    with pytest.raises(UsageError, match="expected at least one mechanism that is paid for"):
        epsilon([], DELTA)


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
