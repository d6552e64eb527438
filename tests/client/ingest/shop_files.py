"""Small tables of a shop, and what a node holds, for the tests of ingest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from silhouette_client.ingest.mapping import Mapping, parse_mapping
from silhouette_client.ingest.records import open_records
from silhouette_client.ingest.take_in import Exclusions, Outcome, take_in
from silhouette_shared.catalogue import Catalogue

NOW = 1_800_000_000

MAPPING = """
consent = "elsewhere"

[[source]]
table = "events"
match = "events*"

[source.columns]
user = { column = "who" }
item = { column = "what" }
behaviour = { column = "how" }
timestamp = { column = "at", unit = "s" }
value = { column = "price" }

[[source]]
table = "users"
match = "users*"

[source.columns]
user = { column = "who" }
gender = { column = "sex", values = { w = "F", m = "M" } }

[[source]]
table = "consent"
match = "consent*"

[source.columns]
user = { column = "who" }
purpose = { column = "purpose" }
granted = { column = "granted" }
time = { column = "at", unit = "s" }
"""


def mapping(text: str = MAPPING) -> Mapping:
    import tomllib

    return parse_mapping(tomllib.loads(text))


def write(path: Path, *rows: str, header: str = "who,what,how,at,price") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def ingest(
    home: Path, *sources: Path | str, rules: Mapping | None = None, exclusions: Exclusions | None = None
) -> Outcome:
    return take_in(home, rules or mapping(), [str(one) for one in sources], now=NOW, exclusions=exclusions)


def events(home: Path) -> list[tuple[object, ...]]:
    """All events in the order in which they are held."""
    table = open_records(home).table("events", ("user", "item", "behaviour", "timestamp", "value"))
    return [] if table is None else [tuple(row.values()) for row in table.to_pylist()]


def quarantine(home: Path) -> list[tuple[str, int, str, str]]:
    return [(file, line, column, reason) for file, _, line, column, reason in open_records(home).quarantine()]


def state(home: Path) -> dict[str, bytes]:
    """Every file that the node holds, but for the lock and the report."""
    folder = home / "node" / "people"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", "report.json", "report.html")
    }


def catalogue(*items: str) -> Catalogue:
    return Catalogue(
        items=items,
        titles=("",) * len(items),
        categories=(),
        category_matrix=np.zeros((len(items), 0), np.float32),
        texts=("",) * len(items),
        content=np.zeros((len(items), 0), np.float32),
    )
