"""The canonical tables that every source of personal records is mapped onto.

This module is data only: names, kinds and limits, no table library. A loader, a partner's ingest
and the feature code all read the same description, so that a column means one thing everywhere.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

BEHAVIOURS: Final = (
    "view",
    "click",
    "search",
    "cart",
    "favourite",
    "purchase",
    "rate",
    "review",
    "share",
    "return",
)
"""Every kind of event, in the order that gives a behaviour its number (0 is `view`)."""

BROWSING: Final = ("view", "click", "search")
PURCHASES: Final = ("cart", "purchase", "return")
FEEDBACK: Final = ("favourite", "rate", "review", "share")
"""Kinds of events that say one thing about a person; together with the two above they are all."""

FIRST_TIME: Final = 0
"""Smallest time of an event, in UTC seconds; sources without times write exactly this."""

LAST_TIME: Final = 4_102_444_799
"""Largest time of an event: the last second of 2099. A time in milliseconds lies far above it."""


class Kind(StrEnum):
    """What a column holds, independent of the table library."""

    TEXT = "text"
    INTEGER = "int64"
    FLOAT = "float64"
    BOOLEAN = "bool"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a canonical table.

    `classes`, where given, lists every allowed value; `low` and `high` are inclusive limits.
    `unit` is empty for identifiers and free text.
    """

    name: str
    kind: Kind
    nullable: bool = False
    unit: str = ""
    classes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A canonical table: its name and its columns in order.

    `open` says that further text columns may follow (the declared attributes of users).

    >>> EVENTS.names[:3]
    ('user', 'item', 'behaviour')
    """

    name: str
    columns: tuple[Column, ...]
    open: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """Return the column called `name`.

        Raises:
            KeyError: If the table has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"expected one of {', '.join(self.names)}, got {name!r}")


def _time(name: str) -> Column:
    return Column(name=name, kind=Kind.INTEGER, unit="UTC seconds", low=float(FIRST_TIME), high=LAST_TIME)


EVENTS: Final = Table(
    name="events",
    columns=(
        Column(name="user", kind=Kind.TEXT),
        Column(name="item", kind=Kind.TEXT),
        Column(name="behaviour", kind=Kind.TEXT, classes=BEHAVIOURS),
        _time("timestamp"),
        Column(name="value", kind=Kind.FLOAT, nullable=True),
        Column(name="text", kind=Kind.TEXT, nullable=True),
    ),
)
"""What a person did. Rows keep the source's order; equal times are not reordered."""

USERS: Final = Table(name="users", columns=(Column(name="user", kind=Kind.TEXT),), open=True)
"""One row a person; declared attributes follow as nullable text columns."""

EDGES: Final = Table(
    name="edges",
    columns=(
        Column(name="user", kind=Kind.TEXT),
        Column(name="other", kind=Kind.TEXT),
        Column(name="weight", kind=Kind.FLOAT, low=0.0),
    ),
)
"""Who is connected with whom."""

TAGS: Final = Table(
    name="tags",
    columns=(
        Column(name="user", kind=Kind.TEXT),
        Column(name="tag", kind=Kind.TEXT),
        Column(name="weight", kind=Kind.FLOAT, low=0.0),
        _time("time"),
    ),
)
"""Words a person attached to something."""

CONSENT: Final = Table(
    name="consent",
    columns=(
        Column(name="user", kind=Kind.TEXT),
        Column(name="purpose", kind=Kind.TEXT),
        Column(name="granted", kind=Kind.BOOLEAN),
        _time("time"),
    ),
)
"""What a person allowed their records to be used for, and when."""

TABLES: Final = MappingProxyType({table.name: table for table in (EVENTS, USERS, EDGES, TAGS, CONSENT)})
"""Every canonical table by name."""
