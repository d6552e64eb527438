"""One person's own rows among a node's records: for the person to read, and to know when they began."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from silhouette_client.ingest.absorb import absorb_if_free, with_waiting
from silhouette_client.ingest.mapping import TIME_COLUMNS
from silhouette_client.ingest.pushed import Journal, Pushed
from silhouette_client.ingest.records import IDENTITY, Records, reading

TABLES = ("events", "users", "edges", "tags", "consent")


def rows_of(home: Path, user: str) -> dict[str, list[dict[str, Any]]]:
    """Every row about a person, by table, in the order in which they came; tables without one are left out.

    `recommended` is no table: what the service recommended to them lately, and by which model.

    Raises:
        IntegrityError: If the records are damaged.
    """
    waiting = absorb_if_free(home)
    found = reading(home, lambda records: _rows(records, user, waiting))
    if (journal := Journal.open_if_there(home)) is not None:
        with journal:
            shown = [{"model": one.model, "time": one.time, "items": list(one.items)} for one in journal.shown(user)]
        if shown:
            found["recommended"] = shown
    return found


def _rows(records: Records, user: str, waiting: Sequence[Pushed]) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for name in TABLES:
        table = records.table(name)
        if name == "events":
            table = with_waiting(records, table, waiting)
        if table is None:
            continue
        keep = pa.array([False] * table.num_rows, pa.bool_())
        for column in ("user", "other"):
            if column in table.column_names:
                own = pc.equal(table.column(column).cast(pa.string()).combine_chunks(), user)
                keep = pc.or_(keep, pc.fill_null(own, fill_value=False))
        rows = table.filter(keep).select([name for name in table.column_names if name != IDENTITY]).to_pylist()
        if rows:
            found[name] = rows
    return found


def first_day(rows: dict[str, list[dict[str, Any]]]) -> date | None:
    """The day of the earliest event among a person's rows, UTC; None without events that have times."""
    column = next(iter(TIME_COLUMNS))
    times = [row[column] for row in rows.get("events", ()) if row.get(column)]
    return datetime.fromtimestamp(min(times), UTC).date() if times else None
