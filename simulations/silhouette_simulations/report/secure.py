"""What secure aggregation cost in a run, and what the coordinator saw of a partner."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median

from silhouette_simulations.report.reading import Run, SecureStep

_STEPS = {
    "advertise": "keys",
    "share": "encrypted shares",
    "mask": "masked vectors, and the training before them",
    "agree": "signatures on the survivors",
    "unmask": "shares that open the sum",
}
_SECURE_ROWS = ("federated", "federated_private")


@dataclass(frozen=True)
class StepCost:
    """Medians over the rounds that had this step."""

    step: str
    what: str  # that partners answer
    rounds: int
    seconds: float
    sent: float  # bytes to one partner
    received: float  # bytes from one partner


@dataclass(frozen=True)
class SecureSummary:
    """Secure aggregation in one run.

    Args:
        steps: In their order.
        five: Rounds of five exchanges.
        three: Rounds of three, whose keys were sent ahead.
        void: Rounds without a sum.
        fewest: Survivors of the completed round with the fewest; 0 if there is none.
        partners: On the roster.
        unevenness: Largest z-score of a masked vector's bytes against even ones.
    """

    steps: tuple[StepCost, ...]
    five: int
    three: int
    void: int
    fewest: int
    partners: int
    unevenness: float


def secure_summary(run: Run) -> SecureSummary | None:
    """The summary, None where the plan goes without secure aggregation."""
    if run.plan.aggregation.protocol != "sa-1":
        return None
    partners = len(run.header.partners)
    exchanges = Counter(Counter((one.row, one.round) for one in run.secure_steps).values())
    return SecureSummary(
        steps=tuple(_cost(step, run.secure_steps, partners) for step in _STEPS if _of(step, run.secure_steps)),
        five=exchanges[5],
        three=exchanges[3],
        void=sum(one.row in _SECURE_ROWS and one.replies == 0 for one in run.rounds),
        fewest=min((one.survivors for one in run.secure_steps), default=0),
        partners=partners,
        unevenness=max((one.unevenness for one in run.secure_steps), default=0.0),
    )


def _of(step: str, steps: tuple[SecureStep, ...]) -> list[SecureStep]:
    return [one for one in steps if one.step == step]


def _cost(step: str, steps: tuple[SecureStep, ...], partners: int) -> StepCost:
    found = _of(step, steps)
    return StepCost(
        step=step,
        what=_STEPS[step],
        rounds=len(found),
        seconds=median(one.seconds for one in found),
        sent=median(one.sent for one in found) / partners,
        received=median(one.received for one in found) / partners,
    )
