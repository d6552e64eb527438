from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silhouette_shared.supervision import Heart, heartbeat
from silhouette_shared.supervision import logs as module
from silhouette_shared.supervision.heartbeat import Beat, read_beat
from silhouette_shared.supervision.logs import JsonLines, LogFile, json_line

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


@given(st.text())
def test_every_line_becomes_one_json_object_or_nothing(text: str) -> None:
    line = json_line("superlink", text, NOON)
    assert "\n" not in line
    if line:
        assert isinstance(json.loads(line), dict)


def test_colours_of_other_programs_are_left_out() -> None:
    found = json.loads(json_line("supernode", "\x1b[92mINFO \x1b[0m:      Starting\n", NOON))
    assert found == {
        "time": "2026-11-26T12:00:00.000+00:00",
        "level": "info",
        "logger": "supernode",
        "message": "INFO :      Starting",
    }


def test_half_an_object_is_wrapped() -> None:
    assert json.loads(json_line("gate", '{"message": "cut', NOON))["message"] == '{"message": "cut'


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        record = logging.LogRecord("gate", logging.ERROR, "", 0, "it failed", (), (ValueError, error, None))
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError: wrong" in json.loads(line)["traceback"]


def test_a_file_that_is_full_is_rotated_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_A_FILE", 2000)
    file = LogFile(tmp_path / "gate.jsonl", "gate")
    for number in range(400):
        file.write(f"line {number}")
    file.close()
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["gate.jsonl", *(f"gate.jsonl.{number}" for number in range(1, module.FILES))]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "gate.jsonl").read_text().splitlines()[-1])["message"] == "line 399"


def test_a_heart_says_how_long_it_may_be_silent(tmp_path: Path) -> None:
    path = tmp_path / "agent.beat"
    assert read_beat(path) is None
    Heart(path).beat(patience=5.0)
    beat = read_beat(path)
    assert beat is not None
    assert beat.overdue(beat.at + 4.0) < 0 < beat.overdue(beat.at + 6.0)
    path.write_text("half of a be")
    assert read_beat(path) is None
    Heart(None).beat()


def test_a_beat_is_overdue_when_its_patience_is_over() -> None:
    assert Beat(at=100.0, patience=3.0).overdue(105.0) == 2.0


def read_after(path: Path, last: Beat | None, seconds: float) -> Beat | None:
    """The first sign of life that is another than the last one; None if there is none for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (found := read_beat(path)) is not None and found != last:
            return found
        time.sleep(0.005)
    return None


def beat_after(path: Path, last: Beat | None) -> Beat:
    found = read_after(path, last, seconds=60.0)
    assert found is not None
    return found


def test_a_heart_beats_while_something_is_worked_on_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_PULSE_SECONDS", 0.02)
    path = tmp_path / "agent.beat"
    with Heart(path).beating(longest=1.0):
        early = beat_after(path, None)
        later = silent = beat_after(path, early)
        while (another := read_after(path, silent, seconds=0.5)) is not None:
            assert another.at < early.at + 30.0, "it never falls silent"
            silent = another
    assert early.at < later.at <= silent.at < beat_after(path, silent).at
    assert 60.0 < early.patience < 300.0  # a process that is stopped as a whole is noticed so soon
