"""Made-up tables of three online shops, with bad rows planted at known lines, and the mapping that reads them.

Each shop names its columns in its own way, writes times in its own format and time zone, and prices in its own way. The
tables are the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from silhouette_client.ingest.reasons import Reason
from silhouette_shared.randomness import ReproducibleSource

_FIRST, _LAST = 1_672_531_200, 1_735_689_600  # the years 2023 and 2024
_BLOCK = 200_000
_BEHAVIOURS = ("view", "cart", "purchase", "favourite")
_SHARES = (0.7, 0.15, 0.1, 0.05)

MAPPING = """
consent = "elsewhere"

[[source]]
table = "events"
match = "berlin*.csv"
delimiter = ";"

[source.columns]
user = { column = "kunde" }
item = { column = "artikel" }
behaviour = { column = "aktion", values = { gesehen = "view", korb = "cart", kauf = "purchase", merken = "favourite" } }
timestamp = { column = "zeit", format = "%d.%m.%Y %H:%M:%S", zone = "Europe/Berlin", low = 946684800.0 }
value = { column = "preis", decimal = ",", low = 0.0 }

[[source]]
table = "events"
match = "newyork*.csv"

[source.columns]
user = { column = "customer_id" }
item = { column = "sku" }
behaviour = { column = "event", values = { seen = "view", basket = "cart", bought = "purchase", liked = "favourite" } }
timestamp = { column = "at", format = "iso", zone = "America/New_York", low = 946684800.0 }
value = { column = "cents", scale = 0.01, low = 0.0 }

[[source]]
table = "events"
match = "tokyo*.csv"

[source.columns]
user = { column = "member" }
item = { column = "product" }
behaviour = { column = "kind", values = { v = "view", c = "cart", p = "purchase", f = "favourite" } }
timestamp = { column = "when", format = "%Y/%m/%d %H:%M:%S", zone_column = "zone", low = 946684800.0 }
value = { column = "price", low = 0.0 }
"""
"""Content of a mapping for the tables of `write_shops`."""


@dataclass(frozen=True)
class _Shop:
    name: str
    columns: tuple[str, ...]  # user, item, behaviour, time, price, and what else there is
    words: tuple[str, ...]
    delimiter: str
    zone: str
    time: str
    price: Callable[[np.ndarray], pa.Array]
    last: str | None = None


def _text(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


_SHOPS = (
    _Shop(
        "berlin",
        ("kunde", "artikel", "aktion", "zeit", "preis"),
        ("gesehen", "korb", "kauf", "merken"),
        ";",
        "Europe/Berlin",
        "%d.%m.%Y %H:%M:%S",
        lambda cents: pc.replace_substring(_text(cents / 100), ".", ","),
    ),
    _Shop(
        "newyork",
        ("customer_id", "sku", "event", "at", "cents"),
        ("seen", "basket", "bought", "liked"),
        ",",
        "America/New_York",
        "%Y-%m-%dT%H:%M:%S",
        _text,
    ),
    _Shop(
        "tokyo",
        ("member", "product", "kind", "when", "price", "zone"),
        ("v", "c", "p", "f"),
        ",",
        "Asia/Tokyo",
        "%Y/%m/%d %H:%M:%S",
        lambda cents: _text(cents / 100),
        "Asia/Tokyo",
    ),
)

# What is put where, by the place among the columns; ten kinds. A time is written in the shop's own format.
_FAULTS: tuple[tuple[int, str, Reason], ...] = (
    (0, "", Reason.MISSING),
    (1, "  ", Reason.MISSING),
    (2, "teleported", Reason.UNKNOWN_WORD),
    (3, "yesterday", Reason.NOT_A_TIME),
    (3, "2024-02-30", Reason.NOT_A_TIME),
    (3, "2090-01-01", Reason.TOO_LATE),
    (3, "1980-01-01", Reason.TOO_EARLY),
    (4, "free", Reason.NOT_A_NUMBER),
    (4, "-5", Reason.OUT_OF_RANGE),
    (-1, "", Reason.WRONG_COLUMNS),
)

Planted = set[tuple[str, int, str, str]]
"""File, line, column as the file calls it ("" for the whole row), reason."""


def write_shops(folder: Path, events: int, *, seed: int = 0, bad_share: float = 0.02) -> Planted:
    """Write three tables with so many rows together and return what is wrong in them.

    Args:
        folder: Made if missing.
        events: Rows, bad ones included.
        seed: Of everything.
        bad_share: Share of the rows that are bad, of ten kinds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    planted: Planted = set()
    for number, shop in enumerate(_SHOPS):
        rows = events // 3 + (number < events % 3)
        draw = ReproducibleSource(seed).child("shop", shop.name).numpy_generator()
        with (folder / f"{shop.name}.csv").open("w", encoding="utf-8") as file:
            file.write(shop.delimiter.join(shop.columns) + "\n")
            for start in range(0, rows, _BLOCK):
                lines, bad = _block(shop, min(_BLOCK, rows - start), start + 2, bad_share, draw)
                file.write("\n".join(lines) + "\n")
                planted |= bad
    return planted


def _block(
    shop: _Shop, rows: int, first_line: int, bad_share: float, draw: np.random.Generator
) -> tuple[list[str], Planted]:
    stamps = (
        pa.array(draw.integers(_FIRST, _LAST, rows)).cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("s", shop.zone))
    )
    kinds = draw.choice(len(_BEHAVIOURS), rows, p=_SHARES)
    columns = [
        pc.binary_join_element_wise(shop.name[0], _text(draw.zipf(1.3, rows) % 200_000), "-"),
        pc.binary_join_element_wise("art", _text(draw.zipf(1.2, rows) % 50_000), "-"),
        pa.array(shop.words).take(pa.array(kinds)),
        pc.strftime(stamps, format=shop.time),
        shop.price(draw.integers(1, 50_000, rows)),
    ]
    if shop.last is not None:
        columns.append(pa.repeat(shop.last, rows))
    faults = np.flatnonzero(draw.random(rows) < bad_share)
    which = draw.integers(0, len(_FAULTS), len(faults))
    lines = pc.binary_join_element_wise(*columns, shop.delimiter).to_pylist()
    planted: Planted = set()
    for row, number in zip(faults.tolist(), which.tolist(), strict=True):
        place, word, reason = _FAULTS[number]
        cells = lines[row].split(shop.delimiter)
        if place < 0:
            cells.append("surplus")
        else:
            cells[place] = _as_written(shop, word)
        lines[row] = shop.delimiter.join(cells)
        planted.add((f"{shop.name}.csv", first_line + row, shop.columns[place] if place >= 0 else "", str(reason)))
    return lines, planted


def _as_written(shop: _Shop, word: str) -> str:
    """A date in the shop's own format; other words as they are."""
    if not word[:4].isdigit():
        return word
    year, month, day = word.split("-")
    date = shop.time.replace("%Y", year).replace("%m", month).replace("%d", day)
    return date.replace("%H", "12").replace("%M", "00").replace("%S", "00")
