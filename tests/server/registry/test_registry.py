"""The registry as its users see it: runs, rounds, models, and what is kept across processes and versions."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.server.registry.house import (
    IDENTITY,
    LAYOUT,
    OPEN,
    OTHER,
    PRIVATE,
    Clock,
    committed,
    opened,
    place,
    started,
    vector,
)

from silhouette_server.registry import Registry, RoundState, RunState, Submission, TransitionError, UnknownError
from silhouette_server.registry.entries import Begun
from silhouette_server.registry.journal import VERSION, Journal
from silhouette_shared.cards import Card, check_privacy, unpack_model
from silhouette_shared.cards.documents import card_digest
from silhouette_shared.errors import IntegrityError, RefusedError, UnavailableError, UsageError


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with opened(tmp_path) as registry:
        yield registry


def test_a_run_goes_from_submitted_to_completed_and_is_there_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        committed(registry, run, 1)
        registry.begin_round(run, 2)
        registry.void_round(run, 2, "north did not answer")
        committed(registry, run, 3)
        registry.set_state(run, "completed")
    with opened(tmp_path) as again:
        found = again.run(run)
        assert found.state is RunState.completed
        assert [one.number for one in found.committed] == [1, 3]
        assert [(one.number, one.reason) for one in found.void] == [(2, "north did not answer")]
        assert (again.last_committed(run), again.last_begun(run), again.unfinished(run)) == (3, 3, ())
        commitment = found.rounds[3].commitment
        assert commitment is not None
        assert commitment.survivors == ("north", "south", "west")
        assert (commitment.seconds, commitment.sent, commitment.received) == (1.5, 1000, 900)
        assert again.plan(run) == OPEN
        assert again.verify() == ()


def test_a_committed_round_has_a_model_and_a_signed_card_that_names_it(registry: Registry) -> None:
    run = started(registry)
    card = committed(registry, run, 1)
    model = registry.model(f"{run}:1")
    assert model.card == card
    assert Card.decode(model.signed_card, [IDENTITY.public]) == card
    content = model.read()
    assert card.model == hashlib.sha256(content).hexdigest()
    assert unpack_model(content, LAYOUT).equal(vector(1))
    assert card.transcript == hashlib.sha256(b"transcript").hexdigest()
    assert (card.plan_digest, card.parameters, card.size) == (OPEN.digest, LAYOUT.size + 2, len(content))
    assert card.spent is None


def test_a_run_without_a_name_gets_the_plans_with_the_next_number(registry: Registry) -> None:
    assert [registry.submit(OPEN).name for _ in range(3)] == ["open-1", "open-2", "open-3"]
    with pytest.raises(TransitionError, match="expected a new name"):
        registry.submit(OPEN, Submission(name="OPEN-2"))
    with pytest.raises(UsageError, match="1 to 64 letters"):
        registry.submit(OPEN, Submission(name="../up"))


def test_a_restarted_coordinator_finds_what_began_and_goes_on_at_the_next_number(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        committed(registry, run, 1)
        registry.begin_round(run, 2)
    with opened(tmp_path) as again:
        assert again.unfinished(run) == (2,)
        with pytest.raises(TransitionError, match="expected round 2 to end first"):
            again.begin_round(run, 3)
        again.void_round(run, 2, "interrupted")
        with pytest.raises(TransitionError, match="a number is used once"):
            again.begin_round(run, 2)
        again.begin_round(run, 3)


def test_a_round_ends_once(registry: Registry) -> None:
    run = started(registry)
    with pytest.raises(UnknownError, match="expected one of its 0 rounds, got 1"):
        registry.commit_round(run, 1, vector(1), LAYOUT)
    committed(registry, run, 1)
    with pytest.raises(TransitionError, match="a round ends once"):
        registry.commit_round(run, 1, vector(9), LAYOUT)
    with pytest.raises(TransitionError, match="a round ends once"):
        registry.void_round(run, 1, "late")
    assert unpack_model(registry.model(f"{run}:1").read(), LAYOUT).equal(vector(1))


def test_a_run_that_is_to_stop_begins_no_round_and_can_be_resumed(registry: Registry) -> None:
    run = started(registry)
    registry.begin_round(run, 1)
    assert registry.request_stop(run).state is RunState.stopping
    assert registry.stop_requested(run)
    registry.commit_round(run, 1, vector(1), LAYOUT)  # the round that was on its way ends
    with pytest.raises(TransitionError, match="stopping"):
        registry.begin_round(run, 2)
    registry.set_state(run, "stopped", "asked to stop")
    registry.set_state(run, "running", "resumed")
    registry.begin_round(run, 2)


def test_a_run_that_waits_is_stopped_at_once_and_a_completed_one_not_at_all(registry: Registry) -> None:
    waiting = registry.submit(OPEN).name
    assert registry.request_stop(waiting).state is RunState.stopped
    done = started(registry)
    registry.set_state(done, "completed")
    with pytest.raises(TransitionError, match="expected nothing to follow completed"):
        registry.request_stop(done)


def test_a_run_is_not_complete_while_a_round_has_no_end(registry: Registry) -> None:
    run = started(registry)
    registry.begin_round(run, 1)
    with pytest.raises(TransitionError, match="round 1 without one"):
        registry.set_state(run, "completed")


def test_a_state_that_holds_already_writes_nothing(registry: Registry) -> None:
    run = started(registry)
    before = registry.run(run).changed
    registry.set_state(run, "running", "restarted")
    assert registry.run(run).changed == before


def test_an_unknown_run_is_named_with_those_there_are(registry: Registry) -> None:
    registry.submit(OPEN)
    with pytest.raises(UnknownError, match=r"got 'other'; the latest are: open-1"):
        registry.run("other")


def test_two_processes_see_each_others_entries_and_neither_loses_one(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        run = started(one)
        other.begin_round(run, 1)
        one.commit_round(run, 1, vector(1), LAYOUT)
        assert other.last_committed(run) == 1
        with pytest.raises(TransitionError, match="a round ends once"):
            other.void_round(run, 1, "late")


def test_a_reader_without_the_signing_key_reads_and_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        committed(registry, run, 1)
    with Registry.open(place(tmp_path), None, [IDENTITY.public]) as reader:
        assert reader.model(run).card.round == 1
        assert reader.verify() == ()
        for change in (lambda: reader.begin_round(run, 2), lambda: reader.submit(OPEN)):
            with pytest.raises(RefusedError, match="expected the coordinator's signing key"):
                change()


def test_a_registry_signed_by_another_key_is_refused_and_by_a_former_one_accepted(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        committed(registry, run, 1)
    with pytest.raises(IntegrityError, match="expected the coordinator's signature"):
        Registry.open(place(tmp_path), OTHER)
    with Registry.open(place(tmp_path), OTHER, [IDENTITY.public]) as rotated:
        committed(rotated, run, 2)
        assert rotated.verify() == ()


def test_where_there_is_no_registry_a_reader_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a registry, found none"):
        Registry.open(place(tmp_path), None, [IDENTITY.public])
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_goes_back_leaves_times_in_order(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as registry:
        run = started(registry)
        registry.begin_round(run, 1)
        began = registry.run(run).rounds[1].began
        clock.time -= timedelta(hours=5)
        card = registry.commit_round(run, 1, vector(1), LAYOUT)
        ended = registry.run(run).rounds[1].ended
        assert card.issued == ended == began
    with opened(tmp_path, Clock(datetime(2020, 1, 1, tzinfo=UTC))) as later:
        later.begin_round(run, 2)
        assert later.run(run).rounds[2].began == began
        assert later.verify() == ()


# Versions


def test_a_registry_of_a_newer_version_is_refused_and_untouched(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        started(registry)
    with sqlite3.connect(place(tmp_path)) as raw:
        raw.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = place(tmp_path).read_bytes()
    with pytest.raises(UnavailableError, match=f"got version {VERSION + 1}, which a newer Silhouette made"):
        opened(tmp_path)
    assert place(tmp_path).read_bytes() == before


def test_a_registry_of_an_older_version_is_migrated_with_everything_in_it(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        committed(registry, run, 1)
    with sqlite3.connect(place(tmp_path)) as raw:  # as version 1 was
        raw.execute("DROP TABLE contacts")
        raw.execute("PRAGMA user_version = 1")
    with pytest.raises(UnavailableError, match="expected a registry of version 2, got version 1"):
        Registry.open(place(tmp_path), None, [IDENTITY.public])
    with opened(tmp_path) as migrated:
        assert migrated.last_committed(run) == 1
        migrated.contact("north", "connected")
        assert migrated.contacts()["north"][1] == "connected"
        assert migrated.verify() == ()


def test_another_database_is_not_taken_for_a_registry(tmp_path: Path) -> None:
    with sqlite3.connect(place(tmp_path)) as raw:
        raw.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, body BLOB, signature BLOB)")
    with pytest.raises(IntegrityError, match="expected a registry, got another database"):
        opened(tmp_path)


def test_an_entry_is_neither_changed_nor_removed_by_way_of_sql(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        started(registry)
    with sqlite3.connect(place(tmp_path)) as raw:
        for statement in (
            "UPDATE entries SET body = x'00' WHERE sequence = 1",
            "DELETE FROM entries WHERE sequence = 2",
            "INSERT INTO entries VALUES (9, x'00', x'00')",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


def test_an_entry_that_was_refused_is_not_there_and_the_next_one_follows(tmp_path: Path) -> None:
    journal = Journal.open(place(tmp_path), IDENTITY)
    with pytest.raises(UnknownError):
        journal.append(lambda contents: Begun(run="nobody", round=1))
    assert journal.length == 0
    assert journal.faults() == []
    journal.close()
    with opened(tmp_path) as registry:
        started(registry)
        assert registry.verify() == ()


# Privacy and lineage


def test_a_private_card_says_what_the_rounds_so_far_cost_void_ones_included(registry: Registry) -> None:
    run = started(registry, PRIVATE)
    first = committed(registry, run, 1).spent
    registry.begin_round(run, 2)
    registry.void_round(run, 2, "nobody answered")
    third = committed(registry, run, 3)
    assert first is not None
    assert third.spent is not None
    assert [one.steps for one in third.spent.releases] == [3]
    assert first.epsilon < third.spent.epsilon < third.spent.promised == 8.0
    check_privacy(third)


def test_a_run_that_starts_from_the_promoted_model_counts_what_that_cost(registry: Registry) -> None:
    first = started(registry, PRIVATE)
    parent = committed(registry, first, 1)
    registry.promote(f"{first}:1")
    second = started(registry, PRIVATE, start="promoted")
    card = committed(registry, second, 1)
    assert card.parent is not None
    assert (card.parent.run, card.parent.round, card.parent.model) == (first, 1, parent.model)
    assert card.parent.card == card_digest(registry.model("promoted").signed_card)
    assert parent.spent is not None
    assert card.spent is not None
    assert card.spent.run_epsilon == pytest.approx(parent.spent.epsilon)
    assert card.spent.epsilon > card.spent.run_epsilon
    assert [one.run for one in card.spent.releases] == [second, first]
    check_privacy(card)


def test_private_and_other_runs_do_not_follow_each_other(registry: Registry) -> None:
    without = started(registry, OPEN)
    committed(registry, without, 1)
    with pytest.raises(UsageError, match="expected a plan without privacy after a model made without"):
        registry.submit(PRIVATE, Submission(start=f"{without}:1"))
    private = started(registry, PRIVATE)
    committed(registry, private, 1)
    with pytest.raises(UsageError, match="expected a plan with privacy after a model made with"):
        registry.submit(OPEN, Submission(start=f"{private}:1"))


def test_only_a_committed_round_has_a_model(registry: Registry) -> None:
    run = started(registry)
    with pytest.raises(UnknownError, match="expected a committed round, got none yet"):
        registry.model(run)
    registry.begin_round(run, 1)
    with pytest.raises(UnknownError, match="got one that is running; it has no model"):
        registry.model(f"{run}:1")
    with pytest.raises(UnknownError, match="expected promoted, previous, RUN or RUN:ROUND"):
        registry.model(f"{run}:first")
    with pytest.raises(UnknownError, match="expected a model that is promoted, got none"):
        registry.model("promoted")
    assert registry.run(run).rounds[1].state is RoundState.running
