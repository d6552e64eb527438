"""A node's promoted model with the words of its catalogue, and records made by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.offers.run_folder import read_run
from silhouette_client.profiles.build import ProfileBatch, build_profiles
from silhouette_client.profiles.record import ProfileRecord, Recommended, Trait
from silhouette_client.promoted import held_model
from silhouette_shared.cards.content import unpack_model
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.prior import PriorShape
from silhouette_shared.model.vector import Layout, write_vector

RECOMMENDED = 50
"""Items kept for a person; a request may leave some of them out."""

_NAME_DIGITS = 16


@dataclass(frozen=True)
class LiveModel:
    """An encoder and what its numbers mean.

    Args:
        name: Of the model, as profiles carry it.
        encoder: Trained.
        items: Ids of the catalogue in its order; the first has number 1.
        titles: One an item.
        categories: Names, one a column of the encoder's categories.
        attributes: Classes of each declared attribute, in the encoder's order.
    """

    name: str
    encoder: ProfileEncoder
    items: tuple[str, ...]
    titles: tuple[str, ...]
    categories: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]

    @property
    def numbers(self) -> dict[str, int]:
        """Number of each item, from 1."""
        return {item: number for number, item in enumerate(self.items, start=1)}

    def records(self, histories: Histories) -> Iterator[ProfileRecord]:
        """The record of every person of the histories, in their order."""
        for batch in build_profiles(self.encoder, histories, cutoff=RECOMMENDED):
            for place in range(len(batch.people)):
                yield self._record(batch, place)

    def _record(self, batch: ProfileBatch, place: int) -> ProfileRecord:
        traits = {}
        for (name, classes), chances in zip(self.attributes.items(), batch.attributes, strict=True):
            confidence, guess = chances[place].max(0)
            traits[name] = Trait(classes[int(guess)], float(confidence))
        numbers = batch.recommended[place].tolist()
        scores = batch.scores[place][batch.recommended[place]].tolist()
        return ProfileRecord(
            model=self.name,
            vector=batch.vectors[place].numpy().copy(),
            weights=dict(zip(self.encoder.dimension_names, batch.weights[place].tolist(), strict=True)),
            traits=traits,
            tags=tuple(self.categories[tag] for tag in batch.tags[place].tolist() if tag >= 0),
            recommendations=tuple(
                Recommended(self.items[number - 1], self.titles[number - 1], score)
                for number, score in zip(numbers, scores, strict=True)
                if number > 0
            ),
        )


def open_live_model(home: Path) -> LiveModel | None:
    """The promoted model that a node holds, ready to run; None if it holds none.

    Raises:
        UsageError: If the run that the model comes from was not agreed to here, so that its catalogue is not known.
        IntegrityError: If model or catalogue are damaged or do not fit together.
    """
    node = NodeHome.of(home)
    held = held_model(node) if node.installed else None
    if held is None:
        return None
    folder = node.runs / held.card.run
    if not folder.exists():
        raise UsageError(
            f"{folder}: expected the run that the promoted model comes from, found none; take part in a run, or take a "
            "model of one that this node took part in"
        )
    run = read_run(folder, torch.device("cpu"))
    plan, vocabulary = run.agreement.plan, run.agreement.vocabulary
    encoder = ProfileEncoder(plan.model, replace(vocabulary, prior=None), plan.data.history_length)
    layout = Layout.of(encoder)
    if layout.digest != held.card.layout:
        raise IntegrityError(f"{folder}: expected the plan of the promoted model, got another; take the model again")
    parameters = unpack_model(held.model, layout)
    if len(parameters) > layout.size:
        encoder = ProfileEncoder(
            plan.model, replace(vocabulary, prior=PriorShape.of(plan.statistics)), plan.data.history_length
        )
        encoder.set_prior(parameters[layout.size :])
    write_vector(encoder, layout, parameters[: layout.size])
    words = json.loads((folder / "catalogue.json").read_text(encoding="ascii"))
    return LiveModel(
        name=held.card.model[:_NAME_DIGITS],
        encoder=encoder.eval(),
        items=tuple(run.items),
        titles=tuple(map(str, words["titles"])),
        categories=tuple(map(str, words["categories"])),
        attributes=run.attributes,
    )
