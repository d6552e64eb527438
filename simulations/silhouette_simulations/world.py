"""What a simulation knows and no party of a deployment does: all partners' people and the held-out events."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from silhouette_client.ingest.packing import pack
from silhouette_server.content import content_vectors
from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.wire.offers import PublicCatalogue
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.partitioning import partition
from silhouette_simulations.splitting import Split, hold_out


@dataclass(frozen=True)
class PartnerData:
    """One partner's people, split into what is trained on and what is asked for."""

    name: str
    users: tuple[str, ...]
    known: Histories  # trained on, and the history that is ranked from
    targets: Tensor  # (N,) item numbers
    asked: Tensor  # (N,) row of the person of each target, ascending; some people may have none
    edges: Tensor  # (E, 2) rows of people who are connected, each pair in both directions; never leaves the partner

    def __len__(self) -> int:
        return len(self.users)

    def of_people(self, rows: Tensor, name: str) -> "PartnerData":
        """Some of the people, in the order of the row numbers (U',), with the edges among them."""
        place = torch.full((len(self),), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        moved = place[self.asked]
        order = moved[moved >= 0].argsort(stable=True)
        ends = place[self.edges]
        return PartnerData(
            name=name,
            users=tuple(self.users[row] for row in rows.tolist()),
            known=self.known.of_people(rows),
            targets=self.targets[moved >= 0][order],
            asked=moved[moved >= 0][order],
            edges=ends[(ends >= 0).all(1)],
        )


@dataclass(frozen=True)
class World:
    """The partners of a plan, and what all of them share."""

    dataset: str
    dataset_digest: str
    catalogue: Catalogue
    vocabulary: Vocabulary
    attribute_classes: dict[str, tuple[str, ...]]
    partners: tuple[PartnerData, ...]
    events: int
    edges: int = 0  # connections between people of the data set, each counted once

    @property
    def people(self) -> int:
        """People of all partners."""
        return sum(len(partner) for partner in self.partners)

    def pooled(self) -> PartnerData:
        """All people as if one partner held them, in the order of the partners."""
        before = np.cumsum([0] + [len(partner) for partner in self.partners]).tolist()
        return PartnerData(
            name="pooled",
            users=tuple(user for partner in self.partners for user in partner.users),
            known=concatenate([partner.known for partner in self.partners]),
            targets=torch.cat([partner.targets for partner in self.partners]),
            asked=torch.cat([p.asked + start for p, start in zip(self.partners, before[:-1], strict=True)]),
            edges=torch.cat([p.edges + start for p, start in zip(self.partners, before[:-1], strict=True)]),
        )

    @property
    def edges_cut(self) -> int:
        """Connections between people of different partners, which no partner knows of."""
        return self.edges - sum(len(partner.edges) for partner in self.partners) // 2


def concatenate(parts: list[Histories]) -> Histories:
    """The people of several histories one after the other."""
    starts = np.cumsum([0] + [len(part.items) for part in parts]).tolist()
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts[:-1], strict=True)]
    texts = [part.texts for part in parts if part.texts is not None]
    return Histories(
        items=torch.cat([part.items for part in parts]),
        behaviours=torch.cat([part.behaviours for part in parts]),
        values=torch.cat([part.values for part in parts]),
        timestamps=torch.cat([part.timestamps for part in parts]),
        offsets=torch.cat([*offsets, torch.tensor([starts[-1]])]),
        attributes=torch.cat([part.attributes for part in parts]),
        has_times=all(part.has_times for part in parts),
        texts=torch.cat(texts) if len(texts) == len(parts) else None,
    )


def split_of(plan: Plan, dataset: Dataset) -> tuple[pd.DataFrame, Split]:
    """The events that a plan reads, and how it splits them.

    Raises:
        UsageError: If there are none, or none can be held out.
    """
    events = dataset.events
    if plan.data.behaviours:
        events = events[events["behaviour"].isin(plan.data.behaviours)]
        if not len(events):
            raise UsageError(
                f"{dataset.name}: expected events of the behaviours {', '.join(plan.data.behaviours)}, got none; "
                "change data.behaviours"
            )
    split = hold_out(dataset, events, plan.evaluation, ReproducibleSource(plan.seed).child("hold out").number())
    if not len(split.held_out):
        raise UsageError(f"{dataset.name}: expected events to hold out, got none; change evaluation.split or its share")
    return events, split


def build_world(plan: Plan, dataset: Dataset) -> World:
    """Deal a data set to the partners of a plan and hold out the target events.

    Raises:
        UsageError: If a person has too few events to hold one out, or the plan asks for what the data do not have.
    """
    catalogue = replace_content(dataset.catalogue, plan.model.content_width)
    events, split = split_of(plan, dataset)
    people = dataset.users[dataset.users["user"].isin(set(split.known["user"]))]
    edges = _edges(dataset.edges, people)
    seed = ReproducibleSource(plan.seed).child("partition").number()
    dealt = partition(events, people, catalogue, plan.partition, seed)
    partners = []
    for name, users in dealt.items():
        rows = people[people["user"].isin(set(users))]
        targets, asked = _targets(split.held_out, rows, catalogue)
        partners.append(
            PartnerData(
                name=name,
                users=tuple(rows["user"]),
                known=packed(plan, dataset, catalogue, split.known, rows),
                targets=targets,
                asked=asked,
                edges=_inside(edges, rows),
            )
        )
    return replace(empty_world(dataset, catalogue), partners=tuple(partners), events=len(events), edges=len(edges))


def empty_world(dataset: Dataset, catalogue: Catalogue) -> World:
    """A world of nobody yet, of a data set's items in this catalogue."""
    return World(
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        catalogue=catalogue,
        vocabulary=PublicCatalogue(catalogue, dataset.attributes).vocabulary(),
        attribute_classes=dict(dataset.attributes),
        partners=(),
        events=0,
    )


def packed(plan: Plan, dataset: Dataset, catalogue: Catalogue, events: pd.DataFrame, people: pd.DataFrame) -> Histories:
    """Some people's histories as a plan reads them, in the order of the rows of `people`."""
    return pack(
        events,
        people,
        items=catalogue.index,
        attributes=dataset.attributes,
        has_times=dataset.times == "utc",
        text_width=plan.model.text_width,
    )


def _targets(held_out: pd.DataFrame, users: pd.DataFrame, catalogue: Catalogue) -> tuple[Tensor, Tensor]:
    """Items asked for and whose they are, in the order of the people."""
    rows = pd.Index(users["user"]).get_indexer(pd.Index(held_out["user"]))
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] >= 0]
    items = held_out["item"].iloc[order].map(catalogue.index).to_numpy(dtype=np.int64, copy=True)
    return torch.from_numpy(items), torch.from_numpy(rows[order].astype(np.int64))


def _edges(edges: pd.DataFrame | None, users: pd.DataFrame) -> pd.DataFrame:
    """Every connection between two different people once, columns user and other."""
    if edges is None:
        return pd.DataFrame({"user": [], "other": []}, dtype=object)
    known = set(users["user"])
    both = edges[edges["user"].isin(known) & edges["other"].isin(known) & (edges["user"] != edges["other"])]
    pairs = np.sort(both[["user", "other"]].to_numpy(dtype=object).astype(str), axis=1)
    return pd.DataFrame(pairs, columns=["user", "other"]).drop_duplicates(ignore_index=True)


def _inside(edges: pd.DataFrame, users: pd.DataFrame) -> Tensor:
    """Connections among some people, both ways, as their rows (E, 2)."""
    index = pd.Index(users["user"])
    rows = np.stack([index.get_indexer(pd.Index(edges[side])) for side in ("user", "other")], axis=1)
    ends = torch.from_numpy(rows[(rows >= 0).all(1)].astype(np.int64)).view(-1, 2)
    return torch.cat([ends, ends.flip(1)])


def replace_content(catalogue: Catalogue, width: int) -> Catalogue:
    """The catalogue with content vectors from its texts, unless it brings its own."""
    if catalogue.content.shape[1]:
        return catalogue
    return replace(catalogue, content=content_vectors(catalogue.texts, width))
