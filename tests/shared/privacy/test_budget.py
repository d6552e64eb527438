"""A plan's budget covers everything that the run releases, and the statistics take their shares of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from silhouette_shared.config import Plan, Privacy, Statistics
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import calibrate, epsilon
from silhouette_shared.privacy.budget import Budget, budget_of
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian


def budget(privacy: Privacy, statistics: Statistics | None = None) -> Budget:
    found = budget_of(Plan(name="p", privacy=privacy, statistics=statistics or Statistics()))
    assert found is not None
    return found


def noise(mechanism: SampledGaussian | None) -> float:
    assert mechanism is not None
    return mechanism.noise_multiplier


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_statistics_and_training_together_cost_what_the_plan_says(target: float) -> None:
    made = budget(Privacy(epsilon=target, rounds=20))
    assert len(made.spending) == 3
    assert 0.97 * target < epsilon(made.spending, 1e-5) <= target + 0.001
    alone = budget(Privacy(epsilon=target, rounds=20), Statistics(popularity_share=0.0, transition_share=0.0))
    assert alone.statistics == ()
    assert noise(alone.training) < noise(made.training)


def test_without_rounds_the_statistics_take_all_in_the_ratio_of_their_shares() -> None:
    made = budget(Privacy(epsilon=2.0, rounds=0))
    assert made.training is None
    assert 1.96 < epsilon(made.spending, 1e-5) <= 2.001
    assert math.isclose(noise(made.popularity) ** 2 / noise(made.transitions) ** 2, 0.4 / 0.3)
    one = budget(Privacy(epsilon=2.0, rounds=0), Statistics(transition_share=0.0))
    assert one.transitions is None
    whole = calibrate(epsilon=2.0, delta=1e-5, sampling_rate=1.0, steps=1, clip_norm=1.0)
    # A little more than without a grid: its arithmetic is paid for.
    assert whole.noise_multiplier <= noise(one.popularity) < 1.001 * whole.noise_multiplier


def test_what_is_released_costs_no_more_than_the_plan_says_arithmetic_included() -> None:
    made = budget(Privacy(epsilon=4.0, rounds=20))
    charged = [part.on_grid(Grid.of(part.clip_norm, 16), 2_000_000) for part in made.spending]
    assert 3.97 < epsilon(charged, 1e-5) <= 4.0


def test_a_statistic_is_one_release_of_everybody_at_norm_one() -> None:
    made = budget(Privacy(rounds=5))
    for part in made.statistics:
        assert (part.sampling_rate, part.steps, part.clip_norm) == (1.0, 1, 1.0)


def test_the_mode_none_spends_nothing() -> None:
    assert budget_of(Plan(name="p", privacy=Privacy(mode="none"))) is None


def test_statistics_that_leave_too_little_for_the_training_are_refused() -> None:
    greedy = Statistics(popularity_share=0.4, transition_share=0.599999)
    with pytest.raises(UsageError, match="beside"):
        budget(Privacy(epsilon=0.1, rounds=3000, sampling_rate=1.0), greedy)


def test_a_plan_without_rounds_needs_statistics_and_one_with_rounds_leaves_them_something() -> None:
    nothing = Statistics(popularity_share=0.0, transition_share=0.0)
    with pytest.raises(ValueError, match=r"privacy\.rounds: expected at least 1 round, or statistics, got 0"):
        Plan(name="p", privacy=Privacy(rounds=0), statistics=nothing)
    everything = Statistics(popularity_share=0.5, transition_share=0.5)
    with pytest.raises(ValueError, match="to leave something for the training rounds"):
        Plan(name="p", privacy=Privacy(rounds=1), statistics=everything)
    kept = Plan(name="p", privacy=Privacy(rounds=0), statistics=everything)
    assert replace(kept.privacy, rounds=0).steps == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"popularity_share": 0.0}, "statistics.popularity_share: expected a share above 0"),
        ({"popularity_share": 0.8}, "statistics.transition_share: expected shares of at most 1 together"),
        ({"transition_share": -0.1}, "statistics.transition_share: expected a share from 0 to 1"),
        ({"active_items": 1}, "statistics.active_items: expected 2 to 20000 items"),
        ({"active_power": -0.5}, "statistics.active_power: expected a power from 0 to 2"),
        ({"window": 0}, "statistics.window: expected 1 to 1000 events"),
        ({"rank": 0}, "statistics.rank: expected 1 to 1024 features"),
        ({"half_life": 0.0}, "statistics.half_life: expected a positive number of events"),
        ({"content_weight": -1.0}, "statistics.content_weight: expected 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Statistics(**changes)  # type: ignore[arg-type]
