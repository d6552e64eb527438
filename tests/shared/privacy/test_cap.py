"""The cap is the smallest that costs nothing, against exact fractions and against an accountant that knows caps."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.cap import BatchCap, batch_cap, overflow

DELTA = 1e-5


def _exact_tail(people: int, rate: Fraction, size: int) -> Fraction:
    return sum(
        (math.comb(people, k) * rate**k * (1 - rate) ** (people - k) for k in range(size + 1, people + 1)),
        start=Fraction(0),
    )


@given(st.integers(1, 60), st.integers(1, 19), st.data())
def test_the_overflow_is_the_exact_tail_of_the_binomial_rounded_up(people: int, part: int, data: st.DataObject) -> None:
    rate = part / 20
    size = data.draw(st.integers(min(people, math.floor(people * rate)), people))
    exact = float(_exact_tail(people, Fraction(rate), size))
    assert exact <= overflow(people, rate, size) <= exact * 1.000002


@pytest.mark.parametrize(("people", "rate"), [(943, 1 / 15), (10**5, 0.01), (10**6, 0.2), (10**7, 0.001)])
def test_the_overflow_is_right_at_the_sizes_it_is_used_at(people: int, rate: float) -> None:
    spread = math.sqrt(people * rate * (1 - rate))
    for deviations in (0.5, 3, 6, 9):
        size = int(people * rate + deviations * spread)
        assert overflow(people, rate, size) == pytest.approx(float(stats.binom.sf(size, people, rate)), rel=1e-5)


def test_below_the_mean_and_at_rate_one_the_overflow_is_bounded_and_nobody_left_out_costs_nothing() -> None:
    assert overflow(100, 0.5, 30) == 1.0
    assert overflow(100, 1.0, 99) == 1.0
    assert overflow(100, 1.0, 100) == 0.0


@given(st.integers(1, 3000), st.floats(0.001, 1), st.integers(1, 3000), st.floats(0, 20), st.floats(1e-9, 1e-3))
def test_the_cap_is_the_smallest_that_takes_a_hundredth_of_delta(
    people: int, rate: float, steps: int, epsilon: float, delta: float
) -> None:
    cap = batch_cap(people, rate, steps, epsilon, delta)

    def cost(size: int) -> float:
        return steps * (1 + math.exp(epsilon)) * overflow(people, rate, size)

    assert 1 <= cap.size <= people
    assert cap.overflow == overflow(people, rate, cap.size)
    assert cap.delta == pytest.approx(cost(cap.size), rel=1e-9)
    assert cap.delta <= delta / 100 * (1 + 1e-9)
    assert cap.size == 1 or cost(cap.size - 1) > delta / 100


def test_an_epsilon_of_any_size_overflows_no_number() -> None:
    assert batch_cap(100, 0.1, 300, 5000.0, DELTA) == BatchCap(100, 0.0, 0.0)


def _capped_epsilon(cap: int) -> float:
    """What Google's accountant, which knows truncated samples, says of 189 people at q = 1/15, noise 1, 300 steps."""
    event = dp_event.TruncatedSubsampledGaussianDpEvent(
        dataset_size=189, sampling_probability=1 / 15, truncated_batch_size=cap, noise_multiplier=1.0
    )
    return float(PLDAccountant(value_discretization_interval=1e-3).compose(event, 300).get_epsilon(DELTA))


def test_a_cap_of_three_times_the_sample_costs_nothing_and_one_and_a_half_doubles_epsilon() -> None:
    expected = 189 / 15
    assert _capped_epsilon(int(1.5 * expected)) == pytest.approx(15.1, abs=0.1)
    cap = batch_cap(189, 1 / 15, 300, 8.0, DELTA)
    assert cap.size / expected == pytest.approx(3.5, abs=0.01)
    assert _capped_epsilon(3 * 189 // 15) == pytest.approx(7.92, abs=0.01)
    assert _capped_epsilon(cap.size) == pytest.approx(7.92, abs=0.01)
    # What the rule would charge for the small one is more than there is.
    assert 300 * (1 + math.exp(8)) * overflow(189, 1 / 15, int(1.5 * expected)) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.1, 1, 1.0, DELTA), "expected a public bound of at least 1 person, got 0"),
        ((10, 0.0, 1, 1.0, DELTA), r"expected a sampling rate in \(0, 1\]"),
        ((10, 0.1, 0, 1.0, DELTA), "at least one step"),
        ((10, 0.1, 1, 1.0, 0.0), "a delta between 0 and 1"),
        ((10, 0.1, 1, -1.0, DELTA), "an epsilon of at least 0"),
    ],
)
def test_a_value_out_of_range_is_refused(arguments: tuple[int, float, int, float, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        batch_cap(*arguments)
