"""A few made-up people and an encoder small enough to be trained in a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from silhouette_client.agent import Agent, Terms
from silhouette_client.policy.ledger_store import Ledger
from silhouette_shared.config import Data, Model, Partition, Plan, Privacy, Training
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.histories import Histories, value_buckets
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.ledger import Limits
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.wire.agreement import vocabulary_for
from silhouette_simulations.repeatable import RepeatableBytes

ITEMS = 20
LENGTH = 8
LENGTHS = (3, 9, 1, 12, 5, 2, 7)
DECLARED_PEOPLE = 10  # a declaration, not the count
ANY_BUDGET = Limits(epsilon_per_run=None, epsilon_per_year=None, delta=1e-5)
MECHANISM = SampledGaussian(noise_multiplier=1.5, sampling_rate=0.5, steps=4, clip_norm=0.5)


def generator(*names: str | int) -> torch.Generator:
    """A stream of its own for every name."""
    return ReproducibleSource(5).child(*names).torch_generator()


def vocabulary(items: int = ITEMS, categories: int = 3, content: int = 4) -> Vocabulary:
    """A public catalogue with two declared attributes."""
    draw = generator("vocabulary")
    table = torch.zeros(items + 1, categories)
    if categories:
        table[torch.arange(1, items + 1), torch.arange(items) % categories] = 1.0
    vectors = torch.randn(items + 1, content, generator=draw)
    vectors[0] = 0.0
    return Vocabulary(categories=table, content=vectors, attributes=(("gender", 2), ("age", 3)))


def histories(
    lengths: Sequence[int] = LENGTHS, *, seed: int = 0, items: int = ITEMS, has_times: bool = True, texts: int = 0
) -> Histories:
    """People with so many events each; items repeat, and some attributes, values and texts are unknown."""
    draw = generator("histories", seed)
    events = sum(lengths)

    def whole(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=draw)

    own = torch.tensor(lengths)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), own)
    values = whole(0, 6, events).double()
    return Histories(
        items=whole(1, items + 1, events),
        behaviours=whole(0, 11, events),
        values=value_buckets(torch.where(values == 0, torch.nan, values)),
        timestamps=whole(0, 100_000, events).cumsum(0) + 1_000_000 * owner,
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), own.cumsum(0)]),
        attributes=torch.stack([whole(0, 3, len(lengths)), whole(0, 4, len(lengths))], dim=1),
        has_times=has_times,
        texts=_texts(events, texts, seed),
    )


def _texts(events: int, width: int, seed: int) -> Tensor | None:
    if width == 0:
        return None
    draw = generator("texts", seed)
    return torch.randn(events, width, generator=draw) * (torch.rand(events, 1, generator=draw) < 0.6)


def only(people: Histories, rows: Sequence[int]) -> Histories:
    """The chosen people alone."""
    return people.of_people(torch.tensor(list(rows)))


def shape(**changes: object) -> Model:
    """A small encoder, without dropout unless asked for."""
    return replace(Model(width=8, blocks=1, heads=2, dropout=0.0, content_width=4), **changes)  # type: ignore[arg-type]


def encoder(
    words: Vocabulary | None = None, *, scale: float = 1.0, length: int = LENGTH, **changes: object
) -> ProfileEncoder:
    """An encoder drawn from a fixed stream; `scale` enlarges its weights, so that nothing is nearly linear."""
    made = ProfileEncoder(shape(**changes), words or vocabulary(), length)
    made.initialise(generator("encoder"))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return made


def plan(**changes: object) -> Plan:
    """A plan for these people."""
    made = Plan(
        name="tiny",
        data=Data(history_length=LENGTH),
        partition=Partition(partners=2),
        model=shape(),
        training=Training(rounds=4, batch_size=3),
        privacy=Privacy(rounds=4, sampling_rate=0.5, clip_norm=0.5),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def training_budget(mechanism: SampledGaussian | None) -> Budget | None:
    """All of it for training."""
    return None if mechanism is None else Budget(popularity=None, transitions=None, training=mechanism)


def agent(
    people: Histories | None = None,
    *,
    partner: str = "partner-0",
    mechanism: SampledGaussian | None = None,
    budget: Budget | None = None,
    with_plan: Plan | None = None,
    ledger: Ledger | None = None,
) -> Agent:
    """One partner; without a mechanism or a budget it answers without privacy, with one as in a simulation."""
    own = plan() if with_plan is None else with_plan
    paid = budget if mechanism is None else training_budget(mechanism)
    source = ReproducibleSource(0).child("training", "secrets", partner)
    return Agent(
        partner=partner,
        histories=histories() if people is None else people,
        vocabulary=vocabulary_for(own, vocabulary(), paid),
        plan=own,
        terms=Terms(budget=paid, declared_people=DECLARED_PEOPLE),
        randomness=ReproducibleSource(0).child("training"),
        ledger=ledger or Ledger.in_memory(ANY_BUDGET),
        secrets=lambda number, purpose: RepeatableBytes(source.child(number, purpose)),
    )
