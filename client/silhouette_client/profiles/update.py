"""New events of people whose histories are already there: a profile follows at once, and nothing is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_client.profiles.build import ProfileBatch, build_profiles
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.schema import BEHAVIOURS

_ONE_DAY_SECONDS = 86_400
"""Clocks differ; a time this far ahead is still taken."""


@dataclass(frozen=True)
class NewEvents:
    """Events to add, in the order they happened."""

    people: Tensor  # (N,) row numbers
    items: Tensor  # (N,) numbers of the catalogue, from 1
    behaviours: Tensor  # (N,) from 1, 0 unknown
    values: Tensor  # (N,) buckets, 0 unknown
    timestamps: Tensor  # (N,) UTC seconds, or ranks where the histories have no times
    texts: Tensor | None = None  # (N, X)


def with_events(histories: Histories, new: NewEvents, *, items: int, now: int | None = None) -> Histories:
    """The histories with new events in their places: by time, and after those of the same time.

    Args:
        histories: Stay as they are.
        new: What happened since.
        items: Number of items of the catalogue, V.
        now: UTC seconds; with it, a time more than a day ahead is refused.

    Raises:
        UsageError: If an item is not in the catalogue, a behaviour or a person is unknown, or a time lies in the
            future. Nothing was changed.
    """
    _check(histories, new, items, now)
    owner = torch.repeat_interleave(torch.arange(len(histories), device=histories.items.device), histories.lengths)
    owner = torch.cat([owner, new.people])
    times = torch.cat([histories.timestamps, new.timestamps])
    by_time = times.argsort(stable=True)
    order = by_time[owner[by_time].argsort(stable=True)]
    counts = torch.bincount(owner, minlength=len(histories))
    return Histories(
        items=torch.cat([histories.items, new.items])[order],
        behaviours=torch.cat([histories.behaviours, new.behaviours])[order],
        values=torch.cat([histories.values, new.values])[order],
        timestamps=times[order],
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        attributes=histories.attributes,
        has_times=histories.has_times,
        texts=_texts(histories, new, order),
    )


def update_profile(
    encoder: ProfileEncoder, histories: Histories, person: int, new: NewEvents, *, now: int | None = None
) -> tuple[Histories, ProfileBatch]:
    """One person's profile with new events; one pass over that person's window, whatever the number of people.

    Returns:
        The histories with the events, and the profile, whose `people` is the person.

    Raises:
        UsageError: As `with_events`, or if an event is somebody else's.
    """
    if (new.people != person).any():
        raise UsageError("expected new events of the one person whose profile is asked for, got somebody else's")
    items = len(encoder.get_buffer("content")) - 1
    after = with_events(histories, new, items=items, now=now)
    own = torch.tensor([person], device=histories.items.device)
    (profile,) = build_profiles(encoder, after.of_people(own))
    return after, ProfileBatch(**{**vars(profile), "people": own})


def _texts(histories: Histories, new: NewEvents, order: Tensor) -> Tensor | None:
    if histories.texts is None:
        return None
    written = histories.texts.new_zeros((len(new.items), histories.texts.shape[1])) if new.texts is None else new.texts
    return torch.cat([histories.texts, written])[order]


def _check(histories: Histories, new: NewEvents, items: int, now: int | None) -> None:
    def outside(values: Tensor, low: int, high: int) -> int:
        return int(((values < low) | (values > high)).sum())

    if wrong := outside(new.people, 0, len(histories) - 1):
        raise UsageError(
            f"expected people from 0 to {len(histories) - 1}, got {wrong} events of others; add them first"
        )
    if wrong := outside(new.items, 1, items):
        raise UsageError(
            f"expected items of the catalogue, numbered 1 to {items}, got {wrong} events of others; "
            "wait for a catalogue that has them, or leave the events out"
        )
    if wrong := outside(new.behaviours, 0, len(BEHAVIOURS)):
        raise UsageError(f"expected behaviours out of {', '.join(BEHAVIOURS)}, got {wrong} events with another")
    if now is not None and histories.has_times and (wrong := int((new.timestamps > now + _ONE_DAY_SECONDS).sum())):
        raise UsageError(
            f"expected times up to now, got {wrong} events more than a day ahead; check clock and unit (seconds)"
        )
