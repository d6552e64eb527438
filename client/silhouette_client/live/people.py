"""Everybody's history in memory while the service runs: what the node held when it started, and what came since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from silhouette_client.ingest.absorb import rows_of
from silhouette_client.ingest.consent import consenting
from silhouette_client.ingest.identity import identities as names_of
from silhouette_client.ingest.pushed import Pushed
from silhouette_client.ingest.reading import read_people
from silhouette_client.ingest.records import Records, reading
from silhouette_client.ingest.take_in import Exclusions
from silhouette_client.profiles.update import NewEvents, with_events
from silhouette_shared.errors import RefusedError
from silhouette_shared.model.histories import UNKNOWN, Histories, value_buckets
from silhouette_shared.schema import BEHAVIOURS

_BEHAVIOURS = {name: number for number, name in enumerate(BEHAVIOURS, start=1)}


class LivePeople:
    """Histories by user. Not safe between threads: the updater has a lock.

    Args:
        users: In the order of `histories`.
        histories: What the node holds of those who may be used.
        identities: Of all events that the node holds, sorted.
        items: Number of each item of the catalogue, from 1.
        decided: Who decided about their consent, and how.
        silence: Whether somebody who decided nothing may be used.
    """

    def __init__(
        self,
        users: Sequence[str],
        histories: Histories,
        identities: NDArray[np.uint64],
        items: Mapping[str, int],
        decided: Mapping[str, bool],
        *,
        silence: bool,
    ) -> None:
        self._rows = {user: row for row, user in enumerate(users)}
        self._histories, self._identities, self._items = histories, identities, items
        self._decided, self._silence = decided, silence
        self._changed: dict[str, Histories] = {}
        self._new: set[int] = set()

    @classmethod
    def load(
        cls,
        home: Path,
        items: Mapping[str, int],
        attributes: Mapping[str, Sequence[str]],
        purpose: str,
        out: Exclusions,
        waiting: Sequence[Pushed] = (),
    ) -> LivePeople:
        """Everybody whose records may be used for a purpose; nobody where the node holds nothing yet.

        Args:
            home: Of the node.
            items: Number of each item of the catalogue, from 1.
            attributes: Classes of each declared attribute, in order.
            purpose: As in the consent table.
            out: Who is left out.
            waiting: What was pushed and may not be among the records.

        Raises:
            IntegrityError: If the records are damaged.
            UsageError: If a declared attribute has another class.
        """
        decided, silence, names = reading(home, lambda records: _known(records, purpose))
        if waiting:
            names.append(names_of(rows_of(waiting)))
        identities = np.sort(np.concatenate(names)) if names else np.zeros(0, np.uint64)
        users: tuple[str, ...] = ()
        histories = _nobody(len(attributes))
        if len(identities):
            try:
                found = read_people(home, items, attributes, purpose, exclusions=out, waiting=waiting)
                users, histories = found.users, found.histories
            except RefusedError:  # nobody consented yet
                pass
        return cls(users, histories, identities, items, decided, silence=silence)

    def users(self) -> set[str]:
        """Everybody with a history."""
        return set(self._rows) | set(self._changed)

    def knows(self, identity: int) -> bool:
        """Whether an event of this identity is there already."""
        place = int(np.searchsorted(self._identities, np.uint64(identity)))
        return identity in self._new or (place < len(self._identities) and int(self._identities[place]) == identity)

    def may_use(self, user: str) -> bool:
        """Whether the person's records may be used."""
        return self._decided.get(user, self._silence)

    def in_catalogue(self, item: str) -> bool:
        """Whether the model knows an item."""
        return item in self._items

    def history(self, user: str) -> Histories | None:
        """One person's history; None without one."""
        if (changed := self._changed.get(user)) is not None:
            return changed
        row = self._rows.get(user)
        return None if row is None else self._histories.of_people(torch.tensor([row]))

    def with_new(self, user: str, events: Sequence[Pushed]) -> Histories:
        """One person's history with events of known items; nothing here is changed."""
        before = self.history(user)
        values = torch.tensor([float("nan") if one.value is None else one.value for one in events], dtype=torch.float64)
        new = NewEvents(
            people=torch.zeros(len(events), dtype=torch.int64),
            items=torch.tensor([self._items[one.item] for one in events]),
            behaviours=torch.tensor([_BEHAVIOURS[one.behaviour] for one in events]),
            values=value_buckets(values),
            timestamps=torch.tensor([one.timestamp for one in events]),
        )
        has_times = (before is not None and before.has_times) or bool((new.timestamps != 0).any())
        if before is None:
            return _first(new, self._histories.attributes.shape[1], has_times=has_times)
        return replace(with_events(before, new, items=len(self._items)), has_times=has_times)

    def set(self, user: str, history: Histories) -> None:
        """Take over a person's new history."""
        self._changed[user] = history

    def note(self, identities: Sequence[int]) -> None:
        """These events are there from now on."""
        self._new.update(identities)

    def forget(self, user: str) -> None:
        """Leave nothing of a person in this memory but the identities of rows, which say nothing about them."""
        self._changed.pop(user, None)
        row = self._rows.pop(user, None)
        if row is not None:
            begin, end = self._histories.offsets[row : row + 2].tolist()
            for tensor in (self._histories.items, self._histories.behaviours, self._histories.values):
                tensor[begin:end] = 0
            self._histories.timestamps[begin:end] = 0
            self._histories.attributes[row] = UNKNOWN


def joined(parts: Sequence[Histories]) -> Histories:
    """Histories one after the other, as one."""
    lengths = torch.cat([part.lengths for part in parts])
    return Histories(
        items=torch.cat([part.items for part in parts]),
        behaviours=torch.cat([part.behaviours for part in parts]),
        values=torch.cat([part.values for part in parts]),
        timestamps=torch.cat([part.timestamps for part in parts]),
        offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        attributes=torch.cat([part.attributes for part in parts]),
        has_times=any(part.has_times for part in parts),
    )


def _nobody(attributes: int) -> Histories:
    none = torch.zeros(0, dtype=torch.int64)
    return Histories(
        items=none,
        behaviours=none,
        values=none,
        timestamps=none,
        offsets=torch.zeros(1, dtype=torch.int64),
        attributes=torch.zeros((0, attributes), dtype=torch.int64),
        has_times=False,
    )


def _first(new: NewEvents, attributes: int, *, has_times: bool) -> Histories:
    """The history of somebody who had none, of whom nothing is declared."""
    order = new.timestamps.argsort(stable=True)
    return Histories(
        items=new.items[order],
        behaviours=new.behaviours[order],
        values=new.values[order],
        timestamps=new.timestamps[order],
        offsets=torch.tensor([0, len(order)]),
        attributes=torch.full((1, attributes), UNKNOWN),
        has_times=has_times,
    )


def _known(records: Records, purpose: str) -> tuple[dict[str, bool], bool, list[NDArray[np.uint64]]]:
    """What `_consent` says, and the identities of all events."""
    names = [records.names_of(part) for part in records.manifest.parts_of("events")]
    return *_consent(records, purpose), names


def _consent(records: Records, purpose: str) -> tuple[dict[str, bool], bool]:
    """Who decided about a purpose and how, and what silence means."""
    table, silence = records.table("consent"), records.manifest.consent == "elsewhere"
    if table is None:
        return {}, silence
    present = pc.unique(table.column("user").cast(pa.string())).to_pylist()
    granted = consenting(table, purpose, "table", present)
    refused = set(present) - consenting(table, purpose, "elsewhere", present)
    return dict.fromkeys(granted, True) | dict.fromkeys(refused, False), silence
