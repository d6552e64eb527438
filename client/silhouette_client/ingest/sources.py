"""Reading what a partner has: files of comma-separated values, of JSON lines, of Parquet, and databases. I/O only.

A file is looked through once before anything is changed (`examine`) and read after that (`pieces`, `blocks`). What
makes a file as a whole unusable is a `UsageError` that names it: a missing column, an encoding that does not fit, a
quote that is never closed, a Parquet file that ends too early.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from silhouette_client.ingest.cleaning import Block
from silhouette_client.ingest.mapping import SourceRule
from silhouette_client.ingest.reasons import Reason
from silhouette_shared.errors import UnavailableError, UsageError

BLOCK_BYTES = 16 << 20
_BLOCK_ROWS = 200_000
_LONGEST_RECORD = 64 << 20
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass(frozen=True)
class Source:
    """One file or one query, with a name that may stand in reports: never a password."""

    name: str
    place: Path | str  # a string is the URL of a database

    @property
    def is_file(self) -> bool:
        """Whether it is no database."""
        return isinstance(self.place, Path)

    @property
    def path(self) -> Path:
        """Of a file.

        Raises:
            ValueError: If it is a database.
        """
        if not isinstance(self.place, Path):
            raise ValueError("expected a file, got a database")
        return self.place


@dataclass(frozen=True)
class Piece:
    """A part of a CSV or JSON lines file that ends with a whole record; taken apart by `parse`."""

    content: bytes
    first_line: int
    place: str
    header: tuple[str, ...] = ()


def find(arguments: Sequence[str]) -> list[Source]:
    """The files and databases that are meant, folders opened, in the order given and by name inside a folder.

    Raises:
        UsageError: If one does not exist, or a folder holds no file of a known kind.
    """
    found: list[Source] = []
    for argument in arguments:
        if "://" in argument:
            found.append(_database(argument))
            continue
        path = Path(argument)
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file() and one.suffix.lower() in SUFFIXES)
            if not inside:
                raise UsageError(f"{path}: expected files of {', '.join(sorted(SUFFIXES))}, found none")
            found.extend(Source(str(one.relative_to(path)), one) for one in inside)
        elif path.is_file():
            found.append(Source(path.name, path))
        else:
            raise UsageError(f"{path}: expected a file, a folder or a database URL, found nothing; check the path")
    return found


def _database(url: str) -> Source:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError(
            "expected a database URL such as postgresql+psycopg://user@host/shop, got one that is none"
        ) from None
    return Source(f"{parsed.get_backend_name()}:{Path(parsed.database or '').name}", url)


def kind_of(source: Source, rule: SourceRule) -> str:
    """The format of a source.

    Raises:
        UsageError: If a file's suffix says nothing.
    """
    if not source.is_file:
        return "sql"
    kind = rule.format or SUFFIXES.get(source.path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"{source.path}: expected a suffix out of {', '.join(sorted(SUFFIXES))}; set `format` in the mapping"
        )
    return kind


def examine(source: Source, rule: SourceRule) -> str:
    """Look through the whole source and return the SHA-256 of its content.

    Raises:
        UsageError: If it cannot be read as what the rule says.
        UnavailableError: If a database does not answer, or the file may not be read.
    """
    kind = kind_of(source, rule)
    if kind == "sql":
        return _examine_query(source, rule)
    try:
        digest = _digest(source.path)
        if kind == "parquet":
            for _ in _parquet(source.path, rule):
                pass
        else:
            for _ in pieces(source, rule):
                pass
    except OSError as error:
        raise UnavailableError(
            f"{source.path}: expected a file that can be read, got {error.strerror or type(error).__name__}; let the "
            "node's user read it"
        ) from None
    return digest


def pieces(source: Source, rule: SourceRule) -> Iterator[Piece]:
    """The parts of a text file, in order.

    Raises:
        UsageError: If the file is no text in the rule's encoding, lacks a column or has a record without an end.
    """
    quote = rule.quote if kind_of(source, rule) == "csv" else ""
    with source.path.open("rb") as file:
        cut = _cut(file, source.path, rule.encoding, quote.encode())
        header: tuple[str, ...] = ()
        line = 1
        if kind_of(source, rule) == "csv":
            first = next(cut, b"")
            header, rest, line = _header(first, source.path, rule)
            if rest:
                yield Piece(rest, line, str(source.path), header)
                line += rest.count(b"\n")
        for content in cut:
            yield Piece(content, line, str(source.path), header)
            line += content.count(b"\n")


def parse(piece: Piece, kind: str, rule: SourceRule) -> Block:
    """Take a piece apart; what cannot be is listed by line."""
    return _parse_csv(piece, rule) if kind == "csv" else _parse_json(piece, rule)


def blocks(source: Source, rule: SourceRule) -> Iterator[Block]:
    """The rows of a Parquet file or a database, in order.

    Raises:
        UsageError: If the file is damaged or a column is missing.
        UnavailableError: If the database does not answer.
    """
    if not source.is_file:
        yield from _query(source, rule)
        return
    row = 1
    for table in _parquet(source.path, rule):
        yield Block(table, np.arange(row, row + table.num_rows, dtype=np.int64))
        row += table.num_rows


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cut(file: BinaryIO, path: Path, encoding: str, quote: bytes) -> Iterator[bytes]:
    """UTF-8 in pieces of about `BLOCK_BYTES`, each ending with a record; outside quotes a record is a line."""
    waiting = b""
    for text in _utf8(file, path, encoding):
        waiting += text
        end = _end_of_record(waiting, quote)
        if end:
            yield waiting[:end]
            waiting = waiting[end:]
        elif len(waiting) > _LONGEST_RECORD:
            raise UsageError(
                f"{path}: expected records of less than {_LONGEST_RECORD >> 20} MiB, got a longer one; close its "
                'quote, or set `quote = ""` in the mapping'
            )
    if quote and waiting.count(quote) % 2:
        raise UsageError(f"{path}: expected the last quote to be closed, got the end of the file; is the file whole?")
    if waiting:
        yield waiting


def _end_of_record(content: bytes, quote: bytes) -> int:
    """Just behind the last line break that lies outside quotes; 0 if there is none."""
    end = content.rfind(b"\n") + 1
    if not quote:
        return end
    open_quotes = content.count(quote, 0, end) % 2
    while end and open_quotes:
        before = content.rfind(b"\n", 0, end - 1) + 1
        open_quotes = (open_quotes - content.count(quote, before, end)) % 2
        end = before
    return end


def _utf8(file: BinaryIO, path: Path, encoding: str) -> Iterator[bytes]:
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise UsageError(f"{path}: expected an encoding that Python knows, got {encoding!r}") from None
    plain = codecs.lookup(encoding).name == "utf-8"
    first = True
    place = 0
    while True:
        content = file.read(BLOCK_BYTES)
        if first and plain and content.startswith(codecs.BOM_UTF8):
            content = content[len(codecs.BOM_UTF8) :]
        first = False
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: expected text in {encoding}, got other bytes near byte {place + error.start}; "
                "set `encoding` in the mapping"
            ) from None
        place += len(content)
        if text:
            # The decoder holds back what a block cuts in two, so the text and not the block goes on.
            yield text.encode()
        if not content:
            return


def _header(first: bytes, path: Path, rule: SourceRule) -> tuple[tuple[str, ...], bytes, int]:
    end = 0
    while True:
        following = first.find(b"\n", end)
        end = len(first) if following < 0 else following + 1
        if end == len(first) or not rule.quote or first.count(rule.quote.encode(), 0, end) % 2 == 0:
            break
    reader = csv.reader(io.StringIO(first[:end].decode()), delimiter=rule.delimiter, **_quoting(rule))
    with _readable(path):
        header = tuple(name.strip() for name in next(reader, []))
    _check_columns(header, path, rule)
    if len(set(header)) != len(header):
        raise UsageError(f"{path}: expected column names that differ, got one twice; rename it in the file")
    return header, first[end:], 1 + first.count(b"\n", 0, end)


def _check_columns(names: Sequence[str], place: object, rule: SourceRule) -> None:
    if lacking := [name for name in rule.source_columns if name not in names]:
        raise UsageError(
            f"{place}: expected the columns {', '.join(rule.source_columns)}, got {', '.join(names) or 'none'}; "
            f"missing: {', '.join(lacking)}; correct the mapping, or its `match` if this is another table"
        )


def _quoting(rule: SourceRule) -> dict[str, Any]:
    return {"quotechar": rule.quote} if rule.quote else {"quoting": csv.QUOTE_NONE, "quotechar": None}


def _parse_csv(piece: Piece, rule: SourceRule) -> Block:
    skipped: list[tuple[int, bool]] = []  # number of the record (empty lines are none) and whether it is blank

    def note(row: Any) -> str:
        skipped.append((row.number, not row.text.strip()))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(piece.content),
            read_options=pyarrow.csv.ReadOptions(
                column_names=piece.header, use_threads=False, block_size=len(piece.content) + 1
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=rule.delimiter,
                quote_char=rule.quote or False,
                newlines_in_values=bool(rule.quote),
                ignore_empty_lines=True,
                invalid_row_handler=note,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(rule.source_columns),
                column_types={name: pa.string() for name in rule.source_columns},
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"{piece.place}: expected separated values from line {piece.first_line}: {' '.join(str(error).split())}"
        ) from None
    lines = _lines(piece, rule, table.num_rows + len(skipped))
    gone = np.asarray([number - 1 for number, _ in skipped], np.int64)
    broken = tuple((int(lines[number - 1]), Reason.WRONG_COLUMNS) for number, blank in skipped if not blank)
    return Block(table, np.delete(lines, gone), broken)


def _lines(piece: Piece, rule: SourceRule, rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The line on which each record begins."""
    breaks = piece.content.count(b"\n") + (not piece.content.endswith(b"\n"))
    if breaks == rows:
        return np.arange(piece.first_line, piece.first_line + rows, dtype=np.int64)
    text = io.StringIO(piece.content.decode(), newline="")
    reader = csv.reader(text, delimiter=rule.delimiter, **_quoting(rule))
    begins, before = [], 0
    with _readable(piece.place):
        for record in reader:
            if record:
                begins.append(before)
            before = reader.line_num
    if len(begins) != rows:
        raise UsageError(
            f"{piece.place}: expected {rows} records from line {piece.first_line}, got {len(begins)} by another way of "
            'counting; a quote stands inside a value: double it, or set `quote = ""` in the mapping'
        )
    return np.asarray(begins, np.int64) + piece.first_line


@contextmanager
def _readable(place: object) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UsageError(
            f"{place}: expected separated values in lines that end with LF or CR LF: {error}; write the file anew"
        ) from None


def _parse_json(piece: Piece, rule: SourceRule) -> Block:
    names = rule.source_columns
    values: dict[str, list[str | None]] = {name: [] for name in names}
    lines, broken = [], []
    for line, text in enumerate(piece.content.split(b"\n"), start=piece.first_line):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or (b"\\u" in text and not _is_text(record)):
            broken.append((line, Reason.NOT_A_RECORD))
            continue
        lines.append(line)
        for name in names:
            values[name].append(_text_of(record.get(name)))
    table = pa.table({name: pa.array(column, pa.string()) for name, column in values.items()})
    return Block(table, np.asarray(lines, np.int64), tuple(broken))


def _is_text(record: dict[str, object]) -> bool:
    """Whether all of it can be written down: JSON may name half of a character."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_of(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _parquet(path: Path, rule: SourceRule) -> Iterator[pa.Table]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, path, rule)
            for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=list(rule.source_columns)):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: expected a whole Parquet file: {' '.join(str(error).split())}") from None


def _query(source: Source, rule: SourceRule) -> Iterator[Block]:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    if rule.query is None:
        raise UsageError(f"{source.name}: expected a `query` in the mapping for a database, got none")
    try:
        engine = sqlalchemy.create_engine(str(source.place))
        try:
            with engine.connect().execution_options(stream_results=True) as connection:
                result = connection.execute(sqlalchemy.text(rule.query))
                _check_columns(tuple(result.keys()), source.name, rule)
                row = 1
                for rows in result.mappings().partitions(_BLOCK_ROWS):
                    table = pa.table({name: _as_array([one[name] for one in rows]) for name in rule.source_columns})
                    yield Block(table, np.arange(row, row + len(rows), dtype=np.int64))
                    row += len(rows)
        finally:
            engine.dispose()
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        # The message of a driver may hold a password or a row: never show more than its kind.
        raise UnavailableError(
            f"{source.name}: expected an answer of the database, got {type(error).__name__}; "
            "check the URL, the driver and the query"
        ) from None


def _as_array(values: list[object]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of several types, as SQLite allows
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _examine_query(source: Source, rule: SourceRule) -> str:
    hasher = hashlib.sha256(b"silhouette.query.v1")
    for block in _query(source, rule):
        for column in block.table.columns:
            hasher.update(json.dumps([str(value) for value in column.to_pylist()]).encode())
    return hasher.hexdigest()
