"""What every study works with: a plan, its data, a place for checkpoints, and how it trains and compares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from silhouette_client.ingest.packing import pack
from silhouette_shared.config import Plan, with_changes
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.evaluation import Interval, paired_bootstrap
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.models import load_encoder
from silhouette_simulations.training import Machine, train_together
from silhouette_simulations.world import PartnerData, World


@dataclass(frozen=True)
class StudyTable:
    """What a study found."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, object], ...]  # a value for each column: text, a number, an Interval, or None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """The same as plain JSON values."""
        return {
            "title": self.title,
            "rows": [
                {name: vars(value) if isinstance(value, Interval) else value for name, value in row.items()}
                for row in self.rows
            ],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Bench:
    """Where a study works.

    Attributes:
        plan: Model, objective, schedule and seed; privacy is not read, a study trains without.
        dataset: Of the plan, cut down to some people if that was asked for.
        machine: Backend, device, workers.
        folder: For checkpoints: a study that was killed goes on with the training it was at.
        say: Told what happens.
        several: Seeds to take the mean over, the plan's first; empty for the plan's own alone.
        without: What an ablation leaves out, each in a row; empty for everything that it can.
    """

    plan: Plan
    dataset: Dataset
    machine: Machine
    folder: Path
    say: Callable[[str], None]
    several: tuple[int, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of the study."""
        return self.several or (self.plan.seed,)

    def each_seed(self) -> tuple[Self, ...]:
        """A bench for each seed, on the same data."""
        return tuple(
            replace(self, plan=with_changes(self.plan, {"seed": seed}), several=()) if seed != self.plan.seed else self
            for seed in self.seeds
        )

    def draw(self, *path: str) -> torch.Generator:
        """A stream of random numbers of this study and seed, on the device."""
        return ReproducibleSource(self.plan.seed).child("study", *path).torch_generator(self.machine.device)

    def train(
        self, name: str, world: World, partners: Sequence[PartnerData], plan: Plan | None = None
    ) -> ProfileEncoder:
        """One model on some partners, without privacy; a training that is half done goes on.

        Args:
            name: Of this training in the study.
            world: For the catalogue.
            partners: Who takes part.
            plan: Another one than the bench's.
        """
        plan = plan or self.plan
        rounds = plan.training.rounds

        def tell(record: object, _model: Tensor) -> None:
            number = getattr(record, "round", 0)
            if number % plan.evaluation.every_rounds == 0 or number == rounds:
                self.say(f"{name}: round {number} of {rounds}")

        folder = self.folder / name.replace("/", "-") / plan.digest[:12]
        folder.mkdir(parents=True, exist_ok=True)
        trained = train_together(
            plan, world, partners, name=f"study/{name}", budget=None, folder=folder, machine=self.machine, on_round=tell
        )
        return load_encoder(plan, world.vocabulary, trained.parameters, self.machine.device)

    def difference(self, left: Tensor, right: Tensor, *path: str) -> Interval:
        """Mean of left - right over the same people, with its 95 % interval."""
        draw = ReproducibleSource(0).child("study", "bootstrap", *path).torch_generator()
        return paired_bootstrap(left.cpu(), right.cpu(), generator=draw)


def some_people(dataset: Dataset, people: int, seed: int) -> Dataset:
    """The data set of so many people drawn at random; the catalogue stays whole.

    Raises:
        UsageError: If it has fewer.
    """
    if people > len(dataset.users):
        raise UsageError(f"{dataset.name}: expected at most {len(dataset.users)} people, got {people}; ask for fewer")
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(len(dataset.users))[:people]
    users = dataset.users.iloc[np.sort(drawn)].reset_index(drop=True)
    known = set(users["user"])

    def of(frame: pd.DataFrame | None, *columns: str) -> pd.DataFrame | None:
        if frame is None:
            return None
        kept = np.logical_and.reduce([frame[column].isin(known).to_numpy() for column in columns])
        return frame[kept].reset_index(drop=True)

    events = of(dataset.events, "user")
    assert events is not None  # noqa: S101 - every data set has events
    return replace(
        dataset,
        events=events,
        users=users,
        edges=of(dataset.edges, "user", "other"),
        tags=of(dataset.tags, "user"),
        held_out=of(dataset.held_out, "user"),
        digest=f"{dataset.digest[:32]}/{people}/{seed}",
    )


def whole_histories(bench: Bench, world: World) -> Histories:
    """Everybody's events, nothing held out, in the order of the users' table."""
    return pack(
        bench.dataset.events,
        bench.dataset.users,
        items=world.catalogue.index,
        attributes=bench.dataset.attributes,
        has_times=bench.dataset.times == "utc",
        text_width=bench.plan.model.text_width,
    ).to(bench.machine.device)


def alone(known: Histories, name: str = "pooled") -> PartnerData:
    """One partner with these people, of whom nothing is asked."""
    nothing = torch.zeros(0, dtype=torch.int64)
    users = tuple(str(row) for row in range(len(known)))
    return PartnerData(name, users, known.to(torch.device("cpu")), nothing, nothing, nothing.view(0, 2))
