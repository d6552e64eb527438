"""Why a row is in the quarantine, in words that hold nothing of the row."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One reason a row; a row with several gets that of the first column in canonical order."""

    WRONG_COLUMNS = "wrong number of columns"
    NOT_A_RECORD = "not a JSON object"
    MISSING = "missing value"
    TOO_LONG = "longer than 256 bytes"
    NOT_TEXT = "not text"
    UNKNOWN_WORD = "word without a meaning in the mapping"
    NOT_A_TIME = "not a time in the mapping's format"
    NO_SUCH_LOCAL_TIME = "local time skipped by summer time"
    UNKNOWN_ZONE = "unknown time zone"
    TOO_EARLY = "time too early"
    TOO_LATE = "time in the future or too late"
    NOT_A_NUMBER = "not a number"
    OUT_OF_RANGE = "number out of range"


CODES = tuple(Reason)
"""Reasons by number minus one; 0 in an array of codes is a good value."""


def code(reason: Reason) -> int:
    """The number of a reason in an array of codes, from 1."""
    return CODES.index(reason) + 1
