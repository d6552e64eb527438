"""The registry as the conductor of a deployment uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.server.registry.house import LAYOUT, OPEN, opened, vector

from silhouette_server.coordination.book import Commitment, StopRequestedError
from silhouette_server.coordination.federation import RoundRecord
from silhouette_server.registry import RunState
from silhouette_server.run_store import RegistryBook, RegistryStore

STEPS: tuple[dict[str, float | int | str], ...] = (
    {"step": "mask", "seconds": 1.0, "sent": 70, "received": 40},
    {"step": "agree", "sent": 7, "received": 4},
)


def test_a_round_is_committed_with_what_it_took_and_who_was_in_it(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = registry.submit(OPEN).name
        store = RegistryStore(registry)
        assert store.next_run() == run
        store.started(run)
        book = RegistryBook(registry, run, LAYOUT, lambda: None)
        book.begin(1)
        record = RoundRecord(round=1, replies=2, refused=1, update_norm=0.5, seconds=3.0, steps=STEPS)
        book.commit(Commitment(record, vector(1), b"transcript", ("north", "south")))
        commitment = registry.run(run).rounds[1].commitment
        assert commitment is not None
        assert (commitment.sent, commitment.received, commitment.seconds) == (77, 44, 3.0)
        assert commitment.survivors == ("north", "south")
        assert commitment.metrics == {"update_norm": 0.5, "partners": 2.0}
        assert sorted(registry.contacts()) == ["north", "south"]
        store.ended(run, "completed", "")
        assert store.next_run() is None


def test_a_run_that_is_to_stop_begins_no_round(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = registry.submit(OPEN).name
        RegistryStore(registry).started(run)
        book = RegistryBook(registry, run, LAYOUT, lambda: None)
        book.begin(1)
        book.void(1, "west did not answer")
        registry.request_stop(run)
        with pytest.raises(StopRequestedError, match="go on with `silhouette run resume`"):
            book.begin(2)
        assert (book.last_begun(), book.unfinished()) == (1, ())
        RegistryStore(registry).ended(run, "stopped", "it was asked to stop")
        assert registry.run(run).state is RunState.stopped
