"""What a simulation knows and no party of a deployment does: all partners' people and the held-out events."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silhouette_client.ingest.packing import pack
from silhouette_server.content import content_vectors
from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.partitioning import partition

LEFT_OUT = {"test": 1, "validation": 2}
"""How many of a person's last events are held out, by what is asked for."""


@dataclass(frozen=True)
class PartnerData:
    """One partner's people, split into what is trained on and the one event that is asked for."""

    name: str
    users: tuple[str, ...]
    known: Histories  # everything before the target; trained on, and the history that is ranked from
    targets: Tensor  # (U,) item numbers

    def __len__(self) -> int:
        return len(self.users)


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

    @property
    def people(self) -> int:
        """People of all partners."""
        return sum(len(partner) for partner in self.partners)

    def pooled(self) -> PartnerData:
        """All people as if one partner held them, in the order of the partners."""
        return PartnerData(
            name="pooled",
            users=tuple(user for partner in self.partners for user in partner.users),
            known=concatenate([partner.known for partner in self.partners]),
            targets=torch.cat([partner.targets for partner in self.partners]),
        )


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


def build_world(plan: Plan, dataset: Dataset) -> World:
    """Deal a data set to the partners of a plan and hold out the target events.

    Raises:
        UsageError: If a person has too few events to hold one out, or the plan asks for what the data do not have.
    """
    catalogue = replace_content(dataset.catalogue, plan.model.content_width)
    left_out = LEFT_OUT[plan.evaluation.target]
    seed = ReproducibleSource(plan.seed).child("partition").number()
    dealt = partition(dataset.events, dataset.users, catalogue, plan.partition, seed)
    partners = []
    for name, users in dealt.items():
        rows = dataset.users[dataset.users["user"].isin(set(users))]
        full = pack(
            dataset.events,
            rows,
            items=catalogue.index,
            attributes=dataset.attributes,
            has_times=dataset.times == "utc",
            text_width=plan.model.text_width,
        )
        if int(full.lengths.min()) <= left_out:
            raise UsageError(
                f"{dataset.name}: expected more than {left_out} events of every person, to hold "
                f"out the {plan.evaluation.target} event; some have fewer"
            )
        partners.append(
            PartnerData(
                name=name,
                users=tuple(rows["user"]),
                known=full.without_last(left_out),
                targets=full.items[full.offsets[1:] - left_out],
            )
        )
    return World(
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        catalogue=catalogue,
        vocabulary=Vocabulary(
            categories=with_padding(catalogue.category_matrix),
            content=with_padding(catalogue.content),
            attributes=tuple((name, len(classes)) for name, classes in dataset.attributes.items()),
        ),
        attribute_classes=dict(dataset.attributes),
        partners=tuple(partners),
        events=len(dataset.events),
    )


def replace_content(catalogue: Catalogue, width: int) -> Catalogue:
    """The catalogue with content vectors from its texts, unless it brings its own."""
    if catalogue.content.shape[1]:
        return catalogue
    return replace(catalogue, content=content_vectors(catalogue.texts, width))


def with_padding(matrix: NDArray[np.float32]) -> Tensor:
    """A row for each item, behind a row of zeros for the padding."""
    return torch.from_numpy(np.concatenate([np.zeros_like(matrix[:1]), matrix]))
