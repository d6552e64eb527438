"""Reading delimited text fast, and naming the line when something is wrong with it.

Columns are read as text at the speed of Arrow and checked as whole columns. Only when a check
fails is the offending row looked up, so that every refusal starts with `file:line:`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from silhouette_shared.errors import UsageError

_UNIT_SEPARATOR: Final = b"\x1f"
_INTEGER: Final = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER: Final = r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$"
_SHOWN: Final = 60  # characters of an unexpected value in an error
_IDENTIFIER: Final = r"^(0|[1-9][0-9]{0,17})$"


@dataclass(frozen=True)
class Rows:
    """The wanted columns of one file, still as text, with the line each row came from."""

    where: str
    first_line: int
    columns: Mapping[str, pa.StringArray]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    def refuse(self, row: int, reason: str) -> NoReturn:
        """Raise the `UsageError` for a row, counted from 0."""
        raise UsageError(f"{self.where}:{self.first_line + row}: {reason}")

    def refuse_where(self, bad: NDArray[np.bool_], column: str, expected: str, got: str | None = None) -> None:
        """Refuse the file if any row of `bad` is true.

        The message names the first bad value or, in its place, `got`: errors never show who or what an event is about.
        """
        if bad.any():
            row = int(bad.argmax())
            what = repr(self.columns[column][row].as_py()[:_SHOWN]) if got is None else got
            self.refuse(row, f"expected {expected} in column {column}, got {what}")

    def text(self, column: str) -> pd.Series:
        """Return a column as it is, surrounding white space removed; empty values are allowed."""
        return cast(pd.Series, pc.utf8_trim_whitespace(self.columns[column]).to_pandas())

    def identifiers(self, column: str) -> pd.Series:
        """Return a column of ids, which are whole numbers without leading zeros, as text."""
        self._match(column, _IDENTIFIER, "a whole number as id", "something else")
        return cast(pd.Series, self.columns[column].to_pandas())

    def integers(self, column: str, low: int, high: int, what: str) -> NDArray[np.int64]:
        """Return a column of whole numbers between `low` and `high`, both included."""
        self._match(column, _INTEGER, what)
        values = np.array(pc.cast(self.columns[column], pa.int64()), dtype=np.int64)
        self.refuse_where((values < low) | (values > high), column, f"{what} in {low}..{high}")
        return values

    def numbers(self, column: str, low: float, high: float, what: str) -> NDArray[np.float64]:
        """Return a column of plain decimal numbers between `low` and `high`, both included."""
        self._match(column, _NUMBER, what)
        values = np.array(pc.cast(self.columns[column], pa.float64()), dtype=np.float64)
        self.refuse_where((values < low) | (values > high), column, f"{what} in {low:g}..{high:g}")
        return values

    def mapped(self, column: str, words: Mapping[str, str]) -> pd.Series:
        """Replace every value by what `words` says; a value it does not know is refused."""
        values = self.columns[column].to_pandas()
        replaced = values.map(dict(words))
        self.refuse_where(replaced.isna().to_numpy(), column, f"one of {', '.join(words)}")
        return cast(pd.Series, replaced.astype(values.dtype))

    def known(self, column: str, values: pd.Series, where: str) -> None:
        """Refuse a value of `column` that does not occur in `values`, a column of file `where`."""
        # Arrow's own lookup: that of pandas' text columns walks through Python.
        found = pc.is_in(self.columns[column], value_set=pa.array(values, pa.string()))
        self.refuse_where(~np.asarray(found, dtype=bool), column, f"a value listed in {where}", "one that is not")

    def unique(self, column: str) -> None:
        """Refuse a value of `column` that occurs a second time."""
        again = self.columns[column].to_pandas().duplicated().to_numpy()
        self.refuse_where(again, column, "every value once", "one again")

    def _match(self, column: str, pattern: str, what: str, got: str | None = None) -> None:
        good = pc.match_substring_regex(self.columns[column], pattern)
        self.refuse_where(~np.asarray(good, dtype=bool), column, what, got)


def parse(
    data: bytes,
    where: str,
    columns: Sequence[str],
    *,
    separator: str,
    header: bool = False,
    encoding: str = "utf-8",
) -> Rows:
    """Read the named columns of a delimited file without quoting.

    A file with a header may have further columns, in any order. A file without one has exactly
    `columns`; those whose name starts with an underscore are skipped.

    Args:
        data: The whole file.
        where: What to call it in an error.
        columns: Names of the columns wanted (header) or present (no header).
        separator: One or more ASCII characters.
        header: Whether the first line holds names.
        encoding: `utf-8` or `latin-1`.

    Raises:
        UsageError: If the file is empty, ends inside a line, lacks a column, or a line has
            another number of fields or cannot be decoded.
    """
    if not data.strip():
        raise UsageError(f"{where}:1: expected a table, got an empty file")
    if not data.endswith(b"\n"):
        raise UsageError(
            f"{where}:{data.count(10) + 1}: the file ends inside a line; "
            "fetch it again, or add a line end if it is whole"
        )
    names = list(columns)
    if header:
        names = _header(data, where, columns, separator, encoding)
        if data.find(b"\n") == len(data) - 1:
            raise UsageError(f"{where}:2: expected rows after the header, got none")
    delimiter = separator
    body = data
    if len(separator) > 1:  # Arrow takes one character
        if _UNIT_SEPARATOR in data:
            _blame(data, where, names, separator, encoding)
        body, delimiter = data.replace(separator.encode(), _UNIT_SEPARATOR), "\x1f"
    wanted = [name for name in columns if not name.startswith("_")]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(body),
            read_options=pa_csv.ReadOptions(
                column_names=names, skip_rows=int(header), encoding=encoding, use_threads=False
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, quote_char=False, escape_char=False, ignore_empty_lines=False
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=wanted,
                strings_can_be_null=False,
                null_values=[],
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        _blame(data, where, names, separator, encoding)
    found = {name: table.column(name).combine_chunks() for name in wanted}
    return Rows(where, 2 if header else 1, found)


def _header(data: bytes, where: str, columns: Sequence[str], separator: str, encoding: str) -> list[str]:
    line = data[: data.find(b"\n")].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
    try:
        names = line.decode(encoding).split(separator)
    except UnicodeDecodeError:
        names = []
    missing = [name for name in columns if name not in names]
    if missing or len(set(names)) != len(names):
        # Without its header, the line would be somebody's event: it is not shown.
        got = f"none called {', '.join(missing)}" if missing else "one twice"
        raise UsageError(f"{where}:1: expected the columns {', '.join(columns)}, each once, got {got}")
    return names


def _blame(data: bytes, where: str, names: Sequence[str], separator: str, encoding: str) -> NoReturn:
    """Find the line that could not be read; slow, and only for a file that is refused."""
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            text = line.removesuffix(b"\r").decode(encoding)
        except UnicodeDecodeError as error:
            raise UsageError(f"{where}:{number}: expected {encoding} text ({error})") from None
        fields = text.count(separator) + 1
        if fields != len(names):
            raise UsageError(
                f"{where}:{number}: expected {len(names)} fields, got {fields}; the file may be cut or damaged"
            )
        if "\r" in text or "\x1f" in text:
            raise UsageError(f"{where}:{number}: expected plain text, got a control character")
    raise UsageError(f"{where}:1: expected a table of {len(names)} columns that can be read")
