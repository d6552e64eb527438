"""Who sees what, in both modes, and people at several partners."""

from __future__ import annotations

import math

import pytest

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy import Grid, SampledGaussian, epsilon
from silhouette_shared.privacy.modes import (
    at_partners,
    distributed_view,
    honest_survivors,
    local_view,
)
from silhouette_shared.thresholds import colluders, least_threshold

DELTA = 1e-6
MECHANISM = SampledGaussian(noise_multiplier=1.0, sampling_rate=0.01, steps=2000, clip_norm=1.0)


def _noise(multiplier: float) -> float:
    return epsilon(SampledGaussian(noise_multiplier=multiplier, sampling_rate=0.01, steps=2000, clip_norm=1.0), DELTA)


@pytest.mark.parametrize(
    ("partners", "f", "threshold", "honest"), [(3, 1, 3, 2), (5, 1, 4, 3), (10, 3, 7, 4), (50, 16, 34, 18)]
)
def test_the_honest_survivors_are_those_of_the_design(partners: int, f: int, threshold: int, honest: int) -> None:
    assert colluders(partners) == f
    assert least_threshold(partners) == threshold
    assert honest_survivors(partners) == honest
    assert 2 * threshold > partners + f  # two different survivor sets never both have a quorum


def test_a_share_of_the_noise_protects_little_alone() -> None:
    """The table of a design study: aggregate noise 1 is epsilon 2.96 for all ten, 95 if aggregation failed."""
    ten = SampledGaussian(noise_multiplier=math.sqrt(0.4), sampling_rate=0.01, steps=2000, clip_norm=1.0)
    view = distributed_view(ten, 10, DELTA)
    assert view.everybody == pytest.approx(2.96, abs=0.01)
    assert view.release == pytest.approx(94.95, abs=0.1)
    assert view.honest == pytest.approx(_noise(math.sqrt(0.4)), abs=1e-6)
    assert view.everybody is not None
    assert view.honest is not None
    assert view.everybody < view.honest < view.release


def test_full_noise_of_everybody_protects_the_sum_better_than_each_release() -> None:
    view = local_view(MECHANISM, 10, DELTA, steps_a_round=1)
    assert view.release == pytest.approx(2.96, abs=0.01)
    assert view.everybody == pytest.approx(0.60, abs=0.01)
    assert view.honest == pytest.approx(_noise(2.0), abs=1e-6)


@pytest.mark.parametrize(("partners", "steps"), [(10, 2), (2, 1)])
def test_nothing_is_claimed_of_the_sum_after_several_steps_or_with_two_partners(partners: int, steps: int) -> None:
    view = local_view(MECHANISM, partners, DELTA, steps_a_round=steps)
    assert (view.honest, view.everybody) == (None, None)
    assert view.release == epsilon(MECHANISM, DELTA)


def test_draws_of_several_parties_on_a_grid_are_charged_for_their_arithmetic() -> None:
    on_grid = MECHANISM.on_grid(Grid.of(1.0, 16), 100_000)
    plain, rounded = (distributed_view(mechanism, 5, DELTA) for mechanism in (MECHANISM, on_grid))
    assert plain.honest is not None
    assert rounded.honest is not None
    assert plain.honest < rounded.honest < plain.honest + 0.05


def test_a_person_at_two_partners_pays_twice() -> None:
    twice = at_partners((SampledGaussian.once(noise_multiplier=5.0, clip_norm=1.0), MECHANISM), 2)
    assert [mechanism.steps for mechanism in twice] == [2, 4000]
    assert epsilon(twice[1:], DELTA) == epsilon(MECHANISM.after(4000), DELTA)
    assert at_partners(MECHANISM, 1) == (MECHANISM,)
    with pytest.raises(UsageError, match="expected a person at 1 partner or more, got 0"):
        at_partners(MECHANISM, 0)


def test_two_partners_cannot_aggregate_secretly() -> None:
    with pytest.raises(UsageError, match="expected at least 3 partners for secure aggregation, got 2"):
        distributed_view(MECHANISM, 2, DELTA)
