"""Whether this partner takes part: an offer, its policy, the clock and where it stands give an agreement or a refusal.

Pure: what is read from disk and from the network comes as arguments. Every refusal names its code and its figures, and
no figure depends on a person's record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from silhouette_client.policy.terms import Policy
from silhouette_shared.config import Plan
from silhouette_shared.enrolment.refusals import CodedRefusalError
from silhouette_shared.privacy.accounting import epsilon
from silhouette_shared.privacy.budget import STATISTIC_NORM, Budget, released_once, shares_of
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.ledger import BudgetRefusedError, Reason
from silhouette_shared.privacy.mechanism import SampledGaussian

CLOCKS_DIFFER = timedelta(hours=1)
"""How far ahead of this clock an offer may have been made."""

OFFER_LIFE = timedelta(days=7)
"""How long an offer may be accepted; a run that was accepted goes on as long as it takes."""

_MODEL_COORDINATES = 2**24  # more than a statistic or a model of today has; for what the grid's arithmetic takes
_MOST_BLOCKS = 256  # building more takes longer than an answer may
_CALIBRATION = 1e-6  # calibration ends at the plan's epsilon; a last digit is no difference
_LEDGER_CODES: Mapping[Reason, str] = {
    Reason.run_limit: "epsilon_per_run",
    Reason.year_limit: "epsilon_per_year",
    Reason.delta: "delta",
    Reason.other_plan: "other_plan",
    Reason.already_charged: "already_charged",
    Reason.receipt: "receipt",
}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What an offer asks for, as far as a policy looks at it."""

    consortium: str
    partners: Mapping[str, int]  # with how many people each declares
    plan: Plan
    budget: Budget | None
    parameters: int  # of the largest vector that the run makes, or a lower bound on them
    issued: datetime  # UTC


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where this node stands."""

    name: str
    consortium: str  # that it belongs to
    declared_people: int
    rounds_today: int = 0  # accepted in the last 24 hours


def consider(proposal: Proposal, policy: Policy, now: datetime, standing: Standing) -> None:
    """Agree to an offer, or raise what is refused; the ledger has the last word about a year's epsilon.

    Raises:
        CodedRefusalError: With what was expected, what came and what to do.
    """
    _consider_company(proposal, policy, standing)
    _consider_time(proposal, now)
    _consider_privacy(proposal, policy)
    _consider_size(proposal, policy)


def consider_round(policy: Policy, now: datetime, standing: Standing) -> None:
    """Agree to begin one more round now, or raise what is refused."""
    if not policy.is_open(now):
        raise CodedRefusalError(
            "hours",
            f"expected a round within {', '.join(policy.hours)} UTC, got one at {now:%H:%M}; come back then",
            {"hours": ", ".join(policy.hours), "now": f"{now:%H:%M}"},
        )
    if standing.rounds_today >= policy.rounds_a_day:
        raise CodedRefusalError(
            "rounds_a_day",
            f"expected at most {policy.rounds_a_day} rounds in 24 hours, got one more; go on tomorrow",
            {"allowed": policy.rounds_a_day, "begun": standing.rounds_today},
        )


def refused_by_ledger(error: BudgetRefusedError) -> CodedRefusalError:
    """The ledger's refusal under the name of the limit in the policy."""
    return CodedRefusalError(_LEDGER_CODES[error.reason], str(error))


def _consider_company(proposal: Proposal, policy: Policy, standing: Standing) -> None:
    wanted = policy.consortium or standing.consortium
    if proposal.consortium != wanted:
        raise CodedRefusalError(
            "consortium",
            f"expected an offer of {wanted}, got one of {proposal.consortium}; this node takes part in no other",
            {"allowed": wanted, "asked": proposal.consortium},
        )
    count = len(proposal.partners)
    if count < policy.partners_minimum:
        raise CodedRefusalError(
            "partners_minimum",
            f"expected at least {policy.partners_minimum} partners, got {count}; enrol more",
            {"allowed": policy.partners_minimum, "asked": count},
        )
    unwanted = sorted(set(policy.without) & set(proposal.partners))
    if unwanted:
        raise CodedRefusalError(
            "without",
            f"expected a run without {', '.join(unwanted)}, got one with them; this node does not take part with them",
            {"asked": ", ".join(unwanted)},
        )
    declared = proposal.partners.get(standing.name)
    if declared != standing.declared_people:
        raise CodedRefusalError(
            "people",
            f"expected {standing.declared_people} people for {standing.name}, as declared, got "
            f"{'none' if declared is None else declared}; offer what the roster says",
            {"declared": standing.declared_people, "asked": declared or 0},
        )
    if proposal.plan.partition.partners != count:
        raise CodedRefusalError(
            "plan_partners",
            f"expected a plan for the {count} partners of the offer, got partition.partners = "
            f"{proposal.plan.partition.partners}; correct it, for the noise and the thresholds follow from it",
            {"plan": proposal.plan.partition.partners, "asked": count},
        )


def _consider_time(proposal: Proposal, now: datetime) -> None:
    age = now - proposal.issued
    if -age > CLOCKS_DIFFER or age > OFFER_LIFE:
        raise CodedRefusalError(
            "clock",
            f"expected an offer of the last {OFFER_LIFE.days} days, got one of {proposal.issued:%Y-%m-%d %H:%M} UTC "
            "while "
            f"the clock here says {now:%Y-%m-%d %H:%M}; compare the clocks, or make a new offer",
            {"issued": proposal.issued.isoformat(), "now": now.astimezone(UTC).isoformat(timespec="seconds")},
        )


def _consider_privacy(proposal: Proposal, policy: Policy) -> None:
    plan, budget = proposal.plan, proposal.budget
    mode = plan.privacy.mode
    if mode not in policy.modes:
        raise CodedRefusalError(
            "mode",
            f"expected one of the modes {', '.join(policy.modes)}, got {mode}; offer another plan",
            {"allowed": ", ".join(policy.modes), "asked": mode},
        )
    if policy.secure_aggregation and plan.aggregation.protocol != "sa-1":
        raise CodedRefusalError(
            "secure_aggregation",
            f"expected the protocol sa-1, got {plan.aggregation.protocol}; offer a plan with it",
            {"allowed": "sa-1", "asked": plan.aggregation.protocol},
        )
    if (mode == "none") != (budget is None):
        raise CodedRefusalError(
            "budget", f"expected a budget in the private modes and only there, got another with mode {mode}; correct it"
        )
    if budget is None:
        return
    if plan.privacy.epsilon > policy.epsilon_per_run:
        raise CodedRefusalError(
            "epsilon_per_run",
            f"expected epsilon of at most {policy.epsilon_per_run:g} for a run, got {plan.privacy.epsilon:g}; lower "
            "it in "
            "the plan",
            {"allowed": policy.epsilon_per_run, "asked": plan.privacy.epsilon},
        )
    if plan.privacy.delta > policy.delta:
        raise CodedRefusalError(
            "delta",
            f"expected delta of at most {policy.delta:g}, got {plan.privacy.delta:g}; lower it in the plan",
            {"allowed": policy.delta, "asked": plan.privacy.delta},
        )
    check_budget(plan, budget)


def _consider_size(proposal: Proposal, policy: Policy) -> None:
    if proposal.plan.model.blocks > _MOST_BLOCKS:
        raise CodedRefusalError(
            "largest_model",
            f"expected a model of at most {_MOST_BLOCKS} blocks, got {proposal.plan.model.blocks}; offer a smaller one",
            {"allowed": _MOST_BLOCKS, "asked": proposal.plan.model.blocks},
        )
    if proposal.parameters > policy.largest_model:
        raise CodedRefusalError(
            "largest_model",
            f"expected a model of at most {policy.largest_model} parameters, got {proposal.parameters} or more; offer "
            "a "
            "smaller one",
            {"allowed": policy.largest_model, "asked": proposal.parameters},
        )


def check_budget(plan: Plan, budget: Budget) -> None:
    """Refuse mechanisms that are not the plan's, or spend more than it says.

    Noise that is calibrated on another machine may differ in the last digit, so it is not made again here: what was
    offered is compared with the plan, and its epsilon is computed.

    Raises:
        CodedRefusalError: With the part that differs.
    """
    asked = {*released_once(plan), *(("training",) if plan.privacy.rounds > 0 else ())}
    if asked != set(budget.parts):
        raise CodedRefusalError("budget", "expected a mechanism for each release of the plan, got others; correct it")
    privacy, shares = plan.privacy, shares_of(plan)
    for name, part in budget.parts.items():
        expected = (
            (privacy.clip_norm, privacy.sampling_rate, privacy.steps, shares)
            if name == "training"
            else (STATISTIC_NORM, 1.0, 1, shares)
        )
        found = (part.clip_norm, part.sampling_rate, part.steps, part.shares)
        words = ("clip norm", "sampling rate", "steps", "shares of the noise")
        for word, wanted, got in zip(words, expected, found, strict=True):
            if wanted != got:
                raise CodedRefusalError(
                    "budget",
                    f"expected a {word} of {wanted:g} for {name}, as in the plan, got {got:g}; correct the offer",
                    {"part": name, "setting": word, "plan": wanted, "asked": got},
                )
    spent = epsilon([_on_grid(part, plan) for part in budget.parts.values()], privacy.delta)
    if spent > privacy.epsilon * (1 + _CALIBRATION):
        raise CodedRefusalError(
            "budget",
            f"expected noise for the plan's epsilon {privacy.epsilon:g}, got noise for {spent:.3f}; correct the offer",
            {"plan": privacy.epsilon, "asked": round(spent, 4)},
        )


def _on_grid(part: SampledGaussian, plan: Plan) -> SampledGaussian:
    return part.on_grid(Grid.of(part.clip_norm, plan.privacy.grid_bits), _MODEL_COORDINATES)
