"""A small registry for tests: a plan, a layout, a clock that can be set."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from silhouette_server.registry import Registry, Submission
from silhouette_server.registry.state import RunState
from silhouette_shared.cards import Card, Evaluation, Figure, Quality
from silhouette_shared.config import Aggregation, Partition, Plan, Privacy, Statistics
from silhouette_shared.model.vector import Layout
from silhouette_shared.secagg.keys import Identity

IDENTITY = Identity(bytes(range(32)))
OTHER = Identity(bytes(32))
LAYOUT = Layout(names=("table", "weight"), shapes=((4, 3), (3,)))

OPEN = Plan(
    name="open",
    partition=Partition(partners=3),
    privacy=Privacy(mode="none"),
    aggregation=Aggregation(protocol="sa-1"),
)
"""Without privacy."""

PRIVATE = Plan(
    name="private",
    partition=Partition(partners=3),
    privacy=Privacy(mode="local", epsilon=8.0, rounds=4, sampling_rate=0.2),
    statistics=Statistics(popularity_share=0.0, transition_share=0.0),
)


@dataclass
class Clock:
    """A clock that goes on by a second at each look, unless it is set."""

    time: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)
    step: timedelta = field(default=timedelta(seconds=1))

    def __call__(self) -> datetime:
        self.time += self.step
        return self.time


def place(folder: Path) -> Path:
    """Where a registry lies in a coordinator's folder."""
    return folder / "registry.sqlite"


def opened(folder: Path, clock: Clock | None = None) -> Registry:
    return Registry.open(place(folder), IDENTITY, clock=Clock() if clock is None else clock)


def vector(number: int, prior: int = 2) -> torch.Tensor:
    """A model that differs from round to round, (D + P,)."""
    return torch.arange(LAYOUT.size + prior, dtype=torch.float32) + 100 * number


def started(registry: Registry, plan: Plan = OPEN, start: str = "") -> str:
    """A run that is running."""
    run = registry.submit(plan, Submission(partners={"north": 10, "south": 20, "west": 30}, start=start)).name
    registry.set_state(run, RunState.running)
    return run


def committed(registry: Registry, run: str, number: int, evaluation: Evaluation | None = None) -> Card:
    """One round, begun and committed."""
    registry.begin_round(run, number)
    return registry.commit_round(
        run,
        number,
        vector(number),
        LAYOUT,
        metrics={"update_norm": 0.5 / number},
        transcript=b"transcript",
        evaluation=evaluation,
        seconds=1.5,
        sent=1000,
        received=900,
        survivors=("north", "south", "west"),
    )


def measured(
    overall: float, worst: float | None, noise: float = 0.0, beside: dict[str, Quality] | None = None
) -> Evaluation:
    return Evaluation(metric="ndcg@10", quality=quality(overall, worst, noise), beside=beside or {})


def quality(overall: float, worst: float | None, noise: float = 0.0) -> Quality:
    return Quality(
        overall=Figure(value=overall, noise_std=noise),
        worst=None if worst is None else Figure(value=worst, noise_std=noise),
    )
