"""The mapping: which column of a partner's table is which canonical column, and how it is to be read.

A mapping is a TOML file with a `[[source]]` for each kind of table:

    [[source]]
    table = "events"
    match = "orders*.csv"
    delimiter = ";"

    [source.columns]
    user = { column = "customer_no" }
    item = { column = "sku" }
    behaviour = { column = "action", values = { bought = "purchase", seen = "view" }, ignore = ["ping"] }
    timestamp = { column = "at", format = "%d.%m.%Y %H:%M:%S", zone = "Europe/Berlin" }
    value = { column = "cents", scale = 0.01, low = 0.0 }

Nothing here touches a table: what the settings do to one stands in `cleaning.py`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import tomllib
import zoneinfo
from dataclasses import asdict, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from silhouette_shared.errors import UsageError
from silhouette_shared.schema import TABLES, Column, Kind, Table

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

Unit = Literal["s", "ms", "us", "ns"]
TableName = Literal["events", "users", "edges", "tags", "consent"]
ConsentRule = Literal["table", "elsewhere"]

ISO = "iso"
"""The time format that is meant where none is given: ISO 8601, with or without an offset."""

TIME_COLUMNS = ("timestamp", "time")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ColumnRule:
    """How one canonical column is filled.

    Attributes:
        column: Name in the source; or
        constant: the same text for every row.
        values: Words of the source to words of Silhouette. For a column with fixed classes every word must be in it
            or be a class already.
        ignore: Words that mark a row which is no record at all; it is counted and goes nowhere.
        missing: Words that stand for a missing value.
        format: Of a time: "iso", or as in strptime.
        unit: Of a time that is a number since 1970; instead of a format.
        zone: Of a local time, as in the IANA database; a time with an offset of its own needs none.
        zone_column: Column that names the zone row by row; instead of `zone`.
        decimal: The decimal point of a number.
        scale: A number is multiplied by it.
        low: Smallest allowed number after scaling, or earliest time in UTC seconds.
        high: Largest one, or latest time in UTC seconds.
    """

    column: str | None = None
    constant: str | None = None
    values: dict[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("",)
    format: str | None = None
    unit: Unit | None = None
    zone: str | None = None
    zone_column: str | None = None
    decimal: Literal[".", ","] = "."
    scale: float = 1.0
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _check(self) -> ColumnRule:
        if (self.column is None) == (self.constant is None):
            raise ValueError("expected either a column or a constant")
        if self.format is not None and self.unit is not None:
            raise ValueError("expected a format or a unit, got both")
        if self.zone is not None and self.zone_column is not None:
            raise ValueError("expected zone or zone_column, got both")
        if self.zone is not None:
            check_zone(self.zone)
        if self.format is not None and "%z" in self.format.lower():
            raise ValueError('expected a format without %z; write times with offsets as "iso", or name a zone')
        if self.scale == 0:
            raise ValueError("expected a scale other than 0")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the column holds times of a named zone."""
        return self.zone is not None or self.zone_column is not None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SourceRule:
    """How the files (or the SQL table) of one kind are read.

    Attributes:
        table: Canonical table that it fills.
        match: Pattern of the file's name, as in a shell; for a database, pattern of the name in `name`.
        format: "csv", "jsonl" or "parquet"; by the suffix if left out.
        delimiter: Between the columns of a CSV file.
        quote: Character around a value that holds a delimiter; "" for none.
        encoding: Of the text, a name that Python knows.
        query: What to ask a database for.
        columns: Rules by canonical column.
        largest_bad_share: A file with a larger share of bad rows is refused whole: its mapping is probably wrong.
    """

    table: TableName
    match: str = "*"
    format: Literal["csv", "jsonl", "parquet"] | None = None
    delimiter: str = ","
    quote: Literal['"', "'", ""] = '"'
    encoding: str = "utf-8"
    query: str | None = None
    columns: dict[str, ColumnRule]
    largest_bad_share: float = 0.5

    @model_validator(mode="after")
    def _check(self) -> SourceRule:
        layout = TABLES[self.table]
        for name, rule in self.columns.items():
            _check_column(layout, name, rule)
        needed = [column.name for column in layout.columns if not column.nullable]
        if lacking := [name for name in needed if name not in self.columns]:
            raise ValueError(
                f"expected rules for {', '.join(needed)} of {self.table}, got none for {', '.join(lacking)}"
            )
        if len(self.delimiter) != 1:
            raise ValueError(f"expected one character as delimiter, got {self.delimiter!r}")
        if not 0 < self.largest_bad_share <= 1:
            raise ValueError(f"expected largest_bad_share above 0 and up to 1, got {self.largest_bad_share}")
        return self

    @property
    def layout(self) -> Table:
        """The canonical table."""
        return TABLES[self.table]

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Names of the columns to read, each once."""
        named = [name for rule in self.columns.values() for name in (rule.column, rule.zone_column) if name is not None]
        return tuple(dict.fromkeys(named))

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical columns of the result: those of the table, then declared attributes in the mapping's order."""
        own = self.layout.names
        return own + tuple(name for name in self.columns if name not in own)

    def digest(self) -> str:
        """What this rule does to a file, as 64 hexadecimal digits; the pattern of names is no part of it."""
        content = asdict(self)
        del content["match"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Mapping:
    """All rules of a partner.

    Attributes:
        source: One for each kind of table; a file may match several.
        consent: "table": only people with a granted purpose in the consent table are used for it. "elsewhere": the
            partner keeps consent elsewhere and gives only people who have given it; a refusal in the table still
            counts.
        clock_skew_seconds: How far in the future a time may lie.
    """

    source: tuple[SourceRule, ...]
    consent: ConsentRule = "table"
    clock_skew_seconds: int = 86_400

    def rules_for(self, name: str) -> tuple[SourceRule, ...]:
        """The rules that a file or database of this name matches, in order."""
        return tuple(rule for rule in self.source if fnmatch.fnmatchcase(name, rule.match))


def read_mapping(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        UsageError: If there is no such file, it is not TOML, or a setting is unknown or wrong; all of them are named.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(
            f"{path}: expected a mapping, found none; `silhouette node mapping suggest` drafts one"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected TOML in UTF-8: {error}") from None
    return parse_mapping(content, str(path))


def parse_mapping(content: dict[str, object], place: str = "mapping") -> Mapping:
    """Check the content of a mapping file.

    Raises:
        UsageError: If a setting is unknown or wrong.
    """
    try:
        # Through JSON, where a list may stand for a tuple although everything else is strict.
        return TypeAdapter(Mapping).validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'mapping'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        )
        raise UsageError(f"{place}: {faults}") from None


def check_zone(name: str) -> None:
    """Refuse a zone that the database lacks.

    Raises:
        ValueError: If it is none.
    """
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"expected a time zone such as Europe/Berlin, got {name!r}") from None


def _check_column(layout: Table, name: str, rule: ColumnRule) -> None:
    if name not in layout.names and not layout.open:
        raise ValueError(f"expected columns out of {', '.join(layout.names)}, got {name!r}")
    column = layout.column(name) if name in layout.names else Column(name=name, kind=Kind.TEXT, nullable=True)
    kind, classes = column.kind, column.classes
    is_time = name in TIME_COLUMNS
    for setting in ("format", "unit", "zone", "zone_column"):
        if getattr(rule, setting) is not None and not is_time:
            raise ValueError(f"{name}: expected no {setting}, because the column is no time")
    if (rule.scale != 1.0 or rule.decimal != ".") and kind is not Kind.FLOAT:
        raise ValueError(f"{name}: expected no scale or decimal, because the column is no number")
    if (rule.low is not None or rule.high is not None) and not (is_time or kind is Kind.FLOAT):
        raise ValueError(f"{name}: expected no low or high, because the column is no number")
    if classes and (strange := sorted(set(rule.values.values()) - set(classes))):
        raise ValueError(f"{name}: expected values out of {', '.join(classes)}, got {', '.join(strange)}")
