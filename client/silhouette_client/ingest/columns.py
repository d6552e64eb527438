"""One column of a source to one canonical column: text, times, numbers and truth values, a block of rows at a time.

Every function returns the values and, row by row, the code of what is wrong (`reasons.code`, 0 for nothing). Good rows
never pass through Python one by one; text is worked on once for each distinct word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silhouette_client.ingest.mapping import ISO, ColumnRule, check_zone
from silhouette_client.ingest.reasons import Reason, code

LONGEST = 256
"""Bytes of an identifier or a class; free text may be longer."""

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_WHOLE = r"^[+-]?\d{1,18}$"
_ISO = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?)?"
    r"(Z|[+-]\d\d:?\d\d)?$"
)
_OFFSET = r"(Z|[+-]\d\d:?\d\d)$"
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_LARGEST_WHOLE = float(2**62)


@dataclass(frozen=True)
class Parsed:
    """Canonical values with what is wrong with each.

    A bad row's value means nothing.
    """

    values: pa.Array
    codes: NDArray[np.int8]
    ignored: NDArray[np.bool_] | None = None


def words(
    raw: pa.Array, rule: ColumnRule, *, nullable: bool, classes: tuple[str, ...] = (), free: bool = False
) -> Parsed:
    """Text: trimmed, missing words to null, words mapped; the result is dictionary-encoded, each word once.

    Args:
        raw: Any type.
        rule: Of the column.
        nullable: Whether a value may be missing.
        classes: The only words allowed, if any.
        free: Whether the text may be of any length.
    """
    codes = np.zeros(len(raw), np.int8)
    text = _as_text(raw)
    if text is None:
        return Parsed(_no_words(len(raw)), np.full(len(raw), code(Reason.NOT_TEXT), np.int8))
    encoded = text.dictionary_encode()
    distinct = _trimmed(encoded.dictionary, rule)
    ignored = None
    if rule.ignore:
        flags = pc.is_in(distinct, value_set=pa.array(rule.ignore, pa.string()))
        ignored = _of_rows(flags, encoded.indices)
    if rule.values:
        distinct = _renamed(distinct, rule.values)
    if not free:
        codes[_of_rows(pc.greater(pc.binary_length(distinct), LONGEST), encoded.indices)] = code(Reason.TOO_LONG)
    allowed = classes or (tuple(rule.values.values()) if rule.values else ())
    if allowed:
        strange = pc.and_(
            pc.is_valid(distinct), pc.invert(pc.is_in(distinct, value_set=pa.array(allowed, pa.string())))
        )
        codes[_of_rows(strange, encoded.indices)] = code(Reason.UNKNOWN_WORD)
    again = distinct.dictionary_encode()  # trimming and mapping make words equal
    values = pa.DictionaryArray.from_arrays(again.indices.take(encoded.indices), again.dictionary)
    if not nullable and values.null_count:
        codes[pc.is_null(values).to_numpy(zero_copy_only=False)] = code(Reason.MISSING)
    return Parsed(values, codes, ignored)


def truths(raw: pa.Array, rule: ColumnRule) -> Parsed:
    """True or false, in the words true, 1, yes, false, 0, no of any case, or in those that `values` maps to them."""
    parsed = words(raw, rule, nullable=False)
    meant = [_TRUTH.get(word.lower()) for word in parsed.values.dictionary.to_pylist()]
    codes = parsed.codes.copy()
    strange = _of_rows(pa.array([one is None for one in meant], pa.bool_()), parsed.values.indices)
    codes[strange & (codes == 0)] = code(Reason.UNKNOWN_WORD)
    return Parsed(pa.array(meant, pa.bool_()).take(parsed.values.indices), codes)


def numbers(raw: pa.Array, rule: ColumnRule, *, nullable: bool, low: float | None) -> Parsed:
    """Finite numbers, scaled, between the limits of the rule and not below `low`, as float64."""
    codes = np.zeros(len(raw), np.int8)
    if pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type) or pa.types.is_decimal(raw.type):
        values = raw.cast(pa.float64(), safe=False)
    else:
        text = _as_text(raw)
        if text is None:
            return Parsed(_no_numbers(len(raw)), np.full(len(raw), code(Reason.NOT_A_NUMBER), np.int8))
        encoded = text.dictionary_encode()
        distinct = _trimmed(encoded.dictionary, rule)
        if rule.decimal == ",":
            distinct = pc.replace_substring(distinct, ",", ".")
        strange = pc.fill_null(pc.invert(pc.match_substring_regex(distinct, _NUMBER)), False)
        codes[_of_rows(strange, encoded.indices)] = code(Reason.NOT_A_NUMBER)
        distinct = pc.if_else(strange, pa.scalar(None, distinct.type), distinct)
        values = distinct.cast(pa.float64()).take(encoded.indices)
    if rule.scale != 1.0:
        values = pc.multiply(values, rule.scale)
    if not nullable:
        codes[(codes == 0) & pc.is_null(values).to_numpy(zero_copy_only=False)] = code(Reason.MISSING)
    given = values.to_numpy(zero_copy_only=False)
    missing = pc.is_null(values).to_numpy(zero_copy_only=False)
    limits = [limit for limit in (low, rule.low) if limit is not None]
    outside = ~np.isfinite(given)
    if limits:
        outside |= given < max(limits)
    if rule.high is not None:
        outside |= given > rule.high
    codes[outside & ~missing & (codes == 0)] = code(Reason.OUT_OF_RANGE)
    return Parsed(values, codes)


def times(raw: pa.Array, rule: ColumnRule, zones: pa.Array | None, *, low: float, high: float) -> Parsed:
    """Points in time as whole UTC seconds, int64.

    A local time that the clock shows twice, in autumn, is the earlier one; one that it skips, in spring, is bad.

    Args:
        raw: Text, numbers, dates or timestamps.
        rule: With format or unit, and the zone.
        zones: Name of the zone of each row, if the rule has a `zone_column`.
        low: Earliest allowed, UTC seconds.
        high: Latest allowed, UTC seconds.
    """
    codes = np.zeros(len(raw), np.int8)
    if pa.types.is_timestamp(raw.type) or pa.types.is_date(raw.type):
        naive, seconds = _of_timestamps(raw)
    elif rule.unit is not None or pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type):
        naive, seconds = False, _of_numbers(raw, rule)
    else:
        naive, seconds = _of_text(raw, rule)
    codes[pc.is_null(seconds).to_numpy(zero_copy_only=False)] = code(Reason.NOT_A_TIME)
    codes[_is_missing(raw, rule)] = code(Reason.MISSING)
    if naive and rule.is_local:
        seconds = _localised(seconds, rule, zones, codes)
    values = pc.fill_null(seconds, 0)
    given = values.to_numpy(zero_copy_only=False)
    good = codes == 0
    codes[good & (given < max(low, rule.low if rule.low is not None else low))] = code(Reason.TOO_EARLY)
    codes[good & (given > min(high, rule.high if rule.high is not None else high))] = code(Reason.TOO_LATE)
    return Parsed(values, codes)


def _of_timestamps(raw: pa.Array) -> tuple[bool, pa.Array]:
    naive = pa.types.is_date(raw.type) or raw.type.tz is None
    stamps = raw.cast(pa.timestamp("us", None if naive else raw.type.tz), safe=False)
    micros = stamps.cast(pa.int64())
    return naive, _floored(micros, 1_000_000)


def _of_numbers(raw: pa.Array, rule: ColumnRule) -> pa.Array:
    per_second = _PER_SECOND[rule.unit or "s"]
    if pa.types.is_integer(raw.type):
        return _floored(raw.cast(pa.int64(), safe=False), per_second)
    if pa.types.is_floating(raw.type):
        usable = pc.and_(pc.is_finite(raw), pc.less(pc.abs(raw), _LARGEST_WHOLE))
        kept = pc.if_else(usable, raw, pa.scalar(None, raw.type))
        return pc.floor(pc.divide(kept.cast(pa.float64()), float(per_second))).cast(pa.int64())
    text = _as_text(raw)
    if text is None:
        return pa.nulls(len(raw), pa.int64())
    try:
        whole = text.cast(pa.int64())  # nearly always
    except pa.ArrowInvalid:
        text = pc.utf8_trim_whitespace(text)
        shaped = pc.match_substring_regex(text, _WHOLE)
        whole = pc.if_else(shaped, text, pa.scalar(None, text.type)).cast(pa.int64())
    return _floored(whole, per_second)


def _of_text(raw: pa.Array, rule: ColumnRule) -> tuple[bool, pa.Array]:
    """Seconds of times written as text; those with an offset of their own are UTC, which `naive` denies."""
    text = _as_text(raw)
    if text is None:
        return False, pa.nulls(len(raw), pa.int64())
    text = pc.utf8_trim_whitespace(text)
    if rule.format is not None and rule.format != ISO:
        return True, _by_format(text, rule.format)
    shaped = pc.match_substring_regex(text, _ISO)
    text = pc.if_else(shaped, text, pa.scalar(None, text.type))
    if rule.is_local:  # an offset would contradict the zone
        return True, _by_iso(text, zoned=False)
    offset = pc.fill_null(pc.match_substring_regex(text, _OFFSET), False)
    # A date alone ends like an offset.
    offset = pc.and_(offset, pc.fill_null(pc.greater(pc.utf8_length(text), 10), False))
    zoned = _by_iso(pc.if_else(offset, text, pa.scalar(None, text.type)), zoned=True)
    plain = _by_iso(pc.if_else(offset, pa.scalar(None, text.type), text), zoned=False)
    return False, pc.coalesce(zoned, plain)


def _by_iso(text: pa.Array, *, zoned: bool) -> pa.Array:
    stamps = _cast_what_can_be(text, pa.timestamp("us", "UTC" if zoned else None))
    return _floored(stamps.cast(pa.int64()), 1_000_000)


def _cast_what_can_be(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast; what cannot be cast becomes null. Halves until the bad ones stand alone."""
    try:
        return text.cast(kind)
    except pa.ArrowInvalid:
        if len(text) == 1:
            return pa.nulls(1, kind)
        middle = len(text) // 2
        return pa.concat_arrays([_cast_what_can_be(text[:middle], kind), _cast_what_can_be(text[middle:], kind)])


def _by_format(text: pa.Array, format_: str) -> pa.Array:
    stamps = pc.strptime(text, format=format_, unit="s", error_is_null=True)
    # Arrow takes 30 February for 1 March and second 60 for the next minute: look at what may have rolled over.
    doubtful = pc.or_(pc.less_equal(pc.day(stamps), 3), pc.equal(pc.second(stamps), 0))
    rows = np.flatnonzero(pc.fill_null(doubtful, False).to_numpy(zero_copy_only=False))
    seconds = stamps.cast(pa.int64())
    if not len(rows):
        return seconds
    written = text.take(pa.array(rows))
    again = pc.strftime(stamps.take(pa.array(rows)), format=format_)
    other = rows[pc.not_equal(written, again).to_numpy(zero_copy_only=False)]
    if not len(other):
        return seconds
    bad = np.zeros(len(text), np.bool_)
    bad[[row for row in other if not _is_time(text[row].as_py(), format_)]] = True
    return pc.if_else(pa.array(bad), pa.scalar(None, pa.int64()), seconds)


def _is_time(written: str, format_: str) -> bool:
    try:
        datetime.strptime(written, format_)  # noqa: DTZ007 - only whether it is one
    except ValueError:
        return False
    return True


def _localised(seconds: pa.Array, rule: ColumnRule, zones: pa.Array | None, codes: NDArray[np.int8]) -> pa.Array:
    if zones is None or rule.zone is not None:
        if rule.zone is None:
            raise ValueError("expected a zone, or the zone of each row")
        return _in_zone(seconds, rule.zone, codes, np.arange(len(seconds)))
    text = _as_text(zones)
    if text is None:
        codes[codes == 0] = code(Reason.UNKNOWN_ZONE)
        return seconds
    encoded = pc.utf8_trim_whitespace(text).dictionary_encode()
    numbers_ = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    result = pc.fill_null(seconds, 0).to_numpy(zero_copy_only=False).copy()
    codes[(numbers_ < 0) & (codes == 0)] = code(Reason.UNKNOWN_ZONE)
    for number, zone in enumerate(encoded.dictionary.to_pylist()):
        rows = np.flatnonzero(numbers_ == number)
        try:
            check_zone(zone)
        except ValueError:
            codes[rows[codes[rows] == 0]] = code(Reason.UNKNOWN_ZONE)
            continue
        own = _in_zone(seconds.take(pa.array(rows)), zone, codes, rows)
        result[rows] = pc.fill_null(own, 0).to_numpy(zero_copy_only=False)
    return pa.array(result)


def _in_zone(seconds: pa.Array, zone: str, codes: NDArray[np.int8], rows: NDArray[np.int64]) -> pa.Array:
    local = seconds.cast(pa.timestamp("s"))
    try:
        return pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="raise").cast(pa.int64())
    except pa.ArrowInvalid:
        early = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest")
        late = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest")
        skipped = pc.fill_null(pc.not_equal(early, late), False).to_numpy(zero_copy_only=False)
        own = rows[skipped]
        codes[own[codes[own] == 0]] = code(Reason.NO_SUCH_LOCAL_TIME)
        return early.cast(pa.int64())


def _is_missing(raw: pa.Array, rule: ColumnRule) -> NDArray[np.bool_]:
    missing = pc.is_null(raw)
    if pa.types.is_string(raw.type) or pa.types.is_large_string(raw.type):
        trimmed = raw if not missing.true_count and "" not in rule.missing else pc.utf8_trim_whitespace(raw)
        missing = pc.or_(missing, pc.is_in(trimmed, value_set=pa.array(rule.missing, raw.type)))
    return np.asarray(missing.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _floored(whole: pa.Array, per_second: int) -> pa.Array:
    if per_second == 1:
        return whole
    # Arrow's integer division rounds towards zero, and a time before 1970 belongs to the second before.
    given = pc.fill_null(whole, 0).to_numpy(zero_copy_only=False) // per_second
    return pa.array(given, mask=pc.is_null(whole).to_numpy(zero_copy_only=False))


def _as_text(raw: pa.Array) -> pa.Array | None:
    """The column as strings, or None if its type has no plain text."""
    if pa.types.is_string(raw.type):
        return raw
    if pa.types.is_dictionary(raw.type):
        return _as_text(raw.dictionary_decode())
    simple = (
        pa.types.is_large_string(raw.type)
        or pa.types.is_integer(raw.type)
        or pa.types.is_boolean(raw.type)
        or pa.types.is_null(raw.type)
        or pa.types.is_floating(raw.type)
        or pa.types.is_decimal(raw.type)
        or str(raw.type) == "string_view"
    )
    return raw.cast(pa.string()) if simple else None


def _trimmed(distinct: pa.Array, rule: ColumnRule) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(distinct)
    missing = pc.is_in(trimmed, value_set=pa.array(rule.missing, trimmed.type))
    return pc.if_else(missing, pa.scalar(None, trimmed.type), trimmed)


def _renamed(distinct: pa.Array, names: dict[str, str]) -> pa.Array:
    place = pc.index_in(distinct, value_set=pa.array(names.keys(), pa.string()))
    return pc.coalesce(pa.array(names.values(), pa.string()).take(place), distinct)


def _of_rows(flags: pa.Array, indices: pa.Array) -> NDArray[np.bool_]:
    """Flags of distinct words spread over the rows; a missing word has none."""
    spread = pc.fill_null(flags.take(indices), False)
    return np.asarray(spread.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _no_words(count: int) -> pa.DictionaryArray:
    return pa.nulls(count, pa.string()).dictionary_encode()


def _no_numbers(count: int) -> pa.Array:
    return pa.nulls(count, pa.float64())


def is_number(text: str) -> bool:
    """Whether a word reads as a finite number."""
    return re.match(_NUMBER, text) is not None
