"""What the conductor makes of runs and of a SuperLink that fails, with a store and a SuperLink that a test plays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deployed import enrol

from silhouette_server.coordination.book import StopRequestedError
from silhouette_server.deployment import Conductor
from silhouette_server.processes.holders import supernode_pem
from silhouette_server.superlink import Door, LineLostError
from silhouette_shared.errors import IntegrityError, UnavailableError


class Store:
    """Runs by name with what is left to say about each."""

    def __init__(self, *names: str) -> None:
        self.open = list(names)
        self.told: list[tuple[str, str, str]] = []
        self.asked = 0

    def next_run(self) -> str | None:
        self.asked += 1
        return self.open[0] if self.open else None

    def started(self, run: str) -> None:
        self.told.append((run, "running", ""))

    def ended(self, run: str, state: str, reason: str) -> None:
        self.told.append((run, state, reason))
        self.open.remove(run)

    def stop_requested(self, run: str) -> bool:
        return False

    def book(self, *_: object) -> None:
        raise AssertionError("not reached")

    def beside(self, *_: object) -> None:
        raise AssertionError("not reached")

    def promoted(self) -> None:
        """Nothing is."""


class Link:
    """A SuperLink of which only the list of keys is asked."""

    def __init__(self) -> None:
        self.keys: list[set[bytes]] = []

    def enrol(self, keys: set[bytes]) -> None:
        self.keys.append(keys)

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def conducted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Store, Callable[[str], None]], Conductor]:
    """Serves until the store has no run left."""
    homes = enrol(tmp_path, {"north": 30, "south": 20, "west": 10})
    monkeypatch.setattr("silhouette_server.deployment._LOOK_SECONDS", 0.0)
    monkeypatch.setattr("silhouette_server.deployment._AGAIN_SECONDS", 0.0)

    def serve(store: Store, rounds: Callable[[str], None]) -> Conductor:
        link = Link()
        monkeypatch.setattr("silhouette_server.deployment.Superlink", lambda door: link)
        conductor = Conductor(homes.office, Door("", tmp_path, tmp_path), store)  # type: ignore[arg-type]
        monkeypatch.setattr(conductor, "_rounds", lambda run, superlink: rounds(run))
        stop = threading.Event()
        original = store.next_run

        def next_run() -> str | None:
            found = original()
            if found is None:
                stop.set()
            return found

        monkeypatch.setattr(store, "next_run", next_run)
        conductor.serve(stop)
        members = homes.office.roster().active.values()
        assert link.keys[0] == {supernode_pem(member.supernode_public) for member in members}
        return conductor

    return serve


def test_runs_are_taken_one_after_the_other_and_end_completed(conducted: Callable[..., Conductor]) -> None:
    store = Store("a", "b")
    conducted(store, lambda run: None)
    assert store.told == [
        ("a", "running", ""),
        ("a", "completed", ""),
        ("b", "running", ""),
        ("b", "completed", ""),
    ]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UnavailableError("3 rounds in a row are void"), "stopped", "3 rounds in a row are void"),
        (StopRequestedError("it was asked to stop"), "stopped", "it was asked to stop"),
        (IntegrityError("a damaged file"), "failed", "IntegrityError: a damaged file"),
    ],
)
def test_how_a_run_ends_says_what_can_be_done(
    conducted: Callable[..., Conductor], error: Exception, state: str, reason: str
) -> None:
    store = Store("a")

    def rounds(run: str) -> None:
        raise error

    conducted(store, rounds)
    assert store.told[-1] == ("a", state, reason)


def test_a_lost_line_to_the_nodes_ends_no_run(conducted: Callable[..., Conductor]) -> None:
    store = Store("a")
    failures = iter([LineLostError("the SuperLink gave it up"), LineLostError("the roster has changed")])

    def rounds(run: str) -> None:
        if (error := next(failures, None)) is not None:
            raise error

    conducted(store, rounds)
    assert [state for _, state, _ in store.told] == ["running", "running", "running", "completed"]


def test_an_unforeseen_error_fails_the_run_without_its_text_and_ends_the_process(
    conducted: Callable[..., Conductor],
) -> None:
    store = Store("a")

    def rounds(run: str) -> None:
        raise ZeroDivisionError("of user 17")

    with pytest.raises(ZeroDivisionError):
        conducted(store, rounds)
    assert store.told[-1] == ("a", "failed", "unexpected ZeroDivisionError; the log of serverapp says where")
