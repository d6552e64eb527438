"""What was pushed, put among the node's records, so that training, reports and erasure see it like any other event.

All of it stands in the manifest as one file that grows. Killed anywhere, nothing is lost and nothing is there twice:
a row is known by its identity.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from silhouette_client.ingest.cleaning import repeated
from silhouette_client.ingest.identity import identities
from silhouette_client.ingest.manifest import Part, Taken
from silhouette_client.ingest.pushed import Journal, Pushed
from silhouette_client.ingest.records import IDENTITY, Records, writing
from silhouette_shared.errors import UnavailableError

_LOG = logging.getLogger(__name__)

NAME = "pushed events"
_CONTENT = hashlib.sha256(b"silhouette.pushed.v1").hexdigest()
_PART_ROWS = 1_000_000


def absorb(home: Path, patience: float | None = None) -> int:
    """Put what is waiting in the journal among the records; says how many rows were new.

    Args:
        home: Of the node.
        patience: Seconds to wait for another process that writes the records; None as `writing`.

    Raises:
        UnavailableError: If that one writes for longer; nothing was changed.
        IntegrityError: If journal or records are damaged.
    """
    journal = Journal.open_if_there(home)
    if journal is None:
        return 0
    with journal:
        if not journal.waiting():
            return 0
        with writing(home, patience) as records:
            waiting = journal.waiting()  # again: nobody else settles now
            kept = _add(records, [event for _, event in waiting]) if waiting else 0
            journal.settle([number for number, _ in waiting])
    return kept


def absorb_if_free(home: Path) -> list[Pushed]:
    """The same for a reader; gives what waits on because another process writes, which the reader adds by itself.

    What is given may be among the records by the time they are read: rows are known by their identities.

    Raises:
        UnavailableError: If the journal cannot be used.
        IntegrityError: If journal or records are damaged.
    """
    try:
        absorb(home, patience=0.0)
    except UnavailableError as error:
        _LOG.warning("what was pushed lately waits on: %s", error)
        if (journal := Journal.open_if_there(home)) is not None:
            with journal:
                return [event for _, event in journal.waiting()]
    return []


def with_waiting(records: Records, events: pa.Table | None, waiting: Sequence[Pushed]) -> pa.Table | None:
    """The events of the records, of any of their columns, and after them those waiting that are not among them."""
    if not waiting:
        return events
    table = rows_of(waiting)
    known = [records.names_of(part) for part in records.manifest.parts_of("events")]
    again = repeated(identities(table), np.concatenate(known) if known else np.zeros(0, np.uint64))
    rows = table.filter(pa.array(~again))
    if events is None:
        return rows
    shared = [name for name in events.column_names if name in rows.column_names]
    return pa.concat_tables([events, rows.select(shared)], promote_options="default").unify_dictionaries()


def rows_of(events: Sequence[Pushed]) -> pa.Table:
    """Canonical rows as `cleaning.clean` gives them, so that equal events have equal identities."""

    def words(values: list[str | None]) -> pa.DictionaryArray:
        return pa.array(values, pa.string()).dictionary_encode()

    return pa.table(
        {
            "user": words([one.user for one in events]),
            "item": words([one.item for one in events]),
            "behaviour": words([one.behaviour for one in events]),
            "timestamp": pa.array([one.timestamp for one in events], pa.int64()),
            "value": pa.array([one.value for one in events], pa.float64()),
            "text": words([one.text for one in events]),
        }
    )


def _add(records: Records, events: Sequence[Pushed]) -> int:
    table = rows_of(events)
    names = identities(table)
    times = table.column("timestamp").to_numpy()
    known = [
        records.names_of(part)
        for part in records.manifest.parts_of("events")
        if part.earliest is None or part.latest is None or (part.earliest <= times.max() and part.latest >= times.min())
    ]
    again = repeated(names, np.concatenate(known) if known else np.zeros(0, np.uint64))
    before = next((one for one in records.manifest.files if one.name == NAME and one.content == _CONTENT), None)
    taken = before or Taken(
        name=NAME,
        content=_CONTENT,
        table="events",
        rule=_CONTENT,
        rows=0,
        kept=0,
        repeated=0,
        ignored=0,
        blocked=0,
        late=0,
        unordered=0,
        bad={},
        columns={},
        parts=(),
        quarantine=None,
    )
    kept = int(np.count_nonzero(~again))
    parts = taken.parts
    if kept:
        parts = _grown(records, parts, table.filter(pa.array(~again)), names[~again])
    grown = replace(
        taken,
        rows=taken.rows + len(events),
        kept=taken.kept + kept,
        repeated=taken.repeated + len(events) - kept,
        parts=parts,
    )
    records.commit(records.manifest.plus(grown))
    return kept


def _grown(records: Records, parts: tuple[Part, ...], table: pa.Table, names: np.ndarray) -> tuple[Part, ...]:
    """The parts with new rows; a small last part is written again together with them."""
    last = records.read(parts[-1:]) if parts and parts[-1].rows + len(names) <= _PART_ROWS else None
    if last is not None:
        names = np.concatenate([np.asarray(last.column(IDENTITY).to_numpy(), np.uint64), names])
        table = pa.concat_tables([last.drop_columns([IDENTITY]), table], promote_options="default").unify_dictionaries()
        parts = parts[:-1]
    return (*parts, records.add_part(table.combine_chunks(), names))
