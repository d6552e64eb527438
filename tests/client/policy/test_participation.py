"""Every limit of a policy refuses what is beyond it, with its code and its figures, and agrees to what is within."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.enrolled import budget_for, deployed_plan
from tests.people import MECHANISM

from silhouette_client.policy.hostile import play
from silhouette_client.policy.participation import (
    CLOCKS_DIFFER,
    OFFER_LIFE,
    Proposal,
    Standing,
    check_budget,
    consider,
    consider_round,
    refused_by_ledger,
)
from silhouette_client.policy.terms import Policy
from silhouette_shared.enrolment.refusals import CodedRefusalError
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.ledger import BudgetRefusedError, Reason

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
STANDING = Standing(name="east", consortium="demo", declared_people=10)
PLAN = deployed_plan(mode="local")
ALLOWING = Policy(epsilon_per_run=100.0)


def proposal(**changes: Any) -> Proposal:
    made = Proposal(
        consortium="demo",
        partners={"east": 10, "north": 20, "south": 30},
        plan=PLAN,
        budget=budget_for(PLAN),
        parameters=1000,
        issued=NOW,
    )
    return replace(made, **changes)


def refused(made: Proposal, policy: Policy = ALLOWING, now: datetime = NOW) -> CodedRefusalError:
    with pytest.raises(CodedRefusalError) as caught:
        consider(made, policy, now, STANDING)
    return caught.value


def test_what_is_within_every_limit_is_agreed_to() -> None:
    consider(proposal(), ALLOWING, NOW, STANDING)
    consider(proposal(parameters=ALLOWING.largest_model, issued=NOW - OFFER_LIFE), ALLOWING, NOW, STANDING)
    consider(proposal(issued=NOW + CLOCKS_DIFFER), ALLOWING, NOW, STANDING)


@pytest.mark.parametrize(
    ("changes", "policy", "code", "figures"),
    [
        ({"consortium": "other"}, {}, "consortium", {"allowed": "demo", "asked": "other"}),
        ({}, {"consortium": "strict"}, "consortium", {"allowed": "strict", "asked": "demo"}),
        ({}, {"partners_minimum": 4}, "partners_minimum", {"allowed": 4, "asked": 3}),
        ({}, {"without": ("north", "west")}, "without", {"asked": "north"}),
        ({"partners": {"east": 11, "north": 20, "south": 30}}, {}, "people", {"declared": 10, "asked": 11}),
        ({"partners": {"west": 10, "north": 20, "south": 30}}, {}, "people", {"declared": 10, "asked": 0}),
        ({"plan": deployed_plan(mode="local", partners=5)}, {}, "plan_partners", {"plan": 5, "asked": 3}),
        ({}, {"modes": ("distributed", "none")}, "mode", {"allowed": "distributed, none", "asked": "local"}),
        ({"plan": deployed_plan(mode="none"), "budget": None}, {}, "mode", {"allowed": "local", "asked": "none"}),
        ({"budget": None}, {}, "budget", {}),
        ({"plan": deployed_plan(mode="none")}, {"modes": ("none",)}, "budget", {}),
        ({}, {"epsilon_per_run": 1.0}, "epsilon_per_run", {"allowed": 1.0, "asked": PLAN.privacy.epsilon}),
        ({}, {"delta": 1e-6}, "delta", {"allowed": 1e-6, "asked": 1e-5}),
        ({}, {"largest_model": 999}, "largest_model", {"allowed": 999, "asked": 1000}),
    ],
)
def test_each_limit_refuses_with_its_code_and_figures(
    changes: dict[str, Any], policy: dict[str, Any], code: str, figures: dict[str, Any]
) -> None:
    error = refused(proposal(**changes), replace(ALLOWING, **policy))
    assert (error.code, error.figures) == (code, figures)
    assert error.exit_code == 3
    assert "expected" in error.reason


@pytest.mark.parametrize("age", [-CLOCKS_DIFFER - timedelta(seconds=1), OFFER_LIFE + timedelta(seconds=1)])
def test_an_offer_of_another_time_is_refused(age: timedelta) -> None:
    assert refused(proposal(issued=NOW - age)).code == "clock"


def test_a_plan_without_secure_aggregation_is_refused_unless_allowed() -> None:
    open_plan = replace(PLAN, aggregation=type(PLAN.aggregation)(protocol="none"))
    assert refused(proposal(plan=open_plan)).code == "secure_aggregation"
    consider(proposal(plan=open_plan), replace(ALLOWING, secure_aggregation=False), NOW, STANDING)


def test_a_model_of_countless_blocks_is_refused_before_it_is_built() -> None:
    deep = replace(PLAN, model=replace(PLAN.model, blocks=10**6, width=2, heads=1))
    assert refused(proposal(plan=deep)).code == "largest_model"


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"clip_norm": MECHANISM.clip_norm * 2}, "clip norm"),
        ({"sampling_rate": 0.25}, "sampling rate"),
        ({"steps": 1}, "steps"),
        ({"shares": 2}, "shares of the noise"),
    ],
)
def test_a_mechanism_that_is_not_the_plans_is_refused(changes: dict[str, Any], setting: str) -> None:
    """A looser clip, a rarer sampling, fewer steps or a part of the noise."""
    training = MECHANISM.after(PLAN.privacy.steps)
    with pytest.raises(CodedRefusalError) as caught:
        check_budget(PLAN, Budget(None, None, replace(training, **changes)))
    assert caught.value.code == "budget"
    assert caught.value.figures["setting"] == setting


def test_noise_that_does_not_keep_the_plans_epsilon_is_refused_and_more_is_not() -> None:
    training = MECHANISM.after(PLAN.privacy.steps)
    check_budget(PLAN, Budget(None, None, replace(training, noise_multiplier=training.noise_multiplier * 2)))
    with pytest.raises(CodedRefusalError, match="got noise for"):
        check_budget(PLAN, Budget(None, None, replace(training, noise_multiplier=training.noise_multiplier * 0.9)))


def test_a_release_more_or_less_than_the_plan_has_is_refused() -> None:
    training = MECHANISM.after(PLAN.privacy.steps)
    for budget in (
        Budget(None, None, None),
        Budget(MECHANISM.once(noise_multiplier=9.0, clip_norm=1.0), None, training),
    ):
        with pytest.raises(CodedRefusalError, match="a mechanism for each release"):
            check_budget(PLAN, budget)


def test_rounds_keep_to_the_hours_and_to_their_number() -> None:
    policy = Policy(hours=("20:00-06:00",), rounds_a_day=2)
    night = NOW + timedelta(hours=9)
    consider_round(policy, night, replace(STANDING, rounds_today=1))
    with pytest.raises(CodedRefusalError) as caught:
        consider_round(policy, NOW, STANDING)
    assert (caught.value.code, caught.value.figures["now"]) == ("hours", "12:00")
    with pytest.raises(CodedRefusalError) as caught:
        consider_round(policy, night, replace(STANDING, rounds_today=2))
    assert (caught.value.code, caught.value.figures) == ("rounds_a_day", {"allowed": 2, "begun": 2})


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_the_ledger_has_a_code(reason: Reason) -> None:
    assert refused_by_ledger(BudgetRefusedError("expected less", reason)).code


@pytest.mark.parametrize(
    "policy",
    [
        Policy(hours=("20:00-06:00",), without=("peer-1",), partners_minimum=5),
        Policy(modes=("distributed",), consortium="strict"),
    ],
)
def test_a_policy_refuses_each_offer_beyond_it_and_accepts_the_fair_one(policy: Policy) -> None:
    played = play(policy, STANDING)
    assert [one for one in played if not one.passed] == []
    assert [one.code for one in played if not one.expected] == [""]
    assert len({one.expected for one in played}) >= 6


def test_a_limit_that_is_not_kept_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silhouette_client.policy.participation._consider_size", lambda proposal, policy: None)
    wrong = [one for one in play(Policy(), STANDING) if not one.passed]
    assert [one.expected for one in wrong] == ["largest_model"]
