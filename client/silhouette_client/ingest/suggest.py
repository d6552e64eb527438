"""A first draft of a mapping from the first rows of a file. Guesses are marked, for a person to check."""

from __future__ import annotations

import csv
import io
import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from silhouette_client.ingest.columns import is_number
from silhouette_client.ingest.sources import SUFFIXES
from silhouette_shared.errors import UsageError
from silhouette_shared.schema import BEHAVIOURS, TABLES, Column, Kind

_ROWS = 2000
_FORMATS = (
    "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y%m%d%H%M%S",
)
_NAMES = {
    "user": ("user", "customer", "client", "member", "visitor", "account", "kunde", "person"),
    "item": ("item", "product", "sku", "article", "movie", "artikel", "asin"),
    "behaviour": ("behaviour", "behavior", "event", "action", "type", "aktion", "activity"),
    "timestamp": ("timestamp", "time", "date", "at", "when", "zeit", "datum", "ts"),
    "time": ("timestamp", "time", "date", "at", "when", "zeit", "datum", "ts"),
    "value": ("value", "price", "amount", "rating", "score", "quantity", "preis", "betrag", "cents"),
    "text": ("text", "comment", "review", "query", "note"),
    "other": ("other", "friend", "followed", "target", "to"),
    "weight": ("weight", "strength", "score", "count"),
    "tag": ("tag", "label", "keyword"),
    "purpose": ("purpose", "scope", "zweck"),
    "granted": ("granted", "consent", "agreed", "allowed", "opt"),
}
_WORDS = {
    "view": ("view", "seen", "pageview", "pv", "impression", "visit", "gesehen"),
    "click": ("click", "clicked"),
    "search": ("search", "query"),
    "cart": ("cart", "basket", "add_to_cart", "addtocart", "warenkorb"),
    "favourite": ("favourite", "favorite", "fav", "like", "wishlist"),
    "purchase": ("purchase", "buy", "bought", "order", "transaction", "sale", "kauf"),
    "rate": ("rate", "rating", "rated"),
    "review": ("review", "comment"),
    "share": ("share", "shared"),
    "return": ("return", "refund", "returned"),
}


def suggest(sample: Path, table: str) -> str:
    """A mapping as TOML.

    Args:
        sample: A CSV, JSON lines or Parquet file.
        table: The canonical table it fills.

    Raises:
        UsageError: If the table is unknown, or the file cannot be read or is empty.
    """
    if table not in TABLES:
        raise UsageError(f"expected a table out of {', '.join(TABLES)}, got {table!r}")
    rows, delimiter = _sample(sample)
    if not rows:
        raise UsageError(f"{sample}: expected some rows to look at, found none")
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["[[source]]", f'table = "{table}"', f"match = {json.dumps('*' + sample.suffix)}  # guessed"]
    if delimiter not in (None, ","):
        lines.append(f"delimiter = {json.dumps(delimiter)}")
    lines += ["", "[source.columns]"]
    left = list(names)
    for column in TABLES[table].columns:
        source = _matching(column.name, left)
        if source is None:
            lines.append(_unknown(column))
            continue
        left.remove(source)
        lines.append(_line(column, source, [str(row.get(source) or "") for row in rows]))
    if TABLES[table].open:
        lines += [f"{_key(name)} = {{ column = {json.dumps(name)} }}  # a declared attribute" for name in left]
    elif left:
        lines.append(f"# not used: {', '.join(json.dumps(name) for name in left)}")
    return "\n".join(lines) + "\n"


def _sample(path: Path) -> tuple[list[dict[str, object]], str | None]:
    kind = SUFFIXES.get(path.suffix.lower())
    try:
        if kind == "parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                batch = next(file.iter_batches(batch_size=_ROWS), None)
            return ([] if batch is None else batch.to_pylist()), None
        with path.open(encoding="utf-8-sig", newline="") as text:
            lines = list(islice(text, _ROWS))
    except FileNotFoundError:
        raise UsageError(f"{path}: expected a file to look at, found none; check the path") from None
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise UsageError(
            f"{path}: expected a CSV, JSON lines or Parquet file in UTF-8 ({type(error).__name__})"
        ) from None
    if kind == "jsonl":
        try:
            records = [json.loads(line) for line in lines if line.strip()]
        except ValueError:
            raise UsageError(f"{path}: expected a JSON object on each line, got something else") from None
        return [one for one in records if isinstance(one, dict)], None
    try:
        delimiter = csv.Sniffer().sniff("".join(lines[:50]), delimiters=",;\t|").delimiter
    except csv.Error:
        delimiter = ","
    reader = csv.DictReader(io.StringIO("".join(lines)), delimiter=delimiter)
    return [{name: value for name, value in row.items() if isinstance(name, str)} for row in reader], delimiter


def _matching(column: str, names: list[str]) -> str | None:
    for hint in (column, *_NAMES.get(column, ())):
        for name in names:
            if hint == name.lower() or (hint in name.lower().replace("-", "_").split("_")):
                return name
    for hint in _NAMES.get(column, ()):
        for name in names:
            if len(hint) > 3 and hint in name.lower():
                return name
    return None


def _unknown(column: Column) -> str:
    if column.nullable:
        return f'# {column.name} = {{ column = "" }}'
    if column.name == "behaviour":
        return 'behaviour = { constant = "view" }  # FILL IN: no column looked like it'
    return f'{column.name} = {{ column = "FILL IN" }}'


def _line(column: Column, source: str, values: list[str]) -> str:
    inside = [f"column = {json.dumps(source)}"]
    note = ""
    if column.unit == "UTC seconds":
        extra, note = _time(values)
        inside += extra
    elif column.classes:
        words = sorted(set(filter(None, values)))
        meant = {word: _meaning(word) for word in words if word not in BEHAVIOURS}
        if meant:
            pairs = ", ".join(f"{json.dumps(word)} = {json.dumps(name or 'FILL IN')}" for word, name in meant.items())
            inside.append(f"values = {{ {pairs} }}")
            note = "  # guessed"
    elif column.kind is Kind.FLOAT and any("," in one and is_number(one.replace(",", ".")) for one in values):
        inside.append('decimal = ","')
        note = "  # guessed"
    return f"{column.name} = {{ {', '.join(inside)} }}{note}"


def _meaning(word: str) -> str | None:
    low = word.lower()
    for name, hints in _WORDS.items():
        if low in hints or any(hint in low for hint in hints if len(hint) > 3):
            return name
    return None


def _time(values: list[str]) -> tuple[list[str], str]:
    from datetime import datetime

    given = [value.strip() for value in values if value.strip()]
    if given and sum(is_number(value) for value in given) > len(given) / 2:
        digits = max(len(value.lstrip("-").split(".")[0]) for value in given if is_number(value))
        unit = "s" if digits <= 10 else "ms" if digits <= 13 else "us" if digits <= 16 else "ns"
        if digits != 14:
            return [f'unit = "{unit}"'], "  # guessed from the number of digits"

    def fits(format_: str) -> int:
        found = 0
        for value in given[:200]:
            try:
                datetime.strptime(value, format_)  # noqa: DTZ007 - only whether it fits
            except ValueError:
                continue
            found += 1
        return found

    best = max(_FORMATS, key=fits)
    if fits(best):
        return [f'format = "{best}"', 'zone = "UTC"'], "  # guessed; check day, month and zone"
    if any(value.endswith("Z") or "+" in value[10:] for value in given):
        return [], "  # ISO 8601 with offsets"
    return ['zone = "UTC"'], "  # ISO 8601; check the zone"


def _key(name: str) -> str:
    low = name.lower()
    return low if low.replace("_", "").replace("-", "").isalnum() and low.isascii() else json.dumps(name)
