"""The mechanism refuses what accounting could not read, and describes itself."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian

MECHANISM = SampledGaussian(noise_multiplier=1.5, sampling_rate=0.1, steps=300, clip_norm=2.0)


def test_the_noise_is_the_multiplier_times_the_clip_norm() -> None:
    assert MECHANISM.noise_std == 3.0


def test_what_the_grid_adds_to_the_sensitivity_the_noise_grows_by_and_accounting_does_not_see() -> None:
    grid = Grid(step=0.001)
    rounded = MECHANISM.on_grid(grid, size=10_000)
    assert rounded.rounding == grid.rounding(10_000)
    assert rounded.sensitivity == 2.0 + rounded.rounding
    assert rounded.noise_std == pytest.approx(1.5 * 2.1, rel=1e-4)
    assert dataclasses.replace(rounded, rounding=0.0, grid_step=0.0, size=0) == MECHANISM


def test_the_parties_of_a_sum_draw_shares_of_its_noise_in_grid_steps() -> None:
    rounded = MECHANISM.on_grid(Grid(step=0.001), size=100)
    assert rounded.share_std == pytest.approx(1000 * rounded.noise_std)
    assert dataclasses.replace(rounded, shares=4).share_std == pytest.approx(500 * rounded.noise_std)
    assert MECHANISM.share_std == 0


def test_one_release_is_a_sum_over_everybody_in_one_step() -> None:
    once = SampledGaussian.once(noise_multiplier=1.5, clip_norm=2.0)
    assert once == dataclasses.replace(MECHANISM, sampling_rate=1.0, steps=1)


def test_a_cap_and_its_overflow_come_together() -> None:
    capped = dataclasses.replace(MECHANISM, batch_cap=100, overflow=1e-12)
    assert (capped.batch_cap, capped.overflow) == (100, 1e-12)
    assert dataclasses.replace(MECHANISM, batch_cap=100, overflow=0.0).overflow == 0.0
    with pytest.raises(UsageError, match="expected the probability that a sample passes its batch_cap"):
        dataclasses.replace(MECHANISM, batch_cap=100)
    with pytest.raises(UsageError, match="expected an overflow with a batch_cap only, got 1e-12"):
        dataclasses.replace(MECHANISM, overflow=1e-12)


def test_other_steps_change_nothing_but_the_steps() -> None:
    later = MECHANISM.after(7)
    assert later == dataclasses.replace(MECHANISM, steps=7)
    assert later.after(300) == MECHANISM


def test_a_mechanism_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MECHANISM.noise_multiplier = 0.0  # type: ignore[misc]


def test_the_description_is_json_and_holds_every_number() -> None:
    described = json.loads(json.dumps(MECHANISM.describe()))
    assert described["neighbours"] == "add or remove one person"
    for field in dataclasses.fields(SampledGaussian):
        assert described[field.name] == getattr(MECHANISM, field.name)
    assert described["noise_std"] == 3.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise_multiplier", 0.0, "expected a positive, finite noise_multiplier, got 0.0"),
        ("noise_multiplier", -1.0, "noise_multiplier, got -1.0"),
        ("noise_multiplier", math.inf, "noise_multiplier, got inf"),
        ("noise_multiplier", math.nan, "noise_multiplier, got nan"),
        ("noise_multiplier", "1", "noise_multiplier, got '1'"),
        ("clip_norm", 0.0, "expected a positive, finite clip_norm, got 0.0"),
        ("clip_norm", math.nan, "clip_norm, got nan"),
        ("sampling_rate", 0.0, "expected a sampling_rate above 0 and at most 1, got 0.0"),
        ("sampling_rate", 1.01, "sampling_rate above 0 and at most 1, got 1.01"),
        ("sampling_rate", math.nan, "sampling_rate above 0 and at most 1, got nan"),
        ("sampling_rate", True, "sampling_rate above 0 and at most 1, got True"),
        ("rounding", -1e-9, "expected a finite rounding of zero or more, got -1e-09"),
        ("rounding", math.inf, "rounding of zero or more, got inf"),
        ("grid_step", -1.0, "expected a finite grid_step of zero or more, got -1.0"),
        ("size", -1, "expected a whole size of at least 0, got -1"),
        ("shares", 0, "expected a whole shares of at least 1, got 0"),
        ("batch_cap", 0, "expected a batch_cap of at least 1 person, got 0"),
        ("batch_cap", True, "batch_cap of at least 1 person, got True"),
        ("steps", 0, "expected a whole number of steps, at least 1, got 0"),
        ("steps", 2.0, "expected a whole number of steps, at least 1, got 2.0"),
        ("steps", True, "expected a whole number of steps, at least 1, got True"),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(MECHANISM, **{field: value})  # type: ignore[arg-type]
    assert message in str(caught.value)
