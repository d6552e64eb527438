"""What is charged is on the disk, once, within the limits, and nobody releases without it."""

from __future__ import annotations

import ast
import copy
import multiprocessing
import os
import pickle
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from tests.ledgers import ANY, NODE, PLAN, START, STEP, Clock, Place, charge, steps

from silhouette_client.policy import ledger_store
from silhouette_client.policy.ledger_store import Ledger, read_chain
from silhouette_client.policy.receipt import Receipt
from silhouette_client.policy.witness import FileWitness, MemoryWitness
from silhouette_shared import databases
from silhouette_shared.errors import IntegrityError, RefusedError, UnavailableError, UsageError
from silhouette_shared.privacy import calibrate
from silhouette_shared.privacy.admission import run_epsilon
from silhouette_shared.privacy.ledger import BudgetRefusedError, Charge, Head, Limits, Reason
from silhouette_shared.privacy.mechanism import SampledGaussian

ROOT = Path(__file__).parents[3]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, place: Place) -> Iterator[Ledger]:
    made = place.open() if request.param == "file" else Ledger.in_memory(ANY)
    with made:
        yield made


class Silent:
    """A witness that cannot be reached."""

    name = "the silent witness"

    def head(self, node: str) -> Head | None:
        raise UnavailableError("expected the silent witness to answer, got nothing")

    def publish(self, node: str, head: Head) -> None:
        raise UnavailableError("expected the silent witness to answer, got nothing")


# A charge


def test_a_charge_gives_a_receipt_that_serves_once(ledger: Ledger) -> None:
    receipt = ledger.charge(charge(1))
    assert receipt.charge == charge(1)
    assert receipt.head == ledger.head == Head(3, ledger.head.hash)
    before = receipt.used
    receipt.redeem(STEP)
    assert (before, receipt.used) == (False, True)
    with pytest.raises(BudgetRefusedError, match=r"round 1 \(training\) a second time; charge a new round") as caught:
        receipt.redeem(STEP)
    assert caught.value.reason is Reason.receipt


def test_a_charge_is_there_for_others_before_the_receipt_is(place: Place) -> None:
    with place.open() as ledger:
        receipt = ledger.charge(charge(1))
        chain = read_chain(place.path)
        assert chain.head == receipt.head == place.witness.head(NODE)
        assert chain.entries[-1].content == charge(1)


def test_a_receipt_is_for_the_mechanism_that_was_charged(ledger: Ledger) -> None:
    receipt = ledger.charge(charge(1, mechanism=steps(2)))
    for other in (steps(3), replace(steps(2), noise_multiplier=0.5), replace(steps(2), clip_norm=2.0)):
        with pytest.raises(BudgetRefusedError, match=r"expected the mechanism that .* was charged for"):
            receipt.redeem(other)
    receipt.redeem(steps(2))


def test_nobody_but_the_ledger_makes_a_receipt(ledger: Ledger) -> None:
    receipt = ledger.charge(charge(1))
    with pytest.raises(TypeError, match="expected the ledger to make a receipt"):
        Receipt(object(), charge=charge(2), head=receipt.head, confirm=lambda: None)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(receipt)


def test_only_the_ledger_holds_what_a_receipt_is_made_with() -> None:
    users = []
    for path in ROOT.glob("*/silhouette_*/**/*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if "LEDGER_ONLY" in names:
            users.append(path.name)
    assert sorted(users) == ["ledger_store.py", "receipt.py"]


def test_a_receipt_serves_one_thread_only(ledger: Ledger) -> None:
    receipt = ledger.charge(charge(1))
    ready = threading.Barrier(8)

    def attempt(_: int) -> bool:
        ready.wait()
        try:
            receipt.redeem(STEP)
        except BudgetRefusedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_the_same_release_is_never_charged_twice(ledger: Ledger) -> None:
    ledger.charge(charge(1))
    before = ledger.head
    # Another model, plan or mechanism does not make it another release.
    for again in (charge(1), charge(1, mechanism=steps(2)), replace(charge(1), model_digest="")):
        with pytest.raises(BudgetRefusedError, match=r"round 1 .* again; go on with a new round") as caught:
            ledger.charge(again)
        assert caught.value.reason is Reason.already_charged
        assert caught.value.exit_code == 3
    assert ledger.head == before
    for other in (charge(2), charge(1, purpose="metrics"), charge(1, run="run-2")):
        ledger.charge(other)
    assert len(ledger.entries) == 2 + 4


def test_a_charge_of_yesterday_is_still_known_after_a_restart(place: Place) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1))
    with place.open() as ledger, pytest.raises(BudgetRefusedError, match="go on with a new round"):
        ledger.charge(charge(1))


# Limits


def test_a_run_stops_at_its_limit_with_the_figures() -> None:
    ledger = Ledger.in_memory(Limits(epsilon_per_run=3.0, epsilon_per_year=None, delta=1e-5))
    with pytest.raises(BudgetRefusedError) as caught:
        spend(ledger, lambda number: charge(number, mechanism=steps(10)))
    assert caught.value.reason is Reason.run_limit
    message = str(caught.value)
    assert message.startswith("expected at most epsilon 3 at delta 1e-05 for run run-1, got ")
    spent, asked = _figures(message)
    assert 2.7 < spent <= 3.0 < asked < 3.3
    ledger.charge(charge(1, run="run-2", mechanism=steps(10)))  # another run has a budget of its own


def spend(ledger: Ledger, make: Callable[[int], Charge]) -> None:
    for number in range(1, 1000):
        ledger.charge(make(number))


def _figures(message: str) -> tuple[float, float]:
    words = message.split()
    return float(words[words.index("spent") - 1]), float(words[words.index("with") - 1])


def test_what_is_refused_costs_nothing() -> None:
    ledger = Ledger.in_memory(Limits(epsilon_per_run=3.0, epsilon_per_year=None, delta=1e-5))
    ledger.charge(charge(1, mechanism=steps(10)))
    before = ledger.head
    with pytest.raises(BudgetRefusedError, match="with what is asked"):
        ledger.charge(charge(2, mechanism=steps(10_000)))
    assert ledger.head == before
    ledger.charge(charge(2, mechanism=steps(10)))


def test_a_year_stops_over_all_runs_and_purposes() -> None:
    ledger = Ledger.in_memory(Limits(epsilon_per_run=None, epsilon_per_year=4.0, delta=1e-5))
    with pytest.raises(BudgetRefusedError, match="for the last 365 days, got") as caught:
        spend(ledger, lambda number: charge(number, run=f"run-{number}", purpose=f"p{number % 3}", mechanism=steps(10)))
    assert caught.value.reason is Reason.year_limit
    spent, asked = _figures(str(caught.value))
    assert 3.8 < spent <= 4.0 < asked < 4.2


YEARLY = Limits(epsilon_per_run=None, epsilon_per_year=2.0, delta=1e-5)
MUCH = replace(STEP, noise_multiplier=3.0, sampling_rate=1.0)  # 1.6 of 2


def test_what_was_spent_leaves_the_year_after_365_days_and_not_before(place: Place) -> None:
    clock = Clock(datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC))
    with place.open(YEARLY, clock=clock) as ledger:
        ledger.charge(charge(1, mechanism=MUCH))
        clock.now = datetime(2027, 2, 28, 23, 59, 59, tzinfo=UTC)
        with pytest.raises(BudgetRefusedError) as caught:
            ledger.charge(charge(2, mechanism=MUCH))
        assert caught.value.reason is Reason.year_limit
        clock.now = datetime(2027, 3, 1, 0, 0, 0, tzinfo=UTC)
        ledger.charge(charge(2, mechanism=MUCH))


def test_the_turn_of_the_calendar_year_frees_nothing() -> None:
    clock = Clock(datetime(2026, 12, 31, 12, tzinfo=UTC))
    ledger = Ledger.in_memory(YEARLY, clock=clock)
    ledger.charge(charge(1, mechanism=MUCH))
    clock.forward(days=1)
    with pytest.raises(BudgetRefusedError, match="last 365 days"):
        ledger.charge(charge(2, mechanism=MUCH))


@pytest.mark.parametrize("days", [-1 / 24, -1, -400, -3650])
def test_a_clock_that_goes_back_frees_nothing(place: Place, days: float) -> None:
    clock = Clock()
    with place.open(YEARLY, clock=clock) as ledger:
        ledger.charge(charge(1, mechanism=MUCH))
        clock.forward(days=days)
        with pytest.raises(BudgetRefusedError, match="last 365 days"):
            ledger.charge(charge(2, mechanism=MUCH))
        ledger.charge(charge(2, mechanism=replace(STEP, noise_multiplier=100.0)))
        assert ledger.entries[-1].time == START  # not before the entry before it
    with place.open(YEARLY, clock=clock) as ledger, pytest.raises(BudgetRefusedError, match="last 365 days"):
        ledger.charge(charge(3, mechanism=MUCH))


def test_a_clock_in_another_zone_is_read_in_utc() -> None:
    zone = timezone(timedelta(hours=-10))
    clock = Clock(datetime(2026, 3, 1, 20, 0, 0, tzinfo=zone))  # the second of March in UTC
    ledger = Ledger.in_memory(YEARLY, clock=clock)
    ledger.charge(charge(1, mechanism=MUCH))
    assert ledger.entries[-1].time == datetime(2026, 3, 2, 6, 0, 0, tzinfo=UTC)
    clock.now = datetime(2027, 3, 1, 20, 0, 0, tzinfo=zone)  # the second of March in UTC, 365 days later
    ledger.charge(charge(2, mechanism=MUCH))


def test_a_delta_above_the_limits_is_refused() -> None:
    ledger = Ledger.in_memory(replace(YEARLY, delta=1e-6))
    with pytest.raises(BudgetRefusedError, match="expected a delta of at most 1e-06, got 1e-05") as caught:
        ledger.charge(charge(1))
    assert caught.value.reason is Reason.delta


def test_a_run_follows_one_plan() -> None:
    # Its epsilon is that of mechanisms fixed beforehand; a second plan could have been chosen after seeing the first.
    ledger = Ledger.in_memory(ANY)
    ledger.charge(charge(1))
    with pytest.raises(BudgetRefusedError, match="expected run run-1 to follow plan abababababab, got 1212") as caught:
        ledger.charge(charge(2, plan="12" * 32))
    assert caught.value.reason is Reason.other_plan
    ledger.charge(charge(2, run="run-2", plan="12" * 32))


def test_changed_limits_are_written_down_and_hold(place: Place) -> None:
    with place.open(YEARLY) as ledger:
        ledger.charge(charge(1, mechanism=MUCH))
    with place.open(YEARLY) as ledger:
        assert [entry.kind for entry in ledger.entries] == ["opening", "limits", "charge"]
    wider = replace(YEARLY, epsilon_per_year=5.0)
    with place.open(wider) as ledger:
        assert ledger.entries[-1].content == wider
        assert ledger.limits == wider
        ledger.charge(charge(2, mechanism=MUCH))
    assert place.witness.head(NODE) == read_chain(place.path).head


def test_a_run_that_does_not_fit_is_refused_before_its_first_round(ledger: Ledger) -> None:
    before = ledger.head
    ledger.foresee("run-1", PLAN, [steps(10**6)], 1e-5)  # there are no limits here
    limited = Ledger.in_memory(Limits(epsilon_per_run=3.0, epsilon_per_year=3.5, delta=1e-5))
    limited.foresee("run-1", PLAN, [steps(20), replace(STEP, noise_multiplier=5.0)], 1e-5)
    with pytest.raises(BudgetRefusedError, match="with what is asked") as caught:
        limited.foresee("run-1", PLAN, [steps(20), steps(1000)], 1e-5)
    assert caught.value.reason is Reason.run_limit
    limited.charge(charge(1, mechanism=steps(20)))
    with pytest.raises(BudgetRefusedError, match=r"last 365 days, got .* with what is asked") as caught:
        limited.foresee("run-2", PLAN, [steps(12), steps(12)], 1e-5)
    assert caught.value.reason is Reason.year_limit
    with pytest.raises(UsageError, match="got nothing"):
        limited.foresee("run-1", PLAN, [], 1e-5)
    assert ledger.head == before
    assert len(limited.entries) == 3


def test_what_was_foreseen_is_charged_without_asking_again_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = calibrate(epsilon=2.0, delta=1e-5, sampling_rate=0.2, steps=12, clip_norm=1.0)
    limits = Limits(epsilon_per_run=2.0, epsilon_per_year=None, delta=1e-5)
    asked: list[object] = []

    def counted(spending: tuple[SampledGaussian, ...], delta: float, limit: float | None) -> float:
        asked.append(spending)
        return run_epsilon(spending, delta, limit)

    monkeypatch.setattr("silhouette_client.policy.budget.run_epsilon", counted)
    ledger = Ledger.in_memory(limits)
    ledger.foresee("run-1", PLAN, [plan], 1e-5)
    assert len(asked) == 1
    for number in range(12):
        ledger.charge(charge(number, mechanism=plan.after(1)))
    assert len(asked) == 1
    with pytest.raises(BudgetRefusedError, match="for run run-1"):
        ledger.charge(charge(12, mechanism=plan.after(1)))
    # What was foreseen for one run says nothing about another.
    with pytest.raises(BudgetRefusedError, match="for run run-2"):
        ledger.charge(charge(1, run="run-2", mechanism=plan.after(13)))


# The key and the files


def test_the_key_is_32_bytes_for_its_owner_alone(place: Place) -> None:
    place.open().close()
    assert stat.S_IMODE(place.key.stat().st_mode) == 0o600
    assert len(place.key.read_bytes()) == 32
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    assert {path.name for path in place.home.iterdir()} <= {"ledger.sqlite", "ledger.sqlite-journal", "ledger.key"}


def test_two_ledgers_have_two_keys(tmp_path: Path) -> None:
    keys = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        place = Place(tmp_path / name)
        place.open().close()
        keys.add(place.key.read_bytes())
    assert len(keys) == 2


def test_the_key_may_lie_elsewhere(place: Place, tmp_path: Path) -> None:
    key = tmp_path / "keys.d"
    key.mkdir()
    made = Ledger.open(place.path, node=NODE, limits=ANY, witness=place.witness, key=key / "north")
    with made:
        made.charge(charge(1))
    assert not place.key.exists()
    assert len(read_chain(place.path, key / "north")) == 3


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_that_others_may_read_is_refused(place: Place, mode: int) -> None:
    place.open().close()
    place.key.chmod(mode)
    with pytest.raises(UsageError, match=f"expected a key for its owner alone .* got mode {mode:o}; chmod 600"):
        place.open()


def test_a_ledger_without_its_key_is_refused(place: Place) -> None:
    place.open().close()
    place.key.unlink()
    with pytest.raises(IntegrityError, match="expected the key of this ledger, found none"):
        place.open()
    assert not place.key.exists()


def test_a_ledger_with_another_key_is_refused(place: Place) -> None:
    place.open().close()
    place.key.write_bytes(bytes(32))
    with pytest.raises(IntegrityError, match="ledger entry 1: expected an entry sealed with this ledger's key"):
        place.open()
    place.key.write_bytes(bytes(31))
    with pytest.raises(IntegrityError, match="expected a key of 32 bytes, got 31"):
        place.open()


def test_a_start_that_was_interrupted_is_taken_up(place: Place) -> None:
    place.key.write_bytes(bytes(range(32)))  # the key was made, the ledger was not
    place.key.chmod(0o600)
    place.path.touch()
    with place.open() as ledger:
        ledger.charge(charge(1)).redeem(STEP)
    assert place.key.read_bytes() == bytes(range(32))


def test_a_start_that_no_witness_has_seen_is_shown_to_it_at_the_next(place: Place, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    place.open().close()
    with place.open(witness=FileWitness(empty)) as ledger:  # nothing was charged yet, so nothing can be hidden
        ledger.charge(charge(1)).redeem(STEP)
    assert FileWitness(empty).head(NODE) == read_chain(place.path).head


def test_the_ledger_of_another_node_is_refused(place: Place) -> None:
    place.open().close()
    with pytest.raises(UsageError, match="expected the ledger of south, got the one of north"):
        place.open(node="south")


def test_a_folder_that_is_missing_is_said_to_be(place: Place) -> None:
    with pytest.raises(UnavailableError, match="No such file or directory"):
        Ledger.open(place.home / "none" / "ledger.sqlite", node=NODE, limits=ANY, witness=place.witness)


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(place: Place) -> None:
    place.open().close()
    place.path.write_text("something else, long enough to be looked at " * 100)
    before = place.path.read_bytes()
    with pytest.raises(IntegrityError, match="expected a whole ledger"):
        place.open()
    assert place.path.read_bytes() == before
    place.path.unlink()
    with sqlite3.connect(place.path) as other:
        other.execute("CREATE TABLE something (else_ INTEGER)")
    with pytest.raises(IntegrityError, match="expected the tables and triggers of a ledger"):
        place.open()


def test_a_ledger_that_is_begun_at_this_moment_is_read_once_it_has_its_opening(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.open().close()
    begun = place.path.rename(tmp_path / "begun")
    place.path.touch()
    threading.Timer(0.3, begun.rename, [place.path]).start()
    assert len(read_chain(place.path)) == 2
    place.path.write_bytes(b"")
    monkeypatch.setattr(ledger_store, "_OPENING_SECONDS", 0.1)
    with pytest.raises(IntegrityError, match="expected the tables and triggers of a ledger"):
        read_chain(place.path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET seal = zeroblob(32)",
        "UPDATE entries SET sequence = 9 WHERE sequence = 3",
        "DELETE FROM entries WHERE sequence = 3",
        "REPLACE INTO entries SELECT 2, release, body, seal FROM entries WHERE sequence = 3",
        "REPLACE INTO entries SELECT 4, release, body, seal FROM entries WHERE sequence = 3",
        "INSERT INTO entries SELECT 9, NULL, body, seal FROM entries WHERE sequence = 3",
        "INSERT INTO entries SELECT 4, release, body, seal FROM entries WHERE sequence = 3",
    ],
)
def test_the_database_refuses_everything_but_a_next_row(place: Place, statement: str) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1))
    connection = sqlite3.connect(place.path)
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|UNIQUE"):
        connection.execute(statement)
    connection.close()
    assert len(read_chain(place.path)) == 3


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TRIGGER entries_are_not_changed", "tables and triggers"),
        ("CREATE TRIGGER more AFTER INSERT ON entries BEGIN SELECT 1; END", "tables and triggers"),
        ("CREATE TABLE more (x)", "tables and triggers"),
        ("PRAGMA application_id = 1", "tables and triggers"),
    ],
)
def test_a_changed_schema_is_refused(place: Place, statement: str, message: str) -> None:
    place.open().close()
    connection = sqlite3.connect(place.path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(IntegrityError, match=message):
        place.open()
    with pytest.raises(IntegrityError, match=message):
        read_chain(place.path)


def _rewrite(path: Path, *statements: str) -> None:
    """What somebody with the database, but without the key, can do."""
    connection = sqlite3.connect(path)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for _, sql in triggers:
        connection.execute(sql)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        ("DELETE FROM entries WHERE sequence = 4", 4),
        ("UPDATE entries SET body = replace(body, '\"delta\":1e-05', '\"delta\":1e-09') WHERE sequence = 5", 5),
        ("UPDATE entries SET body = CAST(body AS BLOB) || x'20' WHERE sequence = 5", 5),
        ("UPDATE entries SET body = CAST(body AS TEXT) WHERE sequence = 5", 5),
        ("UPDATE entries SET seal = zeroblob(32) WHERE sequence = 3", 3),
        ("UPDATE entries SET release = NULL WHERE sequence = 3", 3),
        ("UPDATE entries SET release = x'00' WHERE sequence = 6", 6),
        ("UPDATE entries SET sequence = 60 WHERE sequence = 6", 6),
    ],
)
def test_a_row_changed_behind_the_triggers_is_found_and_named(place: Place, statement: str, entry: int) -> None:
    with place.open() as ledger:
        for number in range(1, 5):
            ledger.charge(charge(number))
    try:
        _rewrite(place.path, statement)
    except sqlite3.IntegrityError:
        return  # the table itself refuses another type
    with pytest.raises(IntegrityError, match=f"ledger entry {entry}: "):
        place.open()
    with pytest.raises(IntegrityError, match=f"ledger entry {entry}: "):
        read_chain(place.path)


def test_rows_changed_while_the_ledger_is_open_stop_the_next_charge(place: Place) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1))
        _rewrite(place.path, "DELETE FROM entries WHERE sequence = 3")
        with pytest.raises(IntegrityError, match="expected the entry 3 that was there before, got none"):
            ledger.charge(charge(2))
    assert len(sqlite3.connect(place.path).execute("SELECT 1 FROM entries").fetchall()) == 2


# The witness


def test_an_older_copy_put_back_stops_the_start(place: Place, tmp_path: Path) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1)).redeem(STEP)
    old = tmp_path / "old"
    shutil.copytree(place.home, old)
    with place.open() as ledger:
        ledger.charge(charge(2)).redeem(STEP)
    shutil.rmtree(place.home)
    shutil.copytree(old, place.home)
    with pytest.raises(IntegrityError, match=r"expected a ledger with the entry 4 that the witness .* an older copy"):
        place.open()


def test_an_older_copy_put_back_under_a_running_node_stops_the_first_release(place: Place, tmp_path: Path) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1)).redeem(STEP)
        old = tmp_path / "old.sqlite"
        shutil.copy(place.path, old)
        ledger.charge(charge(2)).redeem(STEP)
        kept = ledger.charge(charge(3))
        shutil.copy(old, place.path)
        with pytest.raises((IntegrityError, UnavailableError)):
            ledger.charge(charge(4))
        del kept


def test_an_older_copy_is_refused_at_the_first_release_where_the_start_found_no_witness(
    place: Place, tmp_path: Path
) -> None:
    witness = MemoryWitness()
    with place.open(witness=witness) as ledger:
        ledger.charge(charge(1))
        old = tmp_path / "old.sqlite"
        shutil.copy(place.path, old)
        ledger.charge(charge(2))
    shutil.copy(old, place.path)
    sleeping = Waking(witness)
    with place.open(witness=sleeping) as ledger:
        sleeping.awake = True
        with pytest.raises(IntegrityError, match="an older copy was put back"):
            ledger.charge(charge(3))


class Waking:
    """A witness that can be reached only while it is awake."""

    name = "the witness"

    def __init__(self, inner: MemoryWitness | None = None) -> None:
        self.inner = MemoryWitness() if inner is None else inner
        self.awake = False

    def head(self, node: str) -> Head | None:
        return self.inner.head(node) if self.awake else Silent().head(node)

    def publish(self, node: str, head: Head) -> None:
        if not self.awake:
            Silent().publish(node, head)
        self.inner.publish(node, head)


def test_a_copy_that_went_its_own_way_is_refused(place: Place, tmp_path: Path) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1))
    twin = tmp_path / "twin"
    shutil.copytree(place.home, twin)
    with place.open() as ledger:
        ledger.charge(charge(2))
    with pytest.raises(IntegrityError, match="older copy"):
        Ledger.open(twin / "ledger.sqlite", node=NODE, limits=ANY, witness=place.witness)
    # Even one that grew beyond what the witness has seen.
    elsewhere = MemoryWitness()
    with Ledger.open(twin / "ledger.sqlite", node=NODE, limits=ANY, witness=Waking()) as other:
        other.introduce(elsewhere)
        other.charge(charge(3))
    with pytest.raises(IntegrityError, match="have parted"):
        Ledger.open(twin / "ledger.sqlite", node=NODE, limits=ANY, witness=place.witness)


def test_a_ledger_that_was_deleted_does_not_begin_anew(place: Place) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1))
    for path in place.home.iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match=r"of which the witness .* has seen 3 entries, found none"):
        place.open()
    assert list(place.home.iterdir()) == []
    place.path.touch()  # an empty file is no ledger either
    with pytest.raises(IntegrityError, match="has seen 3 entries, found none"):
        place.open()


def test_with_no_witness_nothing_is_charged_and_the_node_still_starts(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1))
    with place.open(witness=Silent()) as ledger:
        assert "nothing will be charged until a witness answers" in caplog.text
        before = ledger.head
        with pytest.raises(UnavailableError, match="silent witness"):
            ledger.charge(charge(2))
        assert ledger.head == before
    with place.open() as ledger:
        ledger.charge(charge(2))


def test_a_new_ledger_needs_its_witness(place: Place) -> None:
    with pytest.raises(UnavailableError, match="silent witness"):
        place.open(witness=Silent())
    assert list(place.home.iterdir()) == []


def test_a_witness_lost_between_charge_and_release_stops_the_release_until_it_is_back(place: Place) -> None:
    witness = Waking()
    witness.awake = True
    with place.open(witness=witness) as ledger:
        receipt = ledger.charge(charge(1))
        witness.awake = False
        with pytest.raises(UnavailableError):
            receipt.redeem(STEP)
        assert not receipt.used
        witness.awake = True
        receipt.redeem(STEP)


def test_a_witness_that_fails_to_keep_the_head_stops_the_release(place: Place) -> None:
    class Deaf(MemoryWitness):
        def publish(self, node: str, head: Head) -> None:
            if head.sequence < 3:
                super().publish(node, head)

    with place.open(witness=Deaf()) as ledger:
        receipt = ledger.charge(charge(1))
        with pytest.raises(UnavailableError, match=r"expected .* to have seen the entry 3, got one that has not"):
            receipt.redeem(STEP)


def test_a_charge_whose_witness_failed_is_kept_and_the_round_is_lost(place: Place) -> None:
    witness = Waking()
    witness.awake = True
    original = witness.inner.publish
    with place.open(witness=witness) as ledger:
        witness.inner.publish = Silent().publish  # type: ignore[method-assign]
        with pytest.raises(UnavailableError):
            ledger.charge(charge(1))
        witness.inner.publish = original  # type: ignore[method-assign]
        with pytest.raises(BudgetRefusedError, match="go on with a new round"):
            ledger.charge(charge(1))
        ledger.charge(charge(2)).redeem(STEP)


def test_a_witness_that_lost_its_memory_is_noticed_and_a_new_one_is_introduced_on_purpose(place: Place) -> None:
    with place.open() as ledger:
        ledger.charge(charge(1))
    fresh = MemoryWitness()
    with pytest.raises(IntegrityError, match="never has; mount the right disk, or introduce the ledger to a new"):
        place.open(witness=fresh)
    with place.open() as ledger:
        with pytest.raises(RefusedError, match="which has; open the ledger with it"):
            ledger.introduce(place.witness)
        ledger.introduce(fresh)
        assert ledger.entries[-1].kind == "introduction"
        ledger.charge(charge(2)).redeem(STEP)
    assert fresh.head(NODE) == read_chain(place.path).head
    with place.open(witness=fresh) as ledger:
        ledger.charge(charge(3)).redeem(STEP)


# Several at once


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    def work(worker: int) -> int:
        for number in range(10):
            ledger.charge(charge(number, run=f"run-{worker}")).redeem(STEP)
        return worker

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == list(range(8))
    assert len(ledger.entries) == 2 + 80
    assert [entry.sequence for entry in ledger.entries] == list(range(1, 83))


def _in_a_process(folder: Path, worker: int, same: bool, results: multiprocessing.Queue[list[int]]) -> None:
    place = object.__new__(Place)
    place.path, place.witness = folder / "home" / "ledger.sqlite", FileWitness(folder / "witness")
    won = []
    with place.open() as ledger:
        for number in range(12):
            try:
                ledger.charge(charge(number, run="same" if same else f"run-{worker}")).redeem(STEP)
                won.append(number)
            except BudgetRefusedError as error:
                if error.reason is not Reason.already_charged:
                    raise
    results.put(won)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_processes_that_charge_at_once_write_one_chain(place: Place, tmp_path: Path, same: bool, begun: bool) -> None:
    if begun:
        place.open().close()
    context = multiprocessing.get_context("fork")  # nothing of torch runs in them, and it is imported once
    results = context.Queue()
    workers = [context.Process(target=_in_a_process, args=(tmp_path, worker, same, results)) for worker in range(3)]
    for worker in workers:
        worker.start()
    won = sorted(number for _ in workers for number in results.get(timeout=300))
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert won == (list(range(12)) if same else sorted(list(range(12)) * 3))
    chain = read_chain(place.path)
    assert len(chain) == 2 + len(won)
    assert place.witness.head(NODE) == chain.head


def test_a_ledger_that_another_began_and_charged_while_the_witness_was_asked_is_opened(place: Place) -> None:
    class Slow(MemoryWitness):
        """Answers the first question as it was asked, after another ledger has begun and charged."""

        def head(self, node: str) -> Head | None:
            seen = super().head(node)
            if not place.path.exists():
                return seen  # before the files are made nobody can be first
            if not met:
                met.append(True)
                with place.open(witness=self) as other:
                    other.charge(charge(1)).redeem(STEP)
            return seen

    met: list[bool] = []
    witness = Slow()
    with place.open(witness=witness) as ledger:
        assert met
        assert [entry.content.round for entry in ledger.entries if isinstance(entry.content, Charge)] == [1]
        ledger.charge(charge(2)).redeem(STEP)
    assert witness.head(NODE) == read_chain(place.path).head


def test_limits_hold_over_processes_that_charge_in_turn(place: Place) -> None:
    with place.open(YEARLY) as one, place.open(YEARLY) as other:
        one.charge(charge(1, mechanism=MUCH))
        with pytest.raises(BudgetRefusedError, match="last 365 days"):
            other.charge(charge(2, mechanism=MUCH))


def test_a_forked_child_cannot_use_what_it_inherited(place: Place) -> None:
    with place.open() as ledger:
        receipt = ledger.charge(charge(1))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            found = []
            for attempt in (lambda: ledger.charge(charge(2)), lambda: receipt.redeem(STEP)):
                try:
                    attempt()
                    found.append("went through")
                except (UnavailableError, BudgetRefusedError) as error:
                    found.append(str(error))
            os.write(writer, "\n".join(found).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answers:
            charged, redeemed = answers.read().splitlines()
        os.waitpid(child, 0)
        assert "got a forked one; open the ledger there" in charged
        assert "in the process that charged it, got it in another" in redeemed
        receipt.redeem(STEP)


def test_a_closed_ledger_charges_and_redeems_nothing(place: Place) -> None:
    ledger = place.open()
    receipt = ledger.charge(charge(1))
    ledger.close()
    ledger.close()
    for attempt in (lambda: ledger.charge(charge(2)), lambda: receipt.redeem(STEP)):
        with pytest.raises(UnavailableError, match=r"got one that is not \(it was closed\); open it again"):
            attempt()


def test_a_ledger_that_somebody_else_holds_is_waited_for_and_then_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_LOCK_SECONDS", 0.1)
    with place.open() as ledger:
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="another process holds the ledger; wait for it or stop it"):
            ledger.charge(charge(1))
        other.execute("ROLLBACK")
        other.close()
        ledger.charge(charge(1)).redeem(STEP)


def test_reading_changes_nothing_and_names_what_is_missing(place: Place) -> None:
    with pytest.raises(UsageError, match="expected a ledger, found none"):
        read_chain(place.path)
    with place.open() as ledger:
        ledger.charge(charge(1))
    before = place.path.read_bytes()
    assert len(read_chain(place.path)) == 3
    assert place.path.read_bytes() == before


def test_a_large_mechanism_is_kept_exactly(ledger: Ledger) -> None:
    odd = SampledGaussian(noise_multiplier=1 / 3, sampling_rate=0.1 + 0.2, steps=10**6, clip_norm=1e-300)
    ledger.charge(charge(1, mechanism=odd)).redeem(odd)
    content = ledger.entries[-1].content
    assert content == charge(1, mechanism=odd)
