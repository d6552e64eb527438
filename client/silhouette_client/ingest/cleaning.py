"""A block of a source's rows to canonical rows, and what is wrong with the others. Calculation only.

Each row ends in exactly one place: it is clean, it is bad (with the first column that is wrong and why), or the mapping
says to ignore it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from silhouette_client.ingest import columns
from silhouette_client.ingest.identity import identities
from silhouette_client.ingest.mapping import TIME_COLUMNS, SourceRule
from silhouette_client.ingest.reasons import Reason, code
from silhouette_shared.schema import FIRST_TIME, LAST_TIME, Column, Kind


@dataclass(frozen=True)
class Block:
    """Rows as a source gave them.

    Attributes:
        table: The columns that the mapping names, all of one length.
        lines: Where each row stands in its file, from 1; for a table without lines the number of the row.
        broken: Rows that could not be taken apart, by line; they are not in the table.
    """

    table: pa.Table
    lines: NDArray[np.int64]
    broken: tuple[tuple[int, Reason], ...] = ()


@dataclass(frozen=True)
class Quality:
    """What a canonical column looked like, before and after."""

    rows: int = 0
    missing: int = 0
    bad: int = 0

    def plus(self, other: Quality) -> Quality:
        """Both together."""
        return Quality(self.rows + other.rows, self.missing + other.missing, self.bad + other.bad)


@dataclass(frozen=True)
class Bad:
    """Bad rows: lines, the source's name of the column that is wrong ("" for the whole row), and the reason."""

    lines: NDArray[np.int64]
    columns: NDArray[np.object_]
    codes: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True)
class Clean:
    """A block after cleaning."""

    table: pa.Table
    names: NDArray[np.uint64]  # identity of each row
    bad: Bad
    rows: int
    ignored: int
    quality: dict[str, Quality] = field(default_factory=dict)


def clean(block: Block, rule: SourceRule, *, latest: int) -> Clean:
    """Turn a block into canonical rows.

    Args:
        block: Rows of a source with the columns that `rule` names.
        rule: Of the source.
        latest: Latest time that is not in the future, UTC seconds.
    """
    count = block.table.num_rows
    first_code = np.zeros(count, np.int8)
    first_column = np.full(count, -1, np.int16)
    ignored = np.zeros(count, np.bool_)
    parsed: dict[str, pa.Array] = {}
    quality: dict[str, Quality] = {}
    for number, name in enumerate(rule.names):
        result = _parse(block, rule, name, latest)
        parsed[name] = result.values
        new = (result.codes != 0) & (first_code == 0)
        first_code[new], first_column[new] = result.codes[new], number
        if result.ignored is not None:
            ignored |= result.ignored
        bad = int(np.count_nonzero(result.codes))
        lacking = int(np.count_nonzero(result.codes == code(Reason.MISSING))) or result.values.null_count
        quality[name] = Quality(count + len(block.broken), lacking, bad)
    table = pa.table(parsed)
    keep = (first_code == 0) & ~ignored
    if not keep.all():
        table = table.filter(pa.array(keep))
    wrong = (first_code != 0) & ~ignored
    return Clean(
        table=table,
        names=identities(table),
        bad=_bad(block, rule, wrong, first_code, first_column),
        rows=count + len(block.broken),
        ignored=int(np.count_nonzero(ignored)),
        quality=quality,
    )


def repeated(names: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows are a repetition of an earlier one or of a known one; shape (rows,)."""
    again = pd.Series(names).duplicated().to_numpy()
    if len(known):
        again = again | pd.Series(names).isin(known).to_numpy()
    return np.asarray(again, dtype=np.bool_)


def sessions(people: NDArray[np.int64], timestamps: NDArray[np.int64], gap_seconds: int) -> NDArray[np.int64]:
    """Number the sessions of everybody: a person's events with no pause longer than the gap; shape (events,).

    Args:
        people: Number of each event's person, in ascending order.
        timestamps: UTC seconds, ascending for each person.
        gap_seconds: Longest pause inside a session.

    >>> sessions(np.array([0, 0, 0, 1]), np.array([0, 60, 9000, 9000]), 1800).tolist()
    [0, 0, 1, 2]
    """
    if not len(people):
        return np.zeros(0, np.int64)
    new = (np.diff(people) != 0) | (np.diff(timestamps) > gap_seconds)
    return np.concatenate([[0], np.cumsum(new)]).astype(np.int64)


def _parse(block: Block, rule: SourceRule, name: str, latest: int) -> columns.Parsed:
    count = block.table.num_rows
    layout = rule.layout
    column = layout.column(name) if name in layout.names else Column(name=name, kind=Kind.TEXT, nullable=True)
    given = rule.columns.get(name)
    if given is None:
        kind = pa.float64() if column.kind is Kind.FLOAT else pa.string()
        values = pa.nulls(count, kind)
        return columns.Parsed(values.dictionary_encode() if kind == pa.string() else values, np.zeros(count, np.int8))
    raw = _column(block.table, given.column) if given.column is not None else pa.repeat(given.constant, count)
    if name in TIME_COLUMNS:
        zones = _column(block.table, given.zone_column) if given.zone_column is not None else None
        return columns.times(raw, given, zones, low=FIRST_TIME, high=min(LAST_TIME, latest))
    parse: dict[Kind, Callable[[], columns.Parsed]] = {
        Kind.TEXT: lambda: columns.words(
            raw, given, nullable=column.nullable, classes=column.classes, free=name == "text"
        ),
        Kind.FLOAT: lambda: columns.numbers(raw, given, nullable=column.nullable, low=column.low),
        Kind.BOOLEAN: lambda: columns.truths(raw, given),
    }
    return parse[column.kind]()


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # more than one chunk is left where the text passes 2 GiB
        column = pa.concat_arrays(column.chunks)
    return column


def _bad(
    block: Block,
    rule: SourceRule,
    wrong: NDArray[np.bool_],
    codes: NDArray[np.int8],
    numbers: NDArray[np.int16],
) -> Bad:
    names = np.asarray(
        [(rule.columns[name].column or name) if name in rule.columns else name for name in rule.names], object
    )
    rows = np.flatnonzero(wrong)
    lines = np.concatenate([block.lines[rows], np.asarray([line for line, _ in block.broken], np.int64)])
    whole = np.full(len(block.broken), "", object)
    of_rows = names[numbers[rows]] if len(rows) else np.zeros(0, object)
    all_codes = np.concatenate([codes[rows], np.asarray([code(reason) for _, reason in block.broken], np.int8)])
    order = np.argsort(lines, kind="stable")
    return Bad(lines[order], np.concatenate([of_rows, whole])[order], all_codes[order].astype(np.int8))
