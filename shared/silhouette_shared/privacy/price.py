"""What a plan costs in privacy, before anybody runs it.

`budget` is the one place where a plan becomes the mechanisms that drive a run and its accounting; here is said what
they mean: for each accountant, for each who may look, for a person at several partners, and against the signal that
the noise has to leave visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import Spending, Split, curve, epsilon, epsilons, split
from silhouette_shared.privacy.budget import budget_of, released_once, training_of
from silhouette_shared.privacy.grid import float32_summing
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.modes import View, at_partners, distributed_view, local_view

_CURVE_POINTS = 20


@dataclass(frozen=True)
class Price:
    """What a plan costs.

    Args:
        mechanism: Of the private training.
        beside: Of the statistics that the same budget pays.
        delta: Of the plan, for every epsilon here.
        accountants: Epsilon by accountant.
        parts: Where delta goes.
        one_round: Epsilon of a single round alone.
        curve: Pairs (rounds, epsilon).
        persons_partners: At how many partners a person may be.
        person: Epsilon of such a person; None if it is so large that the batch cap leaves no delta for it.
        runs: Whole runs on the same people, such as those to choose settings by, or one that was begun anew.
        all_runs: Epsilon of all of them at one partner; None as for a person.
        local: Who sees what if every partner adds all its noise.
        distributed: Who sees what if the noise comes in shares; None with fewer than three partners.
        expected_batch: People in a step on average; None without a bound on them.
        noise_per_coordinate: Standard deviation of the noise on a coordinate of the mean gradient, in clip norms.
        noise_to_signal: Norm of the noise over the largest norm that the sum can have.
        float32_summing: What no charge covers: how far float32 may move two sums of the largest sample apart, in clip
            norms; None without a bound on the people.
        with_summing: Epsilon if that were part of the sensitivity; None without it, or if it is too large to be stated.
    """

    mechanism: SampledGaussian
    beside: tuple[SampledGaussian, ...]
    delta: float
    accountants: dict[str, float]
    parts: Split
    one_round: float
    curve: tuple[tuple[int, float], ...]
    persons_partners: int
    person: float | None
    runs: int
    all_runs: float | None
    local: View
    distributed: View | None
    expected_batch: float | None
    noise_per_coordinate: float | None
    noise_to_signal: float | None
    float32_summing: float | None
    with_summing: float | None


def training_and_beside(
    plan: Plan, *, people_bound: int | None, size: int | None
) -> tuple[SampledGaussian, tuple[SampledGaussian, ...]]:
    """The mechanism of a plan's private training, and of the statistics that the same budget pays.

    Args:
        plan: With privacy.
        people_bound: A public bound on the partner's people; None takes no cap on a sample.
        size: Coordinates of the model; None reckons with a larger one than any.

    Raises:
        UsageError: If the plan has no privacy or no private rounds, or no noise keeps its promise.
    """
    budget = budget_of(plan)
    if budget is None:
        raise UsageError("privacy.mode: expected a mode with privacy, got none; a plan without privacy has no noise")
    if budget.training is None:
        raise UsageError(
            "privacy.rounds: expected at least 1 round to price, got none; its statistics take all of epsilon"
        )
    beside = budget.statistics
    if people_bound is None and size is None:
        return budget.training, beside
    return training_of(plan, beside=beside, people_bound=people_bound, size=size), beside


def price_plan(
    plan: Plan,
    *,
    partners: int | None = None,
    people: int | None = None,
    size: int | None = None,
    persons_partners: int = 1,
    runs: int = 1,
) -> Price:
    """Price a plan for a partner.

    Args:
        plan: With privacy.
        partners: In the federation; None takes the plan's.
        people: A public bound on the people of the partner.
        size: Coordinates of the model.
        persons_partners: At how many partners a person may be.
        runs: Whole runs of plans like this one on the same people. A void round needs none: its number is used up.

    Raises:
        UsageError: If the plan has no privacy or no private rounds, or a figure cannot be computed; it says what to
            change.
    """
    count = plan.partition.partners if partners is None else partners
    if not 1 <= persons_partners <= count:
        raise UsageError(
            f"expected a person at 1 to {count} partners, got {persons_partners}; change --persons-partners"
        )
    if runs < 1:
        raise UsageError(f"expected at least 1 run, got {runs}; change --runs")
    mechanism, beside = training_and_beside(plan, people_bound=people, size=size)
    privacy, everything = plan.privacy, (*beside, mechanism)
    accountants = epsilons(everything, privacy.delta)
    rounds = sorted({max(1, round(privacy.rounds * n / _CURVE_POINTS)) for n in range(1, _CURVE_POINTS + 1)})
    spent = curve(mechanism, privacy.delta, [n * privacy.local_steps for n in rounds], beside=beside)
    expected = None if people is None else people * privacy.sampling_rate
    summing = None if people is None else float32_summing(mechanism.batch_cap or people)
    per_coordinate = None if expected is None else mechanism.noise_std / mechanism.clip_norm / expected
    return Price(
        mechanism=mechanism,
        beside=beside,
        delta=privacy.delta,
        accountants=accountants,
        parts=split(everything, privacy.delta, accountants["pld"]),
        one_round=epsilon(mechanism.after(privacy.local_steps), privacy.delta),
        curve=tuple((n, value) for n, (_, value) in zip(rounds, spent, strict=True)),
        persons_partners=persons_partners,
        person=_if_stated(at_partners(everything, persons_partners), privacy.delta),
        runs=runs,
        all_runs=_if_stated(everything * runs, privacy.delta),
        local=local_view(everything, count, privacy.delta, steps_a_round=privacy.local_steps),
        distributed=distributed_view(everything, count, privacy.delta)
        if count >= 3 and privacy.local_steps == 1
        else None,
        expected_batch=expected,
        noise_per_coordinate=per_coordinate,
        noise_to_signal=None if per_coordinate is None or size is None else per_coordinate * math.sqrt(size),
        float32_summing=summing,
        with_summing=None
        if summing is None
        else _if_stated((*beside, _moved_further_apart(mechanism, summing)), privacy.delta),
    )


def _moved_further_apart(mechanism: SampledGaussian, by: float) -> SampledGaussian:
    """The same noise for sums that may lie `by` clip norms further apart."""
    sensitivity = mechanism.sensitivity
    return replace(
        mechanism,
        noise_multiplier=mechanism.noise_multiplier * sensitivity / (sensitivity + by * mechanism.clip_norm),
    )


def _if_stated(spending: Spending, delta: float) -> float | None:
    try:
        return epsilon(spending, delta)
    except UsageError:
        return None


def price_document(plan: Plan, price: Price) -> dict[str, object]:
    """A price as plain JSON values."""
    mechanism = price.mechanism

    def view(seen: View | None) -> dict[str, object] | None:
        return None if seen is None else vars(seen)

    return {
        "plan": plan.name,
        "digest": plan.digest,
        "mode": plan.privacy.mode,
        "delta": price.delta,
        "epsilon": price.accountants["pld"],
        "accountants": price.accountants,
        "mechanism": mechanism.describe(),
        "statistics": [
            {"name": name, **part.describe()} for name, part in zip(released_once(plan), price.beside, strict=True)
        ],
        "delta_parts": {
            "accountants": price.parts.formula,
            "batch_cap": price.parts.overflow,
            "arithmetic": price.parts.sampler,
        },
        "epsilon_of_arithmetic": price.parts.epsilon,
        "batch": {"expected": price.expected_batch, "cap": mechanism.batch_cap, "overflow": mechanism.overflow},
        "rounds": plan.privacy.rounds,
        "steps_a_round": plan.privacy.local_steps,
        "one_round": price.one_round,
        "curve": [{"round": n, "epsilon": value} for n, value in price.curve],
        "person": {"partners": price.persons_partners, "epsilon": price.person},
        "runs": {"number": price.runs, "epsilon": price.all_runs},
        "modes": {"local": view(price.local), "distributed": view(price.distributed)},
        "noise_per_coordinate": price.noise_per_coordinate,
        "noise_to_signal": price.noise_to_signal,
        "not_charged": {"float32_summing": price.float32_summing, "epsilon_with_it": price.with_summing},
    }
