"""Offers that a policy has to refuse, made from the policy itself: each goes beyond one of its limits, and one is fair.

What only a forger could send (another signature, another roster) never reaches the policy; `offers.acceptance` refuses
it before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import get_args

from silhouette_client.policy.participation import OFFER_LIFE, Proposal, Standing, consider, consider_round
from silhouette_client.policy.terms import Policy
from silhouette_shared.config import Aggregation, Partition, Plan, Privacy, PrivacyMode, Statistics
from silhouette_shared.enrolment.refusals import CodedRefusalError
from silhouette_shared.privacy.budget import budget_of

_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_MOST_EPSILON = 100.0  # of a plan


@dataclass(frozen=True)
class Played:
    """One offer that was played against a policy."""

    offer: str  # what it asks for
    expected: str  # code with which it is to be refused; empty: it is to be accepted
    code: str  # with which it was refused; empty: it was accepted
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the policy did what it is there for."""
        return self.code == self.expected


@dataclass(frozen=True)
class _Case:
    offer: str
    expected: str
    proposal: Proposal
    now: datetime


def play(policy: Policy, standing: Standing) -> tuple[Played, ...]:
    """Play a fair offer and hostile ones against a policy.

    What the policy allows everything of (all modes, any hour) has no hostile offer and is left out.

    Args:
        policy: To be tested.
        standing: Of the node.
    """
    now = _within(policy)
    fair = _fair(policy, standing, now)
    cases = [_Case("within every limit", "", fair, now), *_beyond(policy, standing, fair, now)]
    played = [_played(case, policy, standing) for case in cases]
    return (*played, *_rounds(policy, standing, now))


def _within(policy: Policy) -> datetime:
    """A time at which the policy is open."""
    return next(when for when in _minutes() if policy.is_open(when))


def _minutes() -> list[datetime]:
    return [_NOON + timedelta(minutes=minute) for minute in range(24 * 60)]


def _fair(policy: Policy, standing: Standing, now: datetime) -> Proposal:
    count = max(policy.partners_minimum, 3)
    names = [standing.name, *(f"peer-{number}" for number in range(1, count + len(policy.without)))]
    partners = {name: standing.declared_people for name in names if name not in policy.without}
    partners = dict(list(partners.items())[:count])
    mode = policy.modes[0]
    plan = Plan(
        name="fair",
        partition=Partition(partners=count),
        privacy=Privacy(mode=mode, epsilon=min(policy.epsilon_per_run, 100.0), delta=policy.delta, rounds=2),
        statistics=Statistics(popularity_share=0.0, transition_share=0.0),
        aggregation=Aggregation(protocol="sa-1"),
    )
    return Proposal(
        consortium=policy.consortium or standing.consortium,
        partners=partners,
        plan=plan,
        budget=budget_of(plan),
        parameters=1,
        issued=now,
    )


def _beyond(policy: Policy, standing: Standing, fair: Proposal, now: datetime) -> list[_Case]:
    """One step beyond each limit."""

    def case(offer: str, expected: str, **changes: object) -> _Case:
        return _Case(offer, expected, replace(fair, **changes), now)  # type: ignore[arg-type]

    def with_privacy(**changes: object) -> Plan:
        return replace(fair.plan, privacy=replace(fair.plan.privacy, **changes))  # type: ignore[arg-type]

    fewer = dict(list(fair.partners.items())[: policy.partners_minimum - 1])
    cases = [
        case("another consortium asks", "consortium", consortium="strangers"),
        case(f"{len(fewer)} partners", "partners_minimum", partners=fewer),
        case(
            "more people than declared",
            "people",
            partners={**fair.partners, standing.name: standing.declared_people * 2},
        ),
        case(f"a model of {policy.largest_model + 1} parameters", "largest_model", parameters=policy.largest_model + 1),
        case("an offer from last month", "clock", issued=now - OFFER_LIFE - timedelta(days=23)),
        *(case(f"mode {mode}", "mode", plan=_in_mode(fair.plan, mode), budget=None) for mode in _other_modes(policy)),
    ]
    if policy.secure_aggregation and policy.modes != ("distributed",):
        alone = next(mode for mode in policy.modes if mode != "distributed")
        plan = replace(with_privacy(mode=alone), aggregation=Aggregation(protocol="none"))
        budget = fair.budget if alone != "none" else None
        cases.append(case("the coordinator sees each answer", "secure_aggregation", plan=plan, budget=budget))
    if policy.without:
        company = {**dict(list(fair.partners.items())[:-1]), policy.without[0]: 10}
        cases.append(case(f"together with {policy.without[0]}", "without", partners=company))
    return cases + _beyond_privacy(policy, fair, case, with_privacy)


def _beyond_privacy(
    policy: Policy, fair: Proposal, case: Callable[..., _Case], with_privacy: Callable[..., Plan]
) -> list[_Case]:
    budget = fair.budget
    if budget is None or budget.training is None:
        return []
    training = budget.training
    looser = replace(budget, training=replace(training, clip_norm=2 * training.clip_norm))
    weaker = replace(budget, training=replace(training, noise_multiplier=training.noise_multiplier / 2))
    cases = [
        case(
            f"delta {2 * policy.delta:g}",
            "delta",
            plan=with_privacy(delta=min(2 * policy.delta, (1 + policy.delta) / 2)),
        ),
        case("a clip norm twice the plan's", "budget", budget=looser),
        case("half of the noise that epsilon asks for", "budget", budget=weaker),
    ]
    beyond = min(policy.epsilon_per_run * 1.5, _MOST_EPSILON)
    if beyond > policy.epsilon_per_run:
        cases.append(case(f"epsilon {beyond:g}", "epsilon_per_run", plan=with_privacy(epsilon=beyond)))
    return cases


def _other_modes(policy: Policy) -> list[PrivacyMode]:
    return [mode for mode in get_args(PrivacyMode) if mode not in policy.modes]


def _in_mode(plan: Plan, mode: PrivacyMode) -> Plan:
    return replace(plan, privacy=replace(plan.privacy, mode=mode))


def _rounds(policy: Policy, standing: Standing, now: datetime) -> list[Played]:
    """One round too many, and one at the wrong hour."""
    tired = replace(standing, rounds_today=policy.rounds_a_day)
    found = [_round(f"round {policy.rounds_a_day + 1} of a day", "rounds_a_day", policy, now, tired)]
    closed = next((when for when in _minutes() if not policy.is_open(when)), None)
    if closed is not None:
        found.append(_round(f"a round at {closed:%H:%M} UTC", "hours", policy, closed, standing))
    return found


def _round(offer: str, expected: str, policy: Policy, now: datetime, standing: Standing) -> Played:
    try:
        consider_round(policy, now, standing)
    except CodedRefusalError as refused:
        return Played(offer, expected, refused.code, refused.reason)
    return Played(offer, expected, "", "accepted")


def _played(case: _Case, policy: Policy, standing: Standing) -> Played:
    try:
        consider(case.proposal, policy, case.now, standing)
    except CodedRefusalError as refused:
        return Played(case.offer, case.expected, refused.code, refused.reason)
    return Played(case.offer, case.expected, "", "accepted")
