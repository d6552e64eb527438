"""`silhouette run` as somebody types it, on a registry whose rounds a test commits."""

from __future__ import annotations

import json
import threading
import time
from importlib import import_module
from pathlib import Path

import pytest
from tests.server.registry.house import OPEN, committed
from tests.server.registry.offices import enrolled, run_rounds

from silhouette_server.enrolment.office import Office
from silhouette_server.registry import Registry, RunState
from silhouette_server.registry.home import open_registry
from silhouette_shared.cli import main


class Desk:
    """A coordinator's home with one run under way, of which three rounds have ended."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys
        home.chmod(0o700)
        with open_registry(enrolled(home), write=True) as registry:
            self.run = run_rounds(registry, OPEN, 3, void=(2,))

    def registry(self) -> Registry:
        return open_registry(Office.of(self.home), write=True)

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a command printed, on standard output or, if it failed, everything."""
        found = main([*words, "--home", str(self.home)])
        captured = self._capsys.readouterr()
        assert found == code, captured.err
        return " ".join((captured.out if code == 0 else captured.out + captured.err).split())


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(import_module("silhouette_server.cli.run"), "_WATCH_SECONDS", 0.05)
    return Desk(tmp_path, capsys)


def test_a_run_is_shown_round_by_round_with_the_reason_of_a_void_one(desk: Desk) -> None:
    text = desk("run", "show", desk.run)
    assert f"running {desk.run} 2 committed, 1 void of {OPEN.training.rounds} rounds" in text
    assert "round 2 void" in text
    assert "west, mask: no answer; 2 of 3 answered, the threshold is 3" in text
    found = json.loads(desk("run", "show", desk.run, "--format", "json"))
    assert [one["state"] for one in found["history"]] == ["committed", "void", "committed"]
    assert json.loads(desk("run", "list", "--format", "json"))["runs"][0]["run"] == desk.run


def test_a_run_is_stopped_after_its_round_and_resumed_at_the_next(desk: Desk) -> None:
    assert desk("run", "stop", desk.run).startswith("stopping")
    with desk.registry() as registry:
        assert registry.run(desk.run).state is RunState.stopping
        registry.set_state(desk.run, RunState.stopped, "it was asked to stop")
    stopped = desk("run", "watch", desk.run, code=4)
    assert f"run {desk.run} stopped: it was asked to stop; go on with `silhouette run resume {desk.run}`" in stopped
    assert desk("run", "resume", desk.run).startswith("submitted")
    with desk.registry() as registry:
        registry.set_state(desk.run, RunState.running)
        committed(registry, desk.run, 4)
        registry.set_state(desk.run, RunState.completed)
    assert "round 4 committed" in desk("run", "watch", desk.run)


def test_a_run_is_watched_while_it_goes_on(desk: Desk) -> None:
    def go_on() -> None:
        with desk.registry() as registry:
            for number in (4, 5):
                time.sleep(0.2)
                committed(registry, desk.run, number)
            registry.set_state(desk.run, RunState.completed)

    other = threading.Thread(target=go_on)
    other.start()
    told = desk("run", "watch", desk.run, "--timeout", "60")
    other.join()
    places = [told.index(f"round {number} ") for number in range(1, 6)]
    assert places == sorted(places)
    assert told.index("completed") > places[-1]


def test_a_watch_that_takes_too_long_ends_with_4_and_an_unknown_run_with_2(desk: Desk) -> None:
    assert f"expected run {desk.run} to end within 0 s, it is running; watch it again" in desk(
        "run", "watch", desk.run, "--timeout", "0.1", code=4
    )
    assert f"expected the name of a run, got 'other'; the latest are: {desk.run}" in desk(
        "run", "show", "other", code=2
    )


def test_what_is_complete_is_neither_stopped_nor_resumed(desk: Desk) -> None:
    with desk.registry() as registry:
        registry.set_state(desk.run, RunState.completed)
    for verb in ("stop", "resume"):
        assert "completed" in desk("run", verb, desk.run, code=3)
    with desk.registry() as registry:
        assert registry.run(desk.run).state is RunState.completed
