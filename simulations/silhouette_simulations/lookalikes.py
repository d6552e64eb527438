"""How well lookalikes find the rest of a declared class from some of its people, on public data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from silhouette_client.profiles.build import build_profiles
from silhouette_client.profiles.details import Words, records_of
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.segments.lookalike import SCORINGS, described, lift, likeness
from silhouette_client.segments.people import table_of
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_simulations.models import load_encoder
from silhouette_simulations.world import World


@dataclass(frozen=True)
class ClassLift:
    """The lift of one class by one scoring, over draws of seeds."""

    attribute: str
    value: str
    people: int  # of the class
    scoring: str
    lift: float  # mean over the draws
    error: float  # standard error of the mean
    largest: float  # what a perfect score would have


def class_lifts(
    plan: Plan,
    world: World,
    parameters: Tensor,
    device: torch.device,
    *,
    seeds: int = 100,
    draws: int = 20,
    share: float = 0.1,
    seed: int = 0,
) -> list[ClassLift]:
    """Draw seeds from every class of every declared attribute, rank the others by likeness, count who is of the class.

    Everybody of all partners is in one table, as one partner's people would be. Of each person all but the held-out
    events is known. Classes with fewer than twice the seeds are left out.

    Args:
        plan: Of the run; its model must not read declared attributes.
        world: The same people.
        parameters: Of the model.
        device: To build profiles on.
        seeds: People drawn from the class.
        draws: How often.
        share: Of the other people that counts as first.
        seed: Of the draws.

    Raises:
        UsageError: If the model reads attributes, or nobody declared any.
    """
    if "demographics" in plan.model.dimensions:
        raise UsageError(
            "expected a model that does not read declared attributes, got one with the dimension demographics: the "
            "lift would say what it was told; leave it out of model.dimensions"
        )
    table = table_of(_records(plan, world, parameters, device), now=0)
    people = described(table)
    row_of = {person: row for row, person in enumerate(table.people)}
    found = []
    for attribute, classes in world.attribute_classes.items():
        declared = dict(_declared(world, attribute))
        for number, value in enumerate(classes, start=1):
            members = np.array(
                sorted(row_of[person] for person, known in declared.items() if known == number), np.int64
            )
            if len(members) < 2 * seeds:
                continue
            chosen = [
                np.random.default_rng([seed, draw]).choice(members, seeds, replace=False) for draw in range(draws)
            ]
            for scoring in SCORINGS:
                values = []
                for drawn in chosen:
                    others = np.setdiff1d(np.arange(len(table)), drawn)
                    scores = likeness(people, drawn.tolist(), scoring)
                    values.append(lift(scores, np.setdiff1d(members, drawn), others, share).value)
                rate = (len(members) - seeds) / (len(table) - seeds)
                found.append(
                    ClassLift(
                        attribute,
                        value,
                        len(members),
                        scoring,
                        float(np.mean(values)),
                        float(np.std(values, ddof=1) / np.sqrt(draws)) if draws > 1 else 0.0,
                        min(1.0, rate / share) / rate,
                    )
                )
    if not found:
        raise UsageError(f"expected a declared class of at least {2 * seeds} people, found none; ask for fewer seeds")
    return found


def _records(
    plan: Plan, world: World, parameters: Tensor, device: torch.device
) -> Iterator[tuple[bytes, ProfileRecord]]:
    encoder = load_encoder(plan, world.vocabulary, parameters, device)
    catalogue = world.catalogue
    words = Words(catalogue.items, catalogue.titles, catalogue.categories, dict(world.attribute_classes))
    for partner in world.partners:
        known = partner.known.to(device)
        for batch in build_profiles(encoder, known):
            records = records_of(encoder, known, batch, words, "run")
            for row, record in zip(batch.people.tolist(), records, strict=True):
                yield f"{partner.name} {partner.users[row]}".encode(), record


def _declared(world: World, attribute: str) -> Iterator[tuple[bytes, int]]:
    column = list(world.attribute_classes).index(attribute)
    for partner in world.partners:
        values = partner.known.attributes[:, column].tolist()
        for user, value in zip(partner.users, values, strict=True):
            yield f"{partner.name} {user}".encode(), value
