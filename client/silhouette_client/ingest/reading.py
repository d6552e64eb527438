"""What a node holds, as histories for an agent.

Consent is applied here, before anything else sees a row: the latest decision of a person about a purpose counts, and of
two in the same second the refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from silhouette_client.ingest.absorb import absorb_if_free, with_waiting
from silhouette_client.ingest.consent import consenting
from silhouette_client.ingest.packing import pack
from silhouette_client.ingest.pushed import Pushed
from silhouette_client.ingest.records import Records, reading
from silhouette_client.ingest.take_in import Exclusions, Nobody
from silhouette_shared.errors import RefusedError, UsageError
from silhouette_shared.model.histories import Histories

_EVENT_COLUMNS = ("user", "item", "behaviour", "timestamp", "value")


@dataclass(frozen=True)
class People:
    """Histories with the id of each row, and what was kept aside.

    Attributes:
        users: Id of each person, in the order of the histories.
        histories: What an agent works with.
        without_consent: People whose records are there but not for this purpose.
        excluded: People who were erased or suppressed.
        unknown_items: Events of items that the catalogue lacks; they stay in the records.
        only_unknown_items: People who have no other events.
    """

    users: tuple[str, ...]
    histories: Histories
    without_consent: int
    excluded: int
    unknown_items: int
    only_unknown_items: int


def people(
    home: Path,
    items: Mapping[str, int],
    attributes: Mapping[str, Sequence[str]],
    purpose: str = "training",
    *,
    exclusions: Exclusions | None = None,
) -> Histories:
    """The histories of everybody whose records may be used for a purpose; see `read_people`."""
    return read_people(home, items, attributes, purpose, exclusions=exclusions).histories


def read_people(
    home: Path,
    items: Mapping[str, int],
    attributes: Mapping[str, Sequence[str]],
    purpose: str = "training",
    *,
    exclusions: Exclusions | None = None,
    waiting: Sequence[Pushed] | None = None,
) -> People:
    """The histories of everybody whose records may be used for a purpose, in the order of ids.

    Events are ordered by time, and those of the same second in the order in which they came.

    Args:
        home: Of the node.
        items: Number of each item of the public catalogue, from 1.
        attributes: Classes of each declared attribute, in order; one that the node does not hold is unknown.
        purpose: As in the consent table.
        exclusions: Who is left out whatever they consented to.
        waiting: What applications pushed and is not among the records; None to put it there first.

    Raises:
        UsageError: If there are no events, or an attribute has another class.
        RefusedError: If nobody may be used for the purpose.
        IntegrityError: If the records are damaged.
    """
    left = absorb_if_free(home) if waiting is None else waiting
    return reading(home, lambda records: _read(records, left, items, attributes, purpose, exclusions or Nobody()))


def _read(
    records: Records,
    waiting: Sequence[Pushed],
    items: Mapping[str, int],
    attributes: Mapping[str, Sequence[str]],
    purpose: str,
    exclusions: Exclusions,
) -> People:
    events = with_waiting(records, records.table("events", _EVENT_COLUMNS), waiting)
    if events is None or not events.num_rows:
        raise UsageError("expected people's events, found none; `silhouette node ingest` takes them in")
    users = events.column("user").combine_chunks()
    present = pc.unique(users).dictionary.to_pylist() if isinstance(users, pa.DictionaryArray) else []
    excluded = set(exclusions.among(present))
    allowed = consenting(records.table("consent"), purpose, records.manifest.consent, present)
    usable = sorted(allowed - excluded)
    if not usable:
        raise RefusedError(
            f"expected people who consented to {purpose}, found none of {len(present)}; take in a consent table, or "
            'say `consent = "elsewhere"` in the mapping if consent is kept elsewhere'
        )
    permitted = events.filter(
        pc.is_in(events.column("user").cast(pa.string()), value_set=pa.array(usable, pa.string()))
    )
    in_catalogue = pc.is_in(permitted.column("item").cast(pa.string()), value_set=pa.array(list(items), pa.string()))
    known = permitted.filter(in_catalogue)
    with_events = set(pc.unique(known.column("user").cast(pa.string())).to_pylist())
    rows = [user for user in usable if user in with_events]
    frame = _frame(known)
    histories = pack(
        frame,
        _declared(records, rows, attributes),
        items=items,
        attributes=attributes,
        has_times=bool((frame["timestamp"] != 0).any()),
    )
    return People(
        users=tuple(rows),
        histories=histories,
        without_consent=len(set(present) - allowed),
        excluded=len(excluded),
        unknown_items=permitted.num_rows - known.num_rows,
        only_unknown_items=len(usable) - len(rows),
    )


def _frame(events: pa.Table) -> pd.DataFrame:
    """Events as pandas has them, text as categories: mapping a column then costs one step for each distinct word."""
    frame = pd.DataFrame(events.unify_dictionaries().combine_chunks().to_pandas())
    for name in ("user", "item", "behaviour"):
        frame[name] = frame[name].cat.remove_unused_categories()
    return frame


def _declared(records: Records, rows: Sequence[str], attributes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A row for each person with the declared attributes; the latest one taken in counts, what is unknown is None."""
    result = pd.DataFrame({"user": list(rows)})
    table = records.table("users", ["user", *attributes])
    given = pd.DataFrame({"user": pd.Series([], dtype=object)})
    if table is not None:
        given = pd.DataFrame({name: table.column(name).to_pylist() for name in table.column_names}).astype(object)
        given = given.drop_duplicates("user", keep="last")
    given = given.set_index("user").reindex(result["user"])
    for name in attributes:
        result[name] = given[name].to_numpy() if name in given else None
    return result


def _only(events: pa.Table, column: str, words: Sequence[str]) -> pa.Table:
    """The rows whose word in a column is one of these."""
    return events.filter(pc.is_in(events.column(column).cast(pa.string()), value_set=pa.array(words, pa.string())))
