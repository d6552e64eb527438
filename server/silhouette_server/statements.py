"""The privacy statement of a deployed model: what it cost, over its run and every run that it was started from."""

from __future__ import annotations

from importlib.metadata import version

from silhouette_shared.cards.documents import Card, SpentOn
from silhouette_shared.config import Plan
from silhouette_shared.privacy.statement import Facts, Release, Statement, privacy_statement


def statement_of(card: Card, plan: Plan, partners: int) -> Statement:
    """What is promised to whom, as the card counts it.

    Args:
        card: Of the model, whose checks have passed.
        plan: Of its run.
        partners: In the run.

    Raises:
        UsageError: If an epsilon cannot be computed.
    """
    spent = card.spent
    return privacy_statement(
        Facts(
            run=card.reference,
            plan_digest=card.plan_digest,
            software=f"silhouette-server {version('silhouette-server')}",
            mode=plan.privacy.mode,
            releases=() if spent is None else tuple(_release(one, card) for one in spent.releases),
            delta=plan.privacy.delta if spent is None else spent.delta,
            partners=partners,
            steps_a_round=plan.privacy.local_steps,
            simulation=False,
            secure_noise=True,
            secure_aggregation=plan.aggregation.protocol == "sa-1",
        )
    )


def _release(one: SpentOn, card: Card) -> Release:
    where = "" if one.run == card.run else f", in run {one.run} before"
    return Release(f"{one.purpose}{where}", one.mechanism)
