"""The mechanism refuses what accounting could not read, and describes itself."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.mechanism import SampledGaussian

MECHANISM = SampledGaussian(noise_multiplier=1.5, sampling_rate=0.1, steps=300, clip_norm=2.0)


def test_the_noise_is_the_multiplier_times_the_clip_norm() -> None:
    assert MECHANISM.noise_std == 3.0


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
        ("steps", 0, "expected a whole number of steps, at least 1, got 0"),
        ("steps", 2.0, "expected a whole number of steps, at least 1, got 2.0"),
        ("steps", True, "expected a whole number of steps, at least 1, got True"),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(MECHANISM, **{field: value})  # type: ignore[arg-type]
    assert message in str(caught.value)
