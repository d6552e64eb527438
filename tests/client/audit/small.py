"""A small trainer with every layer of the encoder, and its audit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from silhouette_client.audit.run import Settings, audit
from silhouette_client.training.engine import EngineName
from silhouette_client.training.private import SecretOf
from silhouette_shared.config import Data, Model, Plan, Privacy, Statistics, Training
from silhouette_shared.privacy.audit.result import AuditResult
from silhouette_shared.randomness import ReproducibleSource, SecretBytes
from silhouette_simulations.repeatable import RepeatableBytes

STEPS = 40
PLAN = Plan(
    name="small",
    data=Data(history_length=10),
    model=Model(width=12, blocks=1, heads=2, lags=1, dropout=0.1, content_width=6),
    training=Training(attribute_weight=0.5),
    statistics=Statistics(popularity_share=0.0, transition_share=0.0),
    privacy=Privacy(rounds=STEPS, sampling_rate=0.1, epsilon=6.0),
)
WHOLE = Settings(steps=STEPS, people=100, items=100)
SHORT = Settings(steps=STEPS, people=100, items=100, alone=60)
"""With so few people alone that the audit says so; a fault shows all the same."""


def repeatable(seed: int, *, shared: str = "") -> Callable[[int], SecretOf]:
    """Bytes of each partner's own for every purpose, the same in every run of the test.

    Both partners have the same ones for the purpose `shared`.
    """

    def secret(partner: int, purpose: str) -> SecretBytes:
        owner = 0 if purpose == shared else partner
        return RepeatableBytes(ReproducibleSource(seed).child("secret", owner, purpose))

    return lambda partner: partial(secret, partner)


def audited(
    settings: Settings = SHORT,
    *,
    seed: int = 0,
    plan: Plan = PLAN,
    engine: EngineName = "bookkeeping",
    shared: str = "",
) -> AuditResult:
    """The result of one audit."""
    return audit(plan, settings, engine=engine, secret=repeatable(seed, shared=shared))
