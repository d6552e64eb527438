"""Taking people out of the records: every part that holds one is written again without them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from silhouette_client.ingest.manifest import Part
from silhouette_client.ingest.pushed import Journal
from silhouette_client.ingest.records import IDENTITY, Records, writing


def remove_people(home: Path, users: Collection[str]) -> dict[str, int]:
    """Remove every row of some people from every table, in one step, and say how many went from each table.

    What they pushed and what was recommended to them goes from the journal first, as `pushed` and `shown`.

    The parts that held them are deleted. Blocks of the disk that a deleted file used are the file system's to clear.
    Their rows come back when a file that holds them is taken in again, unless the ids are excluded there.

    Raises:
        UnavailableError: If another process writes.
        IntegrityError: If the records are damaged.
    """
    removed: dict[str, int] = {}
    with writing(home) as records:
        if (journal := Journal.open_if_there(home)) is not None:
            with journal:
                removed |= {name: count for name, count in journal.remove(users).items() if count}
        files = []
        for one in records.manifest.files:
            parts = [_without(records, part, users) for part in one.parts]
            gone = sum(before.rows for before in one.parts) - sum(part.rows for part in parts)
            removed[one.table] = removed.get(one.table, 0) + gone
            files.append(replace(one, parts=tuple(part for part in parts if part.rows), kept=one.kept - gone))
        if any(count for name, count in removed.items() if name not in ("pushed", "shown")):
            records.commit(replace(records.manifest, files=tuple(files)))
    return removed


def _without(records: Records, part: Part, users: Collection[str]) -> Part:
    table = records.read([part])
    if table is None:
        return part
    out = pa.array(sorted(users), pa.string())
    keep = pa.array([True] * table.num_rows, pa.bool_())
    for name in ("user", "other"):
        if name in table.column_names:
            column = table.column(name).cast(pa.string()).combine_chunks()
            keep = pc.and_(keep, pc.invert(pc.is_in(column, value_set=out)))
    if keep.true_count == table.num_rows:
        return part
    # The dictionaries of the words go too: they would still hold the ids.
    rest = _fresh(table.filter(keep))
    return records.add_part(rest.drop_columns([IDENTITY]), rest.column(IDENTITY).to_numpy())


def _fresh(table: pa.Table) -> pa.Table:
    """The table with dictionaries that hold only words in use."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            words = table.column(place).cast(pa.string()).combine_chunks()
            table = table.set_column(place, field.name, words.dictionary_encode())
    return table.combine_chunks()
