"""The noise has its distribution, every coordinate gets its own, and each test also finds what is wrong.

The draws come from a stream that repeats, which only tests and simulations hold: a fixed seed decides every statistic.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import integrate, stats

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy import noise
from silhouette_shared.privacy.noise import (
    LARGEST_STD,
    SMALLEST_STD,
    Slack,
    drawn_beside,
    rounded_gaussian,
    sampler_slack,
    sum_divergence,
)
from silhouette_shared.randomness import ReproducibleSource, SecretBytes, SecureSource

Draws = npt.NDArray[np.int64]
STD = 2.0**17
COUNT = 2_000_000


class Repeatable:
    """Bytes that a seed fixes, for tests alone."""

    def __init__(self, seed: int) -> None:
        self._draw = ReproducibleSource(seed).numpy_generator()

    def bytes(self, count: int) -> bytes:
        return self._draw.bytes(count)


class Spoken:
    """Bytes from a list, then zeros."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)

    def bytes(self, count: int) -> bytes:
        return self.parts.pop(0).ljust(count, b"\0") if self.parts else bytes(count)


@pytest.fixture(scope="module")
def draws() -> Draws:
    return rounded_gaussian(COUNT, STD, Repeatable(1))


@pytest.fixture(scope="module")
def weak() -> Draws:
    """What a fault of 10 % in the scale would give."""
    return rounded_gaussian(COUNT, 0.9 * STD, Repeatable(1))


def right_moments(drawn: Draws) -> bool:
    """Mean, variance, skewness and kurtosis within five standard errors."""
    z = drawn / STD
    errors = [
        z.mean() * math.sqrt(len(z)),
        (z.var() - 1) * math.sqrt(len(z) / 2),
        (z**3).mean() * math.sqrt(len(z) / 15),
        ((z**4).mean() - 3) * math.sqrt(len(z) / 96),
    ]
    return bool(np.all(np.abs(errors) < 5))


def right_distribution(drawn: Draws) -> bool:
    """Kolmogorov and Smirnov against the continuous Gaussian, which the rounding follows to 2^-18."""
    return bool(stats.kstest(drawn[:500_000] / STD, "norm").pvalue > 1e-6)


def right_tails(drawn: Draws) -> bool:
    """Counts beyond 2, 3, 4, 5 and 6 standard deviations, each within what chance gives at one in a million."""
    for reach in (2, 3, 4, 5, 6):
        expected = 2 * stats.norm.sf(reach - 0.5 / STD)
        found = int((np.abs(drawn) > reach * STD).sum())
        if stats.binomtest(found, len(drawn), expected).pvalue < 1e-6:
            return False
    return True


@pytest.mark.parametrize("right", [right_moments, right_distribution, right_tails])
def test_the_draws_are_gaussian_and_ten_per_cent_too_few_are_found(
    right: Callable[[Draws], bool], draws: Draws, weak: Draws
) -> None:
    assert right(draws)
    assert not right(weak)


def test_both_halves_of_the_pairs_and_the_last_odd_draw_are_gaussian() -> None:
    odd = rounded_gaussian(200_001, STD, Repeatable(2))
    for part in (odd[:16384], odd[16384:32768], odd[-3_000:]):
        assert stats.kstest(part / STD, "norm").pvalue > 1e-5
    assert stats.kstest(odd / STD * 0.9, "norm").pvalue < 1e-5


@pytest.mark.parametrize("std", [64.0, STD, 2.0**30])
def test_the_low_bits_are_uniform(std: float) -> None:
    low = rounded_gaussian(COUNT, std, Repeatable(3)) & 31

    def chi_squared_p(values: Draws) -> float:
        return float(stats.chisquare(np.bincount(values, minlength=32)).pvalue)

    assert chi_squared_p(low) > 1e-6
    # One bit that is never set, as a lost bit of a fraction would make it, is found.
    assert chi_squared_p(low & 30) < 1e-6


def test_small_noise_has_the_cell_probabilities_of_a_rounded_gaussian() -> None:
    std = SMALLEST_STD
    drawn = rounded_gaussian(COUNT, std, Repeatable(4))
    cells = np.arange(-200, 201)
    counts = np.bincount(np.clip(drawn, -201, 201) + 201, minlength=403)

    def p_value(scale: float) -> float:
        inner = stats.norm.cdf((cells + 0.5) / scale) - stats.norm.cdf((cells - 0.5) / scale)
        tail = stats.norm.sf(200.5 / scale)
        return float(stats.chisquare(counts, COUNT * np.array([tail, *inner, tail]), sum_check=False).pvalue)

    assert p_value(std) > 1e-6
    assert p_value(0.9 * std) < 1e-6


def test_coordinates_are_independent_of_their_neighbours_their_pair_and_the_next_call() -> None:
    source = Repeatable(5)
    one, other = (rounded_gaussian(COUNT, STD, source) / STD for _ in range(2))

    def related(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
        linear = (a * b).mean() * math.sqrt(len(a))
        spread = ((a**2 - 1) * (b**2 - 1)).mean() * math.sqrt(len(a)) / 2
        return bool(max(abs(linear), abs(spread)) > 5)

    pair = 16384  # the second of a pair lies this far behind the first
    for lag in (1, 2, pair, 2 * pair):
        assert not related(one[:-lag], one[lag:])
    assert not related(one, other)
    # A stream that begins again, and noise added twice, are found.
    again = rounded_gaussian(COUNT, STD, Repeatable(5)) / STD
    assert related(one, again)
    assert related(one[:-1], (one[:-1] + one[1:]) / math.sqrt(2))


def test_every_coordinate_has_noise_of_its_own() -> None:
    """No coordinate stays what it was, and none is the copy of another: at this size and scale, 1 in 3,000 alike."""
    marker = np.iinfo(np.int64).min
    for count in (1, 2, 3, 16383, 32767, 32768, 32769, 65537, 200_001):
        place = np.full(count, marker)
        assert rounded_gaussian(count, 2.0**32, SecureSource(), out=place) is place
        assert not (place == marker).any()
        assert len(np.unique(place)) > 0.9999 * count
    assert len(rounded_gaussian(0, STD, SecureSource())) == 0


def test_secure_draws_do_not_repeat_and_repeatable_ones_do() -> None:
    secure = SecureSource()
    one, two = rounded_gaussian(1000, STD, secure), rounded_gaussian(1000, STD, secure)
    assert not (one == two).any() or (one == two).mean() < 0.01
    assert (rounded_gaussian(1000, STD, Repeatable(6)) == rounded_gaussian(1000, STD, Repeatable(6))).all()


def words(*values: int) -> bytes:
    """Words of 64 bits with a sign, as bytes."""
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


def test_a_draw_is_box_and_muller_of_its_words() -> None:
    """Known words: U = 1/2, with an angle of 0, of half a turn, of a quarter turn forth and back."""
    half = 2**62
    radius = round(STD * math.sqrt(2 * math.log(2)))
    for angle, expected in ((0, [radius, 0]), (-2 * half, [-radius, 0]), (half, [0, radius]), (-half, [0, -radius])):
        for of_radius in (half, -half):
            assert rounded_gaussian(2, STD, Spoken(words(of_radius, angle))).tolist() == expected


def test_the_largest_uniform_is_the_middle_of_the_gaussian_and_no_missing_number() -> None:
    """The largest words are 1 in float64, whose logarithm is zero."""
    for of_radius in (2**63 - 1, -(2**63)):
        assert rounded_gaussian(2, LARGEST_STD, Spoken(words(of_radius, 12345))).tolist() == [0, 0]


def test_the_tail_is_resolved_far_beyond_a_uniform_of_53_bits() -> None:
    """With 53 bits nothing lies beyond 8.6 standard deviations, and what is near comes in lumps."""
    for first, finer, bits in (
        (0, words(0, 0), 192),
        (-1, words(0, 0), 192),  # the other word that stands for the smallest uniform
        (0, words(0, -(2**63)), 128),
        (0, words(-(2**63), 0), 64),
        (1, words(0, 0), 63),
        (-2, words(0, 0), 63),
    ):
        found = rounded_gaussian(2, STD, Spoken(words(first, 0), finer))[0]
        assert found / STD == pytest.approx(math.sqrt(2 * bits * math.log(2)), rel=1e-5)


def test_arithmetic_errors_stay_inside_what_the_slack_assumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against 40 digits, at a scale where the last bits of float64 are whole steps: off by at most 20 r + a of them."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    std, count = 2.0**48, 4000
    monkeypatch.setattr(noise, "LARGEST_STD", std)
    drawn = rounded_gaussian(count, std, Repeatable(7)).reshape(2, -1)
    drawn_from = np.frombuffer(Repeatable(7).bytes(8 * count), dtype="<i8").reshape(2, -1)
    shares = []
    for (first, second), word, turn in zip(drawn.T.tolist(), *drawn_from.tolist(), strict=True):
        if abs(word) < 2**44:
            continue  # takes more bytes
        uniform = abs(mpmath.mpf(word) + 0.5) / 2**63
        radius = mpmath.sqrt(-2 * mpmath.log(uniform))
        angle = mpmath.pi * (mpmath.mpf(turn) + 0.5) / 2**63
        moved = 1.01 / (uniform * radius)  # by the rounding of the uniform
        for found, ideal in ((first, std * radius * mpmath.cos(angle)), (second, std * radius * mpmath.sin(angle))):
            error = max(0.0, abs(float(found - ideal)) - 0.5)
            shares.append(error / float(std * 2.0**-53 * (20 * radius + moved)))
    assert len(shares) > 3500
    assert max(shares) <= 1
    assert max(shares) > 0.02  # seen at all


def test_the_logarithm_of_the_installed_torch_is_right_to_two_units_in_the_last_place() -> None:
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    draw = np.random.default_rng(11)
    values = np.exp2(draw.uniform(-128, 0, 4000))
    values[:1000] = 1 - draw.uniform(0, 0.01, 1000)  # where logarithms are small
    found = torch.log(torch.from_numpy(values)).numpy()
    exact = [mpmath.log(mpmath.mpf(value)) for value in values.tolist()]
    errors = np.array([float(mpmath.mpf(f) - e) for f, e in zip(found.tolist(), exact, strict=True)])
    units = np.abs(errors) / np.spacing(np.abs(found))
    assert 0.1 < units.max() <= 2


def test_sine_and_cosine_of_the_installed_torch_are_right_to_two_units_in_the_last_place() -> None:
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    angles = np.linspace(-np.pi, np.pi, 4001)
    angles[:200] = np.pi / 2 + np.linspace(-1e-6, 1e-6, 200)  # where a cosine is small
    worst = 0.0
    for mine, exact in ((torch.sin, mpmath.sin), (torch.cos, mpmath.cos)):
        found = mine(torch.from_numpy(angles)).numpy()
        errors = [
            abs(float(mpmath.mpf(f) - exact(mpmath.mpf(a))))
            for f, a in zip(found.tolist(), angles.tolist(), strict=True)
        ]
        worst = max(worst, float(np.max(errors / np.spacing(np.maximum(np.abs(found), 2.0**-60)))))
    assert 0.1 < worst <= 2


def test_the_moves_of_the_radius_are_as_small_as_the_slack_assumes() -> None:
    """E[a^2] by numbers: a = 1.01 / (U r) from r = 1 / (2 std) to U = 2^-10, then (2 + 2^-9 / U) / r to U = 2^-20."""

    def radius_at(bits: float) -> float:
        return math.sqrt(2 * bits * math.log(2))

    def near(log_radius: float) -> float:  # over ln r, by which the density of r is r^2 U
        radius = math.exp(log_radius)
        return 1.01**2 * math.exp(radius**2 / 2)

    def far(radius: float) -> float:
        uniform = math.exp(-(radius**2) / 2)
        return ((2 + 2.0**-9 / uniform) / radius) ** 2 * radius * uniform

    found = integrate.quad(near, math.log(0.5 / LARGEST_STD), math.log(radius_at(10)), limit=200)[0]
    found += integrate.quad(far, radius_at(10), radius_at(20), limit=200)[0]
    assert 50 < found < 0.5 * noise._UNIFORM_ERROR
    worst = 20 * radius_at(20) + (2 + 2.0**11) / radius_at(20)
    assert max(worst, 20 * 12 + 6) < noise._LARGEST_ERROR


# Drawn beside


def test_noise_drawn_beside_is_the_same_noise() -> None:
    there = drawn_beside(100_000, STD, Repeatable(8))
    assert (there.result() == rounded_gaussian(100_000, STD, Repeatable(8))).all()


def test_noise_is_drawn_in_another_thread_and_its_errors_come_with_the_result() -> None:
    class Broken:
        thread = ""

        def bytes(self, count: int) -> bytes:
            self.thread = threading.current_thread().name
            raise OSError("no more bytes")

    broken = Broken()
    there = drawn_beside(10, STD, broken)
    with pytest.raises(OSError, match="no more bytes"):
        there.result()
    assert broken.thread.startswith("noise")
    with pytest.raises(UsageError, match="expected noise of 64"):
        drawn_beside(10, 1.0, broken)


# What is charged


def test_the_slack_of_the_sampler_is_small_where_it_is_used_and_grows_with_everything() -> None:
    usual = sampler_slack(6_400_000, 300, STD, delta=1e-10)
    assert 0 < usual.epsilon < 2e-3
    assert 1e-10 <= usual.delta < 1.001e-10
    for other in (
        sampler_slack(12_800_000, 300, STD, delta=1e-10),
        sampler_slack(6_400_000, 600, STD, delta=1e-10),
        sampler_slack(6_400_000, 300, STD, delta=1e-10, parties=2),
        sampler_slack(6_400_000, 300, 2 * STD, delta=1e-10),
        sampler_slack(6_400_000, 300, STD, delta=1e-12),
    ):
        assert other.epsilon > usual.epsilon
    assert isinstance(usual, Slack)


def test_draws_too_fine_for_float64_are_refused_rather_than_approximated() -> None:
    with pytest.raises(UsageError, match="take a coarser grid"):
        sampler_slack(10**9, 10**5, LARGEST_STD, delta=1e-10)


def test_one_party_costs_nothing_and_several_next_to_nothing() -> None:
    assert sum_divergence(STD, 1, 10**9) == 0
    assert 0 < sum_divergence(64.0, 50, 10**9) < 1e-300


@pytest.mark.parametrize(("std", "parties"), [(0.45, 2), (0.6, 2), (0.5, 3)])
def test_the_divergence_of_a_sum_bounds_what_is_found_by_counting(std: float, parties: int) -> None:
    """Residuals given their sum: their law at two places of the lattice, summed term by term."""
    reach = range(-6, 7)
    worst = 0.0
    for residuals in np.linspace(-0.5, 0.4, 7):
        logs = []
        for total in (0, 1, 2):
            # All but the last residual and integer free; the integers add to `total`.
            shifts = [residuals] * (parties - 1) + [0.21]
            density = 0.0
            for head in np.ndindex(*([len(reach)] * (parties - 1))):
                integers = [reach[i] for i in head]
                integers.append(total - sum(integers))
                density += math.exp(-sum((k + f) ** 2 for k, f in zip(integers, shifts, strict=True)) / (2 * std**2))
            place = total + sum(shifts)
            logs.append(math.log(density) + place**2 / (2 * parties * std**2))
        worst = max(worst, max(logs) - min(logs))
    bound = sum_divergence(std, parties, 1)
    assert worst <= bound
    assert worst > 0.01 * bound  # it is no empty bound


@pytest.mark.parametrize("std", [0.0, 63.9, 2.0**33, math.nan, math.inf])
def test_a_standard_deviation_out_of_range_is_refused(std: float) -> None:
    source: SecretBytes = SecureSource()
    calls: list[Callable[[], object]] = [
        lambda: rounded_gaussian(1, std, source),
        lambda: sampler_slack(1, 1, std, delta=1e-9),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"expected noise of 64 to 2\^32 grid steps"):
            call()


def test_a_place_of_another_shape_or_type_is_refused() -> None:
    for place in (np.zeros(4, dtype=np.int64), np.zeros(5, dtype=np.int32)):
        with pytest.raises(ValueError, match=r"expected an int64 array of shape \(5,\)"):
            rounded_gaussian(5, STD, SecureSource(), out=place)  # type: ignore[arg-type]
