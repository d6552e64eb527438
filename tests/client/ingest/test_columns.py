"""Single columns: what is read from them, against Python's own clock, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from silhouette_client.ingest.columns import numbers, times, truths, words
from silhouette_client.ingest.identity import identities
from silhouette_client.ingest.mapping import ColumnRule
from silhouette_client.ingest.reasons import CODES, Reason

FOREVER = {"low": -1e18, "high": 1e18}
GERMAN = "%d.%m.%Y %H:%M:%S"
NAMES = [16242463475465784624, 4413427689939124394, 3149734472677700572]


def rule(**options: object) -> ColumnRule:
    return ColumnRule(column="x", **options)  # type: ignore[arg-type]


def read_time(written: object, row_zone: str | None = None, **options: object) -> int | Reason:
    array = pa.array([written])
    zones = None if row_zone is None else pa.array([row_zone])
    parsed = times(array, rule(**options), zones, **FOREVER)
    number = int(parsed.codes[0])
    return CODES[number - 1] if number else int(parsed.values[0].as_py())


def utc(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("written", "options", "expected"),
    [
        ("2024-03-01T10:00:00Z", {}, utc(2024, 3, 1, 10)),
        ("2024-03-01 10:00:00.999+02:00", {}, utc(2024, 3, 1, 8)),
        ("2024-03-01T10:00", {}, utc(2024, 3, 1, 10)),
        (" 2024-03-01 ", {}, utc(2024, 3, 1)),
        ("2024-03-01 10:00:00", {"zone": "Asia/Tokyo"}, utc(2024, 3, 1, 1)),
        ("2024-03-01T10:00:00Z", {"zone": "Asia/Tokyo"}, Reason.NOT_A_TIME),  # two zones contradict each other
        ("29.02.2024 23:59:59", {"format": GERMAN}, utc(2024, 2, 29, 23, 59, 59)),
        ("1.3.2024 1:02:03", {"format": GERMAN}, utc(2024, 3, 1, 1, 2, 3)),
        ("29.02.2023 23:59:59", {"format": GERMAN}, Reason.NOT_A_TIME),
        ("31.04.2024 00:00:00", {"format": GERMAN}, Reason.NOT_A_TIME),
        ("01.03.2024 10:00:60", {"format": GERMAN}, Reason.NOT_A_TIME),
        ("01.03.2024 24:00:00", {"format": GERMAN}, Reason.NOT_A_TIME),
        ("01.03.2024", {"format": GERMAN}, Reason.NOT_A_TIME),
        ("2024-02-30T00:00:00Z", {}, Reason.NOT_A_TIME),
        ("yesterday", {}, Reason.NOT_A_TIME),
        ("", {}, Reason.MISSING),
        (None, {}, Reason.MISSING),
        ("1700000000", {"unit": "s"}, 1_700_000_000),
        ("1700000000999", {"unit": "ms"}, 1_700_000_000),
        ("-1", {"unit": "ms"}, -1),
        ("17e8", {"unit": "s"}, Reason.NOT_A_TIME),
        (1_700_000_000_999, {"unit": "ms"}, 1_700_000_000),
        (1_700_000_000.75, {}, 1_700_000_000),
        (float("inf"), {}, Reason.NOT_A_TIME),
        (datetime(2024, 3, 1, 10), {"zone": "Asia/Tokyo"}, utc(2024, 3, 1, 1)),  # noqa: DTZ001
        (datetime(2024, 3, 1, 10, tzinfo=UTC), {"zone": "Asia/Tokyo"}, utc(2024, 3, 1, 10)),
        ("31.03.2024 02:30:00", {"format": GERMAN, "zone": "Europe/Berlin"}, Reason.NO_SUCH_LOCAL_TIME),
        ("27.10.2024 02:30:00", {"format": GERMAN, "zone": "Europe/Berlin"}, utc(2024, 10, 27, 0, 30)),  # the earlier
    ],
)
def test_a_time_is_read_or_refused(written: object, options: dict[str, Any], expected: int | Reason) -> None:
    assert read_time(written, **options) == expected


# A starved machine draws slowly, which says nothing about the code.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    moment=st.datetimes(datetime(1971, 1, 1), datetime(2037, 12, 31)),  # noqa: DTZ001
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
)
@example(datetime(2024, 3, 10, 2, 30), "America/New_York")  # noqa: DTZ001 - skipped there
def test_local_times_are_what_the_clock_of_python_says(moment: datetime, zone: str) -> None:
    moment = moment.replace(microsecond=0)
    aware = moment.replace(tzinfo=ZoneInfo(zone))
    exists = aware.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == moment
    expected = int(aware.timestamp()) if exists else Reason.NO_SUCH_LOCAL_TIME
    assert read_time(moment.strftime(GERMAN), format=GERMAN, zone=zone) == expected
    assert read_time(moment.isoformat(), zone, zone_column="z") == expected


@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2037, 12, 31)), max_size=30), st.data())  # noqa: DTZ001
def test_a_bad_time_spoils_no_other(moments: list[datetime], data: st.DataObject) -> None:
    written: list[str | None] = [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in moments]
    bad = data.draw(st.sets(st.integers(0, max(0, len(written) - 1)))) if written else set()
    for row in bad:
        written[row] = data.draw(st.sampled_from(["2024-13-01T00:00:00Z", "nothing", None]))
    parsed = times(pa.array(written, pa.string()), rule(), None, **FOREVER)
    assert set(np.flatnonzero(parsed.codes).tolist()) == bad
    for row, moment in enumerate(moments):
        if row not in bad:
            seconds = (moment.replace(microsecond=0) - datetime(1970, 1, 1)) // timedelta(seconds=1)  # noqa: DTZ001
            assert parsed.values[row].as_py() == seconds


def test_a_zone_of_each_row_may_be_unknown() -> None:
    array, zones = pa.array(["2024-03-01"] * 4), pa.array(["Asia/Tokyo", "Middle/Earth", None, "UTC"])
    parsed = times(array, rule(zone_column="z"), zones, **FOREVER)
    codes = [CODES[number - 1] if number else None for number in parsed.codes]
    assert codes == [None, Reason.UNKNOWN_ZONE, Reason.UNKNOWN_ZONE, None]
    assert parsed.values[0].as_py() == utc(2024, 2, 29, 15)


@pytest.mark.parametrize(
    ("written", "options", "expected"),
    [
        ("3.5", {}, 3.5),
        ("3,5", {"decimal": ","}, 3.5),
        ("350", {"scale": 0.01}, 3.5),
        ("1e2", {}, 100.0),
        (" ", {}, None),
        ("n/a", {"missing": ("n/a",)}, None),
        ("3,5", {}, Reason.NOT_A_NUMBER),
        ("nan", {}, Reason.NOT_A_NUMBER),
        ("inf", {}, Reason.NOT_A_NUMBER),
        ("0x10", {}, Reason.NOT_A_NUMBER),
        ("1e999", {}, Reason.OUT_OF_RANGE),
        ("-1", {"low": 0.0}, Reason.OUT_OF_RANGE),
        ("11", {"high": 10.0}, Reason.OUT_OF_RANGE),
        (7, {}, 7.0),
        (float("nan"), {}, Reason.OUT_OF_RANGE),
    ],
)
def test_a_number_is_read_or_refused(written: object, options: dict[str, object], expected: object) -> None:
    parsed = numbers(pa.array([written]), rule(**options), nullable=True, low=None)
    number = int(parsed.codes[0])
    assert (CODES[number - 1] if number else parsed.values[0].as_py()) == expected


def test_words_are_trimmed_mapped_and_checked() -> None:
    array = pa.array([" kauf", "view", "ping", "zap", "", None, "x" * 300])
    meaning = rule(values={"kauf": "purchase"}, ignore=("ping",))
    parsed = words(array, meaning, nullable=False, classes=("view", "purchase"))
    assert parsed.values.to_pylist()[:2] == ["purchase", "view"]
    codes = [CODES[number - 1] if number else None for number in parsed.codes]
    missing, unknown = Reason.MISSING, Reason.UNKNOWN_WORD
    assert codes == [None, None, unknown, unknown, missing, missing, unknown]
    assert parsed.ignored is not None
    assert parsed.ignored.tolist() == [False, False, True, False, False, False, False]
    free = words(array, rule(), nullable=True)
    assert CODES[int(free.codes[6]) - 1] is Reason.TOO_LONG
    assert CODES[int(words(pa.array([[1]]), rule(), nullable=True).codes[0]) - 1] is Reason.NOT_TEXT


def test_truth_has_few_words() -> None:
    parsed = truths(pa.array(["True", "0", "maybe", ""]), rule())
    assert parsed.values.to_pylist()[:2] == [True, False]
    codes = [CODES[number - 1] if number else None for number in parsed.codes]
    assert codes == [None, None, Reason.UNKNOWN_WORD, Reason.MISSING]


def test_a_row_keeps_its_name_for_ever() -> None:
    table = pa.table(
        {
            "user": pa.array(["u1", "u2", None]).dictionary_encode(),
            "timestamp": pa.array([7, 8, 9]),
            "value": pa.array([0.0, -0.0, None]),
        }
    )
    assert identities(table).tolist() == NAMES


def test_a_name_depends_on_the_words_and_not_on_how_they_are_numbered() -> None:
    one = pa.table({"user": pa.array(["a", "b", "a"]).dictionary_encode()})
    other = pa.table({"user": pa.array(["b", "a", "b", "a"]).dictionary_encode()})
    first, second = identities(one), identities(other)
    assert first[0] == first[2] == second[1]
    assert first[1] == second[0] != first[0]


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(-5, 5), st.floats(-2, 2) | st.none()), max_size=40))
def test_rows_have_equal_names_exactly_if_they_are_equal(rows: list[tuple[str, int, float | None]]) -> None:
    table = pa.table(
        {
            "user": pa.array([row[0] for row in rows], pa.string()).dictionary_encode(),
            "timestamp": pa.array([row[1] for row in rows], pa.int64()),
            "value": pa.array([row[2] for row in rows], pa.float64()),
        }
    )
    names = identities(table).tolist()
    for row, name in zip(rows, names, strict=True):
        for other, its in zip(rows, names, strict=True):
            assert (row == other) == (name == its)
