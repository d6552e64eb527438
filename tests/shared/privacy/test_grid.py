"""Rounding moves neighbouring sums apart by no more than is charged, and a sum that could wrap is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.grid import Grid, check_ring

steps = st.floats(1e-6, 10.0)


def test_the_clip_norm_has_two_to_the_bits_steps() -> None:
    assert Grid.of(clip_norm=0.5, bits=16).step == 0.5 / 65536


@given(steps, st.lists(st.integers(-(2**31), 2**31), max_size=50))
def test_encoding_undoes_decoding(step: float, points: list[int]) -> None:
    grid = Grid(step)
    exact = np.array(points, dtype=np.int64) * step
    assert grid.encode(exact).tolist() == points
    np.testing.assert_array_equal(grid.decode(np.array(points, dtype=np.int64)), exact.astype(np.float32))


@given(steps, st.integers(1, 300), st.integers(0, 2**32))
def test_neighbouring_sums_move_apart_by_at_most_what_is_charged(step: float, size: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    one = draw.normal(0, 1000 * step, size)
    other = one + draw.normal(0, step, size)
    apart = float(np.linalg.norm((Grid(step).encode(one) - Grid(step).encode(other)) * step))
    assert apart <= float(np.linalg.norm(one - other)) + Grid(step).rounding(size)


def test_the_charge_is_needed_up_to_one_part_in_a_thousand() -> None:
    """The worst case: every coordinate of one sum rounds down and of the other up."""
    grid, size = Grid(1.0), 10_000
    low, high = np.full(size, 0.4999), np.full(size, 0.5001)
    apart = float(np.linalg.norm(grid.encode(high) - grid.encode(low)) - np.linalg.norm(high - low))
    assert 0.999 * grid.rounding(size) < apart <= grid.rounding(size)


def test_a_large_sum_is_rounded_to_nearest_in_every_block() -> None:
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(1)) * 50
    grid = Grid.of(clip_norm=0.3, bits=14)
    assert float(np.abs(grid.encode(values) * grid.step - values.double().numpy()).max()) <= 0.5 * grid.step * 1.001
    assert grid.encode(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**41])
def test_what_is_no_sum_of_clipped_contributions_is_refused(value: float) -> None:
    total = np.zeros(100_000)
    total[77_777] = value
    with pytest.raises(ValueError, match=r"expected finite coordinates below 2\^40 steps") as caught:
        Grid(1.0).encode(total)
    assert "77777" not in str(caught.value)


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, math.nan])
def test_a_step_that_is_none_is_refused(step: float) -> None:
    with pytest.raises(UsageError, match="expected a positive, finite step"):
        Grid(step)


def _check(bits: int, people: int = 100, parties: int = 10) -> None:
    check_ring(
        Grid.of(1.0, bits), clip_norm=1.0, people_cap=people, parties=parties, noise_std=3.0, size=10**6, bits=32
    )


def test_sums_that_fit_pass_and_the_first_that_could_wrap_is_refused_with_the_grid_that_fits() -> None:
    _check(20)
    with pytest.raises(UsageError, match=r"take privacy\.grid_bits = 20") as caught:
        _check(21)
    assert "10 partners of at most 100 people" in str(caught.value)


def test_the_noise_counts_too() -> None:
    """Sums of 2^30 steps, a quarter of the ring: noise of 2^26 a party leaves it only beyond 5 of its deviations."""
    check_ring(Grid(1.0), clip_norm=1.0, people_cap=2**28, parties=4, noise_std=2.0**25, size=10**6)
    with pytest.raises(UsageError, match="expected sums that stay inside 32 bits"):
        check_ring(Grid(1.0), clip_norm=1.0, people_cap=2**28, parties=4, noise_std=2.0**26, size=10**6)


def test_too_many_people_for_any_grid_are_told_so() -> None:
    with pytest.raises(UsageError, match="take smaller samples or fewer partners"):
        _check(16, people=10**9, parties=50)
