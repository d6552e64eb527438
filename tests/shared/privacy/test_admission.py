"""The filter and the composition of a run: never below the truth, and close enough to be used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy import SampledGaussian, calibrate, epsilon
from silhouette_shared.privacy.admission import ORDERS, Filter, divergences, merged, run_epsilon
from silhouette_shared.privacy.grid import Grid

DELTA = 1e-5
TRAINING = SampledGaussian(noise_multiplier=1.0, sampling_rate=1 / 15, steps=300, clip_norm=1.0)
ONCE = SampledGaussian(noise_multiplier=4.0, sampling_rate=1.0, steps=1, clip_norm=1.0)
SETTINGS = [
    TRAINING,
    ONCE,
    SampledGaussian(noise_multiplier=2.2, sampling_rate=0.2, steps=60, clip_norm=1.0),
    SampledGaussian(noise_multiplier=1.0, sampling_rate=0.01, steps=2000, clip_norm=1.0),
    SampledGaussian(noise_multiplier=0.7, sampling_rate=1.0, steps=1, clip_norm=1.0),
]


@pytest.mark.parametrize("mechanism", SETTINGS)
def test_the_filter_is_above_pld_and_a_little_above_rdp(mechanism: SampledGaussian) -> None:
    exact, rdp = epsilon(mechanism, DELTA), epsilon(mechanism, DELTA, "rdp")
    filtered = Filter.for_ledger(rdp, DELTA, mechanism).epsilon([mechanism], divergences(mechanism))
    assert exact < rdp <= filtered < 1.06 * rdp


def test_a_gaussian_diverges_by_its_formula() -> None:
    # Mironov 2017, proposition 7.
    assert divergences(replace(ONCE, steps=3)) == pytest.approx(3 * ORDERS / (2 * 4.0**2))


def test_the_parts_of_delta_add_up_to_delta_and_no_order_gets_all() -> None:
    # At one order alone the conversion is that of Balle et al.; the filter may never be below it at that order.
    order = int(np.flatnonzero(ORDERS == 8)[0])
    found = Filter(DELTA, order)
    total = divergences(TRAINING)
    floor = np.min(total + np.log1p(-1 / ORDERS) - (np.log(DELTA) + np.log(ORDERS)) / (ORDERS - 1))
    assert found.epsilon([TRAINING], total) > floor
    implied = np.array([_delta_of(found, index) for index in range(len(ORDERS))])
    assert implied.sum() == pytest.approx(DELTA, rel=1e-6)
    assert implied.max() < DELTA


def _delta_of(found: Filter, index: int) -> float:
    """The part of delta that the filter gives an order: the others are made useless."""
    total = np.full(len(ORDERS), 1e9)
    total[index] = 1000.0
    gained = found.epsilon([TRAINING], total) - 1000.0
    alpha = ORDERS[index]
    return float(np.exp((np.log1p(-1 / alpha) - gained) * (alpha - 1) - np.log(alpha)))


def test_nothing_costs_nothing_and_more_costs_more() -> None:
    found = Filter.for_ledger(8.0, DELTA, TRAINING)
    assert found.epsilon([], np.zeros(len(ORDERS))) == 0.0
    parts = [TRAINING.after(steps) for steps in (1, 10, 100, 300, 1000)]
    values = [found.epsilon([part], divergences(part)) for part in parts]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_merging_puts_equal_mechanisms_together_in_the_order_of_their_first_use() -> None:
    assert merged([TRAINING, ONCE, TRAINING.after(5), ONCE]) == (TRAINING.after(305), ONCE.after(2))
    assert merged([]) == ()


def test_a_run_is_judged_by_rdp_where_that_is_enough_and_by_pld_where_it_is_not() -> None:
    rdp, pld = epsilon(TRAINING, DELTA, "rdp"), epsilon(TRAINING, DELTA)
    assert run_epsilon([TRAINING], DELTA, 100.0) == pytest.approx(rdp, rel=0.02)
    assert run_epsilon([TRAINING], DELTA, (rdp + pld) / 2) == pld
    assert run_epsilon([TRAINING], DELTA, 0.6 * pld) == pld
    assert run_epsilon([TRAINING], DELTA, None) == pld
    assert run_epsilon([TRAINING], DELTA, 0.1 * pld) == pytest.approx(rdp, rel=0.02)  # far beyond: no need to be exact
    assert run_epsilon([], DELTA, 1.0) == 0.0


def test_a_plan_calibrated_to_its_limit_fits_to_its_last_round_and_no_further() -> None:
    plan = calibrate(epsilon=4.0, delta=DELTA, sampling_rate=0.2, steps=60, clip_norm=1.0)
    assert run_epsilon([plan], DELTA, 4.0) <= 4.0
    assert run_epsilon([plan.after(61)], DELTA, 4.0) > 4.0


def test_the_same_with_statistics_beside_a_cap_and_a_grid() -> None:
    beside = (ONCE,)
    plan = calibrate(
        epsilon=4.0,
        delta=DELTA,
        sampling_rate=0.2,
        steps=60,
        clip_norm=1.0,
        beside=beside,
        people_bound=5000,
        grid=Grid.of(1.0, 20),
        size=1000,
    )
    assert run_epsilon([*beside, plan], DELTA, 4.0) <= 4.0
    assert run_epsilon([*beside, plan.after(61)], DELTA, 4.0) > 4.0


def test_what_a_cap_takes_of_delta_is_charged_by_both() -> None:
    capped = replace(TRAINING, batch_cap=50, overflow=1e-13)
    total = divergences(capped)
    assert total == pytest.approx(divergences(TRAINING))
    found = Filter.for_ledger(10.0, DELTA, capped)
    assert found.epsilon([capped], total) > found.epsilon([TRAINING], total)
    assert run_epsilon([capped], DELTA, 100.0) > run_epsilon([TRAINING], DELTA, 100.0)
    reckless = replace(TRAINING, batch_cap=20, overflow=1e-3)
    with pytest.raises(UsageError, match="take a larger cap or a larger delta"):
        found.epsilon([reckless], total)
    with pytest.raises(UsageError, match="take a larger cap or a larger delta"):
        run_epsilon([reckless], DELTA, 100.0)


def test_noise_so_weak_that_pld_has_no_answer_is_judged_by_rdp() -> None:
    weak = SampledGaussian(noise_multiplier=0.02, sampling_rate=1.0, steps=1, clip_norm=1.0)
    assert run_epsilon([weak], DELTA, 800.0) > 1000


def test_noise_so_strong_that_float64_sees_nothing_costs_something() -> None:
    quiet = SampledGaussian(noise_multiplier=1e5, sampling_rate=1e-3, steps=1, clip_norm=1.0)
    assert (divergences(quiet) > 0).all()
