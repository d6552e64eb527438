"""What a node holds, in counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silhouette_client.ingest.cleaning import sessions
from silhouette_client.ingest.consent import consenting
from silhouette_client.ingest.manifest import reasons
from silhouette_client.ingest.records import Records, reading

SESSION_GAP_SECONDS = 1800
"""Longest pause inside a session: half an hour, as in web analytics."""


def counts(home: Path) -> dict[str, object]:
    """How much a node holds: rows by table, people and items with events, rows in the quarantine.

    Raises:
        IntegrityError: If the records are damaged.
    """
    return reading(home, _counts)


def _counts(records: Records) -> dict[str, object]:
    manifest = records.manifest
    events = records.table("events", ("user", "item"))
    some = events is not None and events.num_rows > 0
    return {
        "people": len(np.unique(_numbers(events, "user"))) if some else 0,
        "items": len(np.unique(_numbers(events, "item"))) if some else 0,
        "tables": {
            name: sum(one.kept for one in manifest.of(name)) for name in ("events", "users", "edges", "tags", "consent")
        },
        "quarantine": sum(sum(one.bad.values()) for one in manifest.files),
    }


def describe(home: Path) -> dict[str, object]:
    """What a node holds, in counts only.

    Raises:
        IntegrityError: If the records are damaged.
    """
    return reading(home, _description)


def _description(records: Records) -> dict[str, object]:
    manifest = records.manifest
    described: dict[str, object] = {
        "files": len(manifest.files),
        "consent": manifest.consent,
        "tables": {
            name: sum(one.kept for one in manifest.of(name)) for name in ("events", "users", "edges", "tags", "consent")
        },
        "quarantine": sum(sum(one.bad.values()) for one in manifest.files),
        "reasons": reasons(manifest.files),
    }
    events = records.table("events", ("user", "item", "behaviour", "timestamp"))
    if events is None or not events.num_rows:
        return described | {"people": 0, "items": 0}
    users = _numbers(events, "user")
    times = events.column("timestamp").to_numpy()
    order = np.lexsort((times, users))
    behaviours = pc.value_counts(events.column("behaviour").cast(pa.string())).to_pylist()
    lengths = np.bincount(users)
    lengths = lengths[lengths > 0]
    present = pc.unique(events.column("user").cast(pa.string())).to_pylist()
    consent = records.table("consent")
    purposes = [] if consent is None else sorted(pc.unique(consent.column("purpose").cast(pa.string())).to_pylist())
    return described | {
        "people": len(lengths),
        "items": len(np.unique(_numbers(events, "item"))),
        "behaviours": {one["values"]: one["counts"] for one in sorted(behaviours, key=lambda one: -one["counts"])},
        "earliest": int(times.min()),
        "latest": int(times.max()),
        "events_a_person": {
            "least": int(lengths.min()),
            "median": float(np.median(lengths)),
            "most": int(lengths.max()),
        },
        "sessions": int(sessions(users[order], times[order], SESSION_GAP_SECONDS)[-1]) + 1,
        "consented": {purpose: len(consenting(consent, purpose, manifest.consent, present)) for purpose in purposes},
    }


def coverage(home: Path, items: Sequence[str]) -> dict[str, object]:
    """How much of the events a catalogue covers, and how much of the catalogue the events.

    Args:
        home: Of the node.
        items: Ids of the catalogue.
    """
    events = reading(home, lambda records: records.table("events", ("item",)))
    if events is None or not events.num_rows:
        return {"catalogue_items": len(items), "items_with_events": 0, "events_outside": 0, "items_outside": 0}
    counts = pc.value_counts(events.column("item").cast(pa.string()))
    known = pc.is_in(counts.field("values"), value_set=pa.array(items, pa.string())).to_numpy(zero_copy_only=False)
    often = counts.field("counts").to_numpy()
    return {
        "catalogue_items": len(items),
        "items_with_events": int(known.sum()),
        "events_outside": int(often[~known].sum()),
        "items_outside": int((~known).sum()),
    }


def _numbers(events: pa.Table, name: str) -> NDArray[np.int64]:
    column = events.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    return np.asarray(column.indices.to_numpy(), dtype=np.int64)
