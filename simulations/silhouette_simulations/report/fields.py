"""Typed access to one JSON document or one CSV file of a run folder.

What is missing is bad input (`UsageError`), what is there and does not fit is damage
(`IntegrityError`); both start with the path.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from silhouette_shared.errors import IntegrityError, UsageError


@dataclass(frozen=True)
class Fields:
    """Named values and the place they come from, for error messages.

    `place` is a path, or a path with a line.
    """

    place: str
    values: Mapping[str, object]

    def text(self, name: str, default: str | None = None) -> str:
        """A text; `default` stands in for an absent or empty one.

        Raises:
            IntegrityError: If there is none and no default, or it is no text.
        """
        value = self.values.get(name)
        if value is None or value == "":
            if default is None:
                raise self._damage(name, "a text", value)
            return default
        if not isinstance(value, str):
            raise self._damage(name, "a text", value)
        return value

    def number(self, name: str) -> float:
        """A finite number.

        Raises:
            IntegrityError: If there is none, or it is something else.
        """
        value = self.optional_number(name)
        if value is None:
            raise self._damage(name, "a number", self.values.get(name))
        return value

    def optional_number(self, name: str) -> float | None:
        """A finite number, or None where there is none: absent, empty, null or NaN.

        Raises:
            IntegrityError: If it is no number, or infinite.
        """
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._damage(name, "a number", value)
        try:
            number = float(value)
        except ValueError:
            raise self._damage(name, "a number", value) from None
        if math.isnan(number):
            return None
        if math.isinf(number):
            raise self._damage(name, "a finite number", value)
        return number

    def count(self, name: str) -> int:
        """A whole number, 0 or more.

        Raises:
            IntegrityError: If there is none, or it is something else.
        """
        number = self.number(name)
        if number < 0 or number != int(number):
            raise self._damage(name, "a whole number, 0 or more", self.values.get(name))
        return int(number)

    def optional_count(self, name: str) -> int | None:
        """A whole number, 0 or more, or None where there is none."""
        return None if self.optional_number(name) is None else self.count(name)

    def flag(self, name: str) -> bool:
        """True or false, as JSON or in a CSV file's words.

        Raises:
            IntegrityError: If it is neither.
        """
        value = self.values.get(name)
        word = str(value).lower()
        if word in ("true", "1"):
            return True
        if word in ("false", "0"):
            return False
        raise self._damage(name, "true or false", value)

    def fields(self, name: str) -> Fields:
        """A table of its own; an absent one or null is empty.

        Raises:
            IntegrityError: If it is something else.
        """
        value = self.values.get(name)
        if value is None:
            return Fields(self.place, {})
        if not isinstance(value, dict):
            raise self._damage(name, "a table", value)
        return Fields(f"{self.place}: {name}", cast("dict[str, object]", value))

    def list(self, name: str) -> tuple[Fields, ...]:
        """The tables of a list; an absent one or null is empty.

        Raises:
            IntegrityError: If it is something else.
        """
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self._damage(name, "a list of tables", value)
        return tuple(
            Fields(f"{self.place}: {name}[{number}]", cast("dict[str, object]", entry))
            for number, entry in enumerate(value)
        )

    def _damage(self, name: str, expected: str, got: object) -> IntegrityError:
        shown = "nothing" if got is None or got == "" else repr(got)[:60]
        return IntegrityError(f"{self.place}: expected {expected} as {name}, got {shown}; run the simulation again")


def read_text(path: Path) -> str:
    """The UTF-8 text of a file of a run folder.

    Raises:
        UsageError: If it is missing or may not be read.
        IntegrityError: If it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise missing(path) from None
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{path}: expected UTF-8 text, got other bytes at {error.start}; run the simulation again"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; check the path") from None


def missing(path: Path) -> UsageError:
    """The error for a file that a run folder lacks."""
    return UsageError(
        f"{path}: expected this file of a run folder, found none; give the folder of a run, "
        "or go on with an unfinished one by `silhouette sim run --resume`"
    )


def read_json(path: Path) -> Fields:
    """The table that a JSON file holds.

    Raises:
        UsageError: If the file is missing.
        IntegrityError: If it holds no JSON table.
    """
    text = read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise IntegrityError(
            f"{path}:{error.lineno}: expected JSON, got something that does not parse "
            f"({error.msg}); run the simulation again"
        ) from None
    if not isinstance(document, dict):
        raise IntegrityError(f"{path}: expected a JSON table, got {type(document).__name__}")
    return Fields(str(path), document)


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Fields]:
    """The lines of a CSV file with a header; columns beyond `columns` are kept.

    Raises:
        UsageError: If the file is missing.
        IntegrityError: If a column is missing, or a line has more or fewer fields than the header.
    """
    reader = csv.reader(read_text(path).splitlines())
    header = next(reader, None)
    if header is None:
        raise IntegrityError(f"{path}: expected a header line, got an empty file")
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise IntegrityError(
            f"{path}:1: expected the columns {', '.join(lacking)} as well, got "
            f"{', '.join(header)}; run the simulation again"
        )
    for line in reader:
        if len(line) != len(header):
            raise IntegrityError(
                f"{path}:{reader.line_num}: expected {len(header)} fields, got {len(line)}; "
                "the file is cut or damaged, run the simulation again"
            )
        yield Fields(f"{path}:{reader.line_num}", dict(zip(header, line, strict=True)))
