"""The noise that is released is the noise that was charged, on every coordinate and for every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.client.training.receipts import Receipt, on_grid, secret

from silhouette_client.training.release import ClippedSum, NoisedSum
from silhouette_client.training.step import ChargedNoise
from silhouette_shared.errors import RefusedError
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import SecureSource

SIZE = 20_000
GRID = Grid.of(0.5, 16)
MECHANISM = SampledGaussian(noise_multiplier=1.5, sampling_rate=0.5, steps=3, clip_norm=0.5)


def charged(mechanism: SampledGaussian = MECHANISM, *names: str | int) -> ChargedNoise:
    used = on_grid(mechanism, SIZE)
    return ChargedNoise(Receipt(used), used, secret(*names), GRID, SIZE)


def nothing(norm: float = 0.5) -> ClippedSum:
    return ClippedSum(torch.zeros(SIZE), norm)


@pytest.mark.parametrize("true_over_claimed", [1.0, 0.5, 0.9, 1.2])
def test_the_noise_has_the_charged_size_and_no_other(true_over_claimed: float) -> None:
    used = replace(MECHANISM, noise_multiplier=MECHANISM.noise_multiplier * true_over_claimed)
    claimed = on_grid(MECHANISM, SIZE)
    drawn = charged(used).release(nothing()).value().double() / claimed.noise_std
    assert (abs(float(drawn.std()) - 1) < 5 / (2 * SIZE) ** 0.5) == (true_over_claimed == 1.0)
    assert abs(float(drawn.mean())) < 5 * true_over_claimed / SIZE**0.5


def test_the_charged_noise_grows_with_what_the_grid_adds_to_the_sensitivity() -> None:
    mechanism = on_grid(MECHANISM, SIZE)
    assert mechanism.rounding == GRID.rounding(SIZE) > 0
    assert mechanism.noise_std == 1.5 * (0.5 + GRID.rounding(SIZE))


def test_a_release_is_the_sum_on_the_grid_plus_integers_and_nothing_is_cut_off() -> None:
    noise = charged().release(nothing()).integers
    large = ClippedSum(torch.linspace(-4000.0, 4000.0, SIZE), 0.5)  # many people may add up to anything
    released = charged().release(large)
    assert released.integers.dtype == np.int64
    assert (released.integers - noise == GRID.encode(large.vector)).all()


def test_every_step_and_every_secret_gives_other_noise() -> None:
    noise = charged()
    draws = [noise.release(nothing()).value() for _ in range(3)] + [charged(MECHANISM, "b").release(nothing()).value()]
    for one in range(4):
        for other in range(one):
            correlation = float(torch.corrcoef(torch.stack([draws[one], draws[other]]))[0, 1])
            assert abs(correlation) < 5 / SIZE**0.5
    assert torch.equal(draws[0], charged().release(nothing()).value())  # the same secret would repeat it


def test_a_secure_source_needs_no_seed_and_never_repeats() -> None:
    used = on_grid(MECHANISM, SIZE)
    one, other = (
        ChargedNoise(Receipt(used), used, SecureSource(), GRID, SIZE).release(nothing()).value() for _ in range(2)
    )
    assert not torch.equal(one, other)


def test_noise_drawn_ahead_is_the_noise_of_the_next_release() -> None:
    ahead, late = charged(), charged()
    ahead.begin()
    ahead.begin()  # once is enough
    assert (ahead.release(nothing()).integers == late.release(nothing()).integers).all()


def test_no_more_releases_than_steps_were_charged() -> None:
    noise = charged()
    for _ in range(3):
        assert isinstance(noise.release(nothing()), NoisedSum)
    with pytest.raises(RefusedError, match="expected at most the 3 charged releases, got one more; charge the ledger"):
        noise.release(nothing())


def test_a_receipt_pays_once() -> None:
    used = on_grid(MECHANISM, SIZE)
    receipt = Receipt(used)
    ChargedNoise(receipt, used, secret(), GRID, SIZE)
    with pytest.raises(RefusedError, match="used before"):
        ChargedNoise(receipt, used, secret(), GRID, SIZE)


def test_a_receipt_pays_for_what_was_charged_alone() -> None:
    used = on_grid(MECHANISM, SIZE)
    with pytest.raises(RefusedError, match="something else"):
        ChargedNoise(Receipt(used), used.after(4), secret(), GRID, SIZE)


def test_a_charge_that_forgot_the_grid_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"expected a charge that covers the grid's rounding of 0\.00108, got 0;"):
        ChargedNoise(Receipt(MECHANISM), MECHANISM, secret(), GRID, SIZE)


@pytest.mark.parametrize(
    "clipped", [nothing(0.6), ClippedSum(torch.zeros(SIZE - 1), 0.5)], ids=["larger norm", "other size"]
)
def test_a_sum_that_was_not_clipped_as_charged_is_refused(clipped: ClippedSum) -> None:
    with pytest.raises(RefusedError, match=r"clipped to 0\.5, got .* nothing was released"):
        charged().release(clipped)


def test_a_sum_that_is_no_number_is_refused() -> None:
    broken = torch.zeros(SIZE)
    broken[7] = torch.nan
    with pytest.raises(ValueError, match="expected finite coordinates"):
        charged().release(ClippedSum(broken, 0.5))
