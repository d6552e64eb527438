"""The meters read made-up noise and made-up samples as they are, and notice what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from silhouette_client.audit.measures import CORRELATED, NoiseMeter, correlations, repeats, sampling

D, STEPS = 6000, 40
ROWS = np.arange(D) // 20
UNTOUCHED = np.arange(D) >= D // 2


def draw(*seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((STEPS, D))


def metered(noise: np.ndarray, *, rows: np.ndarray = ROWS) -> NoiseMeter:
    meter = NoiseMeter(rows, UNTOUCHED)
    for release in noise:
        meter.add(release, release)
    return meter


def test_honest_noise_has_the_moments_of_a_gaussian() -> None:
    found = metered(draw(1)).noise()
    for moments, samples in ((found.untouched, STEPS * D // 2), (found.everywhere, STEPS * D)):
        assert moments.samples == samples
        assert abs(moments.mean) < 5 / math.sqrt(samples)
        assert abs(moments.square - 1) < 5 * math.sqrt(2 / samples)
        assert abs(moments.fourth - 3) < 5 * math.sqrt(96 / samples)
    assert found.rows == D // 20
    assert 0.75 < found.least_row < 1
    assert found.row_tail > 1e-3


def test_untouched_coordinates_are_read_from_the_release_itself() -> None:
    meter = NoiseMeter(ROWS, UNTOUCHED)
    meter.add(np.where(UNTOUCHED, 2.0, 100.0), np.zeros(D))
    found = meter.noise()
    assert (found.untouched.mean, found.untouched.square, found.untouched.fourth) == (2.0, 4.0, 16.0)
    assert found.everywhere.square == 0.0


@pytest.mark.parametrize("factor", [0.0, 0.7, 1.4])
def test_one_row_with_other_noise_is_found_among_many(factor: float) -> None:
    noise = draw(2)
    noise[:, 400:420] *= factor
    found = metered(noise).noise()
    assert found.row_tail < 1e-9
    assert abs(found.everywhere.square - 1) < 0.02  # the whole does not show it


def test_rows_need_not_be_alike() -> None:
    rows = np.minimum(ROWS, 3)
    assert metered(draw(3), rows=rows).noise().rows == 4


def test_fresh_noise_is_not_correlated() -> None:
    found = correlations(metered(draw(4)), metered(draw(5)))
    assert (found.coordinates, found.steps) == (D, STEPS)
    pooled = math.sqrt(D * STEPS)
    assert abs(found.adjacent) < 5 / pooled
    assert abs(found.partners) < 5 / pooled
    for largest in (found.largest_steps, found.largest_partners, found.largest_inside):
        assert 0 < largest < 7 / math.sqrt(D)


def test_noise_used_again_is_found_at_whatever_step() -> None:
    noise = draw(6)
    found = correlations(metered(np.repeat(noise[:1], STEPS, axis=0)), metered(draw(7)))
    assert found.adjacent == pytest.approx(1.0)
    noise[30] = noise[11]
    found = correlations(metered(noise), metered(draw(7)))
    assert found.largest_steps == pytest.approx(1.0)
    assert abs(found.adjacent) < 0.02


def test_noise_shared_by_partners_is_found_also_at_another_step() -> None:
    noise = draw(8)
    assert correlations(metered(noise), metered(noise)).partners == pytest.approx(1.0)
    found = correlations(metered(noise), metered(np.roll(noise, 5, axis=0)))
    assert found.largest_partners == pytest.approx(1.0)
    assert abs(found.partners) < 0.02


def test_no_noise_at_all_does_not_pass_as_independent() -> None:
    silent = metered(np.zeros((STEPS, D)))
    found = correlations(silent, metered(draw(9)))
    assert found.adjacent == found.partners == found.largest_steps == found.largest_partners == 1.0


def test_a_stretch_that_repeats_inside_a_release_is_found() -> None:
    vector = draw(10)[0]
    assert repeats(vector) < 7 / math.sqrt(D)
    vector[2000:4000] = vector[:2000]
    assert repeats(vector) == pytest.approx(1 / 3, abs=0.06)
    assert repeats(np.zeros(D)) == 1.0


def test_a_large_release_is_thinned_out_evenly_for_correlations() -> None:
    size = 3 * CORRELATED + 5
    meter = NoiseMeter(np.zeros(size, dtype=np.int64), np.ones(size, dtype=np.bool_))
    meter.add(np.arange(size, dtype=np.float64), np.arange(size, dtype=np.float64))
    assert meter.releases.shape == (1, CORRELATED + 2)
    assert meter.releases[0, -1] == 3 * (CORRELATED + 1)


def test_who_was_in_which_step_is_counted() -> None:
    steps = [np.array([0, 2]), np.array([], dtype=np.int64), np.array([2, 3]), np.array([2, 2])]
    other = [np.array([2]), np.array([1]), np.array([3]), np.array([0])]
    found = sampling(steps, other, people=5)
    assert found.sizes == (2, 0, 2, 1)
    assert found.times == (2, 2, 0, 1, 0)
    assert found.consecutive == 1
    assert found.twice == 1
    assert found.shared == 2
