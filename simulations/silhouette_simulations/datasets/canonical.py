"""Checks and hashing of canonical tables. Pure: nothing is read or written here."""

import hashlib
from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silhouette_shared.errors import UsageError
from silhouette_shared.schema import EDGES, EVENTS, TABLES, TAGS, USERS, Column, Kind, Table

from .base import Dataset, Tables

_HELD_OUT = Table(name="held_out", columns=EVENTS.columns[:2])


def sealed(tables: Tables) -> Dataset:
    """Check `tables` and return them as a data set with its digest.

    Raises:
        UsageError: If a promise of the canonical form is broken; see `check`.
    """
    check(tables)
    return Dataset(
        name=tables.name,
        events=tables.events,
        users=tables.users,
        catalogue=tables.catalogue,
        attributes=tables.attributes,
        times=tables.times,
        edges=tables.edges,
        tags=tables.tags,
        held_out=tables.held_out,
        digest=digest(tables),
    )


def check(tables: Tables) -> None:
    """Check every promise that the rest of the simulation relies on.

    Columns and their kinds, limits and classes; users and items known; every user with at least
    one event; attribute values among the declared classes; times that fit `tables.times`.

    Raises:
        UsageError: With table, row (counted from 1) and reason.
    """
    layouts = {"events": EVENTS, "users": USERS, "edges": EDGES, "tags": TAGS}
    for name, frame in tables.frames().items():
        _check_columns(frame, layouts.get(name, _HELD_OUT), tables)
    events, users = tables.events, tables.users
    if not len(events):
        raise UsageError(f"{tables.name}: expected at least one event, got none")
    known = pd.Index(users["user"])
    if known.has_duplicates:
        row = int(known.duplicated().argmax())
        _refuse(tables, "users", row, "the user occurs twice")
    items = pd.Index(tables.catalogue.items)
    for name, column, index in (
        ("events", "user", known),
        ("events", "item", items),
        ("edges", "user", known),
        ("edges", "other", known),
        ("tags", "user", known),
        ("held_out", "user", known),
        ("held_out", "item", items),
    ):
        if (table := tables.frames().get(name)) is not None:
            position = index.get_indexer(pd.Index(table[column]))
            if (position < 0).any():
                row = int((position < 0).argmax())
                what = f"{column} is not in the data set's {column}s"
                _refuse(tables, name, row, what)
    silent = pd.Index(events["user"].unique()).get_indexer(known) < 0
    if silent.any():
        row = int(silent.argmax())
        _refuse(tables, "users", row, "the user has no events")
    _check_times(tables)


def _check_columns(frame: pd.DataFrame, layout: Table, tables: Tables) -> None:
    expected = layout.names + (tuple(tables.attributes) if layout.open else ())
    if tuple(frame.columns) != expected:
        raise UsageError(
            f"{tables.name}: expected the columns {', '.join(expected)} in table {layout.name}, "
            f"got {', '.join(map(str, frame.columns))}"
        )
    for column in layout.columns:
        _check_column(frame[column.name], column, layout, tables)
    if layout.open:
        for name, classes in tables.attributes.items():
            unknown = frame[name].notna().to_numpy() & _outside(frame[name], classes)
            if unknown.any():
                row = int(unknown.argmax())
                what = f"{name} {frame[name].iloc[row]!r} is none of {', '.join(classes)}"
                _refuse(tables, layout.name, row, what)


def _check_column(values: pd.Series, column: Column, layout: Table, tables: Tables) -> None:
    missing = values.isna().to_numpy()
    if missing.any() and not column.nullable:
        _refuse(tables, layout.name, int(missing.argmax()), f"{column.name} is missing")
    if column.kind is Kind.TEXT:
        bad = (values == "").fillna(False).to_numpy(dtype=bool)
        reason = f"{column.name} is empty"
        if column.classes and not bad.any():
            bad = _outside(values, column.classes)
            reason = f"{column.name} is none of {', '.join(column.classes)}"
    else:
        if values.dtype != np.dtype(str(column.kind)):
            raise UsageError(
                f"{tables.name}: expected {column.kind} in column {column.name} of table "
                f"{layout.name}, got {values.dtype}"
            )
        numbers = values.to_numpy()
        bad = np.isinf(numbers)
        if column.low is not None:
            bad |= numbers < column.low
        if column.high is not None:
            bad |= numbers > column.high
        reason = f"{column.name} is not a number between {column.low} and {column.high}"
    if bad.any():
        row = int(bad.argmax())
        _refuse(tables, layout.name, row, f"{reason}, got {values.iloc[row]!r}")


def _outside(values: pd.Series, classes: Sequence[str]) -> NDArray[np.bool_]:
    # Through an index: `isin` of pandas' text columns takes seconds for a million rows.
    return pd.Index(classes).get_indexer(pd.Index(values)) < 0


def _check_times(tables: Tables) -> None:
    times = tables.events["timestamp"].to_numpy()
    if tables.times == "none" and times.any():
        _refuse(tables, "events", int((times != 0).argmax()), "a time where none is declared")
    if tables.times == "rank":
        ranks = tables.events.groupby("user", sort=False, observed=True).cumcount().to_numpy()
        if (times != ranks).any():
            row = int((times != ranks).argmax())
            what = f"expected rank {ranks[row]} inside the user, got {times[row]}"
            _refuse(tables, "events", row, what)


def _refuse(tables: Tables, table: str, row: int, reason: str) -> None:
    raise UsageError(f"{tables.name}: table {table}, row {row + 1}: {reason}")


def digest(tables: Tables) -> str:
    """Return the SHA-256 over everything in `tables`, as 64 hexadecimal digits.

    Injective: every part is preceded by its name and length. Independent of the machine, of
    the table library's own types and of the archive that the tables were read from; all
    missing values of a column are one value, and so are all NaNs.
    """
    hasher = hashlib.sha256(b"silhouette.dataset.v1")
    _hash_text(hasher, tables.name)
    _hash_text(hasher, tables.times)
    _hash_text(hasher, tables.catalogue.digest())
    _hash_number(hasher, len(tables.attributes))
    for name, classes in tables.attributes.items():
        _hash_text(hasher, name)
        _hash_number(hasher, len(classes))
        for word in classes:
            _hash_text(hasher, word)
    frames = tables.frames()
    _hash_number(hasher, len(frames))
    for name, frame in frames.items():
        _hash_text(hasher, name)
        _hash_number(hasher, len(frame))
        _hash_number(hasher, len(frame.columns))
        for column in frame.columns:
            _hash_text(hasher, column)
            _hash_column(hasher, frame[column], _kind(name, column))
    return hasher.hexdigest()


def _kind(table: str, column: str) -> Kind:
    layout = TABLES.get(table, _HELD_OUT)
    return layout.column(column).kind if column in layout.names else Kind.TEXT


def _hash_column(hasher: "hashlib._Hash", values: pd.Series, kind: Kind) -> None:
    _hash_text(hasher, kind.value)
    if kind is Kind.TEXT:
        array = _as_strings(values)
        lengths = pc.fill_null(pc.binary_length(array), -1)
        hasher.update(np.asarray(lengths.to_numpy(zero_copy_only=False), dtype="<i8").tobytes())
        ends = np.frombuffer(array.buffers()[1], dtype=np.int64)
        data = array.buffers()[2]
        first, last = int(ends[array.offset]), int(ends[array.offset + len(array)])
        if data is not None:
            hasher.update(memoryview(data)[first:last])
    elif kind is Kind.FLOAT:
        numbers = values.to_numpy(dtype="<f8", na_value=np.nan, copy=True)
        numbers[np.isnan(numbers)] = np.nan
        hasher.update((numbers + 0.0).tobytes())
    else:
        hasher.update(values.to_numpy(dtype="<i8").tobytes())


def _as_strings(values: pd.Series) -> pa.LargeStringArray:
    array = pa.array(values, type=pa.large_string(), from_pandas=True)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if array.null_count:
        # A missing value may keep bytes behind it; they are not part of the table.
        array = pa.array(array.to_pylist(), type=pa.large_string())
    return cast(pa.LargeStringArray, array)


def _hash_text(hasher: "hashlib._Hash", text: str) -> None:
    encoded = text.encode()
    _hash_number(hasher, len(encoded))
    hasher.update(encoded)


def _hash_number(hasher: "hashlib._Hash", number: int) -> None:
    hasher.update(number.to_bytes(8, "little"))
