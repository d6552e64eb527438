"""The manifest: which files were taken in, how, and which parts hold their rows. Data only; `records.py` keeps it.

It names files, columns and counts and nothing of a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import field, replace
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from silhouette_client.ingest.mapping import ConsentRule, TableName

FORMAT = 1

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Part:
    """A sealed Parquet file of clean rows; the times are those of its rows, None if the table has none."""

    name: str
    rows: int
    earliest: int | None = None
    latest: int | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ColumnQuality:
    """What a canonical column of a file looked like before cleaning."""

    rows: int
    missing: int
    bad: int


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Taken:
    """One file as it was taken in. `rows` is the sum of kept, repeated, ignored, blocked and bad ones.

    Attributes:
        name: Of the file, without its folder.
        content: SHA-256 of the file.
        table: Canonical table that it filled.
        rule: Digest of the mapping's rule.
        rows: Records in the file.
        kept: New ones, which are in the parts.
        repeated: Equal to an earlier one of this or another file.
        ignored: No records by the mapping.
        blocked: Of people whose records may not come back.
        late: Kept events that are older than the newest event before this file.
        unordered: Kept events that are older than the one on the row before.
        bad: Rows in the quarantine, by reason.
        columns: Quality by canonical column.
        parts: The kept rows.
        quarantine: Sealed file of the bad rows, None if there are none.
    """

    name: str
    content: str
    table: TableName
    rule: str
    rows: int
    kept: int
    repeated: int
    ignored: int
    blocked: int
    late: int
    unordered: int
    bad: dict[str, int]
    columns: dict[str, ColumnQuality]
    parts: tuple[Part, ...]
    quarantine: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same file, taken in the same way."""
        return self.content, self.table, self.rule


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Manifest:
    """All files in the order in which they were taken in."""

    format: Literal[1] = 1
    consent: ConsentRule = "table"
    files: tuple[Taken, ...] = field(default=())

    def has(self, key: tuple[str, str, str]) -> bool:
        """Whether this file was taken in this way."""
        return any(one.key == key for one in self.files)

    def without(self, content: str, table: str) -> Manifest:
        """The manifest without a file's rows in a table, whatever rule they were read by."""
        return replace(self, files=tuple(one for one in self.files if (one.content, one.table) != (content, table)))

    def plus(self, taken: Taken) -> Manifest:
        """The manifest with one more file, in place of the same one read by another rule."""
        rest = self.without(taken.content, taken.table)
        return replace(rest, files=(*rest.files, taken))

    def of(self, table: str) -> tuple[Taken, ...]:
        """The files of a table."""
        return tuple(one for one in self.files if one.table == table)

    def parts_of(self, table: str) -> tuple[Part, ...]:
        """The parts of a table, oldest first."""
        return tuple(part for one in self.of(table) for part in one.parts)

    def sealed_files(self) -> set[str]:
        """Names of everything that must stay."""
        names = {part.name for one in self.files for part in one.parts}
        return names | {one.quarantine for one in self.files if one.quarantine is not None}

    def newest(self, table: str) -> int | None:
        """The latest time in a table."""
        return max((part.latest for part in self.parts_of(table) if part.latest is not None), default=None)


def reasons(files: Iterable[Taken]) -> dict[str, int]:
    """Bad rows by reason, the most frequent first."""
    total: Counter[str] = Counter()
    for one in files:
        total.update(one.bad)
    return dict(total.most_common())
