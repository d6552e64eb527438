"""A data set cut by time: what is known when each model is trained, and what came next.

The same people are dealt to the same partners in every slice, so that what a person costs adds up at one partner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.partitioning import partition
from silhouette_simulations.world import PartnerData, World, empty_world, packed, replace_content

LEAST_EVENTS = 2
"""Of a person before the first bound: one to rank from and one that an evaluation can hold out."""


@dataclass(frozen=True)
class Slice:
    """One model's turn.

    Args:
        number: From 1.
        until: UTC seconds; what came before is known.
        world: The partners with what they know at that time.
        asked: The same partners with those of their people who did something new in the time after: its first item that
            the person had nothing to do with before.
    """

    number: int
    until: int
    world: World
    asked: tuple[PartnerData, ...]

    @property
    def events(self) -> int:
        """That are known."""
        return self.world.events


def cut(plan: Plan, dataset: Dataset, *, count: int, people: int | None, least: int) -> tuple[Slice, ...]:
    """Cut a data set into `count` slices to train after and one more to ask about, of equally many events.

    Args:
        plan: Deals the people.
        dataset: With times in UTC.
        count: Models that are trained, one after each of the first slices.
        people: How many people to take, drawn by the plan's seed; None takes all that have enough events.
        least: Events of an item in the whole data set for it to be in the catalogue.

    Raises:
        UsageError: If the data have no times, or nobody is left.
    """
    if dataset.times != "utc":
        raise UsageError(
            f"{dataset.name}: expected events with times, got {dataset.times}; slices of time need a data set such as "
            "taobao"
        )
    events, catalogue = _kept_items(dataset, least)
    ends = np.quantile(events["timestamp"].to_numpy(), np.arange(1, count + 1) / (count + 1))
    bounds = [int(end) + 1 for end in ends]
    users = _kept_people(plan, dataset, events[events["timestamp"] < bounds[0]], people)
    events = events[events["user"].isin(set(users["user"]))]
    catalogue = replace_content(catalogue, plan.model.content_width)
    dealt = partition(events, users, catalogue, plan.partition, ReproducibleSource(plan.seed).child("slices").number())
    last = int(events["timestamp"].max()) + 1
    return tuple(
        _slice(plan, dataset, empty_world(dataset, catalogue), events, users, dealt, number, bounds, last)
        for number in range(1, count + 1)
    )


def _kept_items(dataset: Dataset, least: int) -> tuple[pd.DataFrame, Catalogue]:
    counts = dataset.events["item"].value_counts()
    kept = set(counts[counts >= least].index)
    rows = [row for row, item in enumerate(dataset.catalogue.items) if item in kept]
    if len(rows) < LEAST_EVENTS:
        raise UsageError(f"expected items with at least {least} events, got {len(rows)}; lower --least-events")
    whole = dataset.catalogue
    catalogue = replace(
        whole,
        items=tuple(whole.items[row] for row in rows),
        titles=tuple(whole.titles[row] for row in rows),
        category_matrix=whole.category_matrix[rows],
        texts=tuple(whole.texts[row] for row in rows),
        content=whole.content[rows],
    )
    return dataset.events[dataset.events["item"].isin(kept)], catalogue


def _kept_people(plan: Plan, dataset: Dataset, early: pd.DataFrame, people: int | None) -> pd.DataFrame:
    counts = early["user"].value_counts()
    enough = set(counts[counts >= LEAST_EVENTS].index)
    users = dataset.users[dataset.users["user"].isin(enough)]
    if people is not None and people < len(users):
        generator = ReproducibleSource(plan.seed).child("slices", "people").torch_generator()
        rows = torch.randperm(len(users), generator=generator)[:people].sort().values.numpy()
        users = users.iloc[rows]
    if len(users) < plan.partition.partners:
        raise UsageError(
            f"expected people with {LEAST_EVENTS} events in the first slice for {plan.partition.partners} partners, "
            f"got {len(users)}; lower --least-events, or take fewer slices"
        )
    return users.reset_index(drop=True)


def _slice(
    plan: Plan,
    dataset: Dataset,
    shell: World,
    events: pd.DataFrame,
    users: pd.DataFrame,
    dealt: Mapping[str, tuple[str, ...]],
    number: int,
    bounds: list[int],
    last: int,
) -> Slice:
    until, after = bounds[number - 1], bounds[number] if number < len(bounds) else last
    known = events[events["timestamp"] < until]
    coming = events[(events["timestamp"] >= until) & (events["timestamp"] < after)]
    new = _first_new(known, coming)
    partners, asked = [], []
    for name, own in dealt.items():
        rows = users[users["user"].isin(set(own))]
        partners.append(_data(plan, dataset, shell.catalogue, known, rows, name))
        answered = rows[rows["user"].isin(set(new.index))]
        if len(answered):
            data = _data(plan, dataset, shell.catalogue, known, answered, name)
            targets = torch.tensor([shell.catalogue.index[item] for item in new.loc[list(data.users)]])
            asked.append(replace(data, targets=targets, asked=torch.arange(len(data))))
    if not asked:
        raise UsageError(f"expected people with something new after slice {number}, got none; take fewer slices")
    return Slice(number, until, replace(shell, partners=tuple(partners), events=len(known)), tuple(asked))


def _first_new(known: pd.DataFrame, coming: pd.DataFrame) -> pd.Series:
    """The first item of each person that is not among what was known of that person, by person."""
    before = pd.MultiIndex.from_frame(known[["user", "item"]].drop_duplicates())
    found = coming[~pd.MultiIndex.from_frame(coming[["user", "item"]]).isin(before)]
    return found.sort_values("timestamp", kind="stable").groupby("user")["item"].first()


def _data(
    plan: Plan, dataset: Dataset, catalogue: Catalogue, events: pd.DataFrame, rows: pd.DataFrame, name: str
) -> PartnerData:
    known = packed(plan, dataset, catalogue, events, rows)
    nobody = torch.zeros(0, dtype=torch.int64)
    return PartnerData(name, tuple(rows["user"]), known, targets=nobody, asked=nobody, edges=nobody.view(0, 2))
