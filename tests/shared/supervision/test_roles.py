"""How a program that a supervisor starts begins and ends."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from silhouette_shared.errors import UnavailableError
from silhouette_shared.supervision.roles import play


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)


def test_the_role_of_the_command_line_is_played_in_its_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played: list[tuple[str, Path]] = []
    roles = {name: (lambda home, name=name: played.append((name, home))) for name in ("gate", "serverapp")}
    monkeypatch.setattr(sys, "argv", ["processes", "gate", "--home", str(tmp_path)])
    assert play(roles) == 0
    assert played == [("gate", tmp_path)]


def test_an_error_of_ours_is_one_line_of_the_log_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(home: Path) -> None:
        raise UnavailableError("expected room, found none; free some")

    monkeypatch.setattr(sys, "argv", ["processes", "gate", "--home", str(tmp_path)])
    assert play({"gate": fail}) == 4
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["message"]) == ("error", "expected room, found none; free some")


def test_a_role_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["processes", "agent", "--home", "."])
    with pytest.raises(SystemExit) as ended:
        play({"gate": lambda home: None})
    assert ended.value.code == 2
    assert "invalid choice: 'agent'" in capsys.readouterr().err
