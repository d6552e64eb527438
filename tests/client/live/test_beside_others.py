"""A service, a build, an import and an erasure at once: nobody's newest profile is lost, nobody erased comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.client.ingest.shop_files import NOW, ingest, write

from silhouette_client.ingest.absorb import absorb
from silhouette_client.ingest.pushed import Journal
from silhouette_client.ingest.reading import read_people
from silhouette_client.ingest.records import Records, open_records, writing
from silhouette_client.ingest.removal import remove_people
from silhouette_client.ingest.subject import rows_of
from silhouette_client.live import updater as updaters
from silhouette_client.live.updater import LiveUpdater
from silhouette_client.profiles.building import Built, build_held, held_people
from silhouette_client.profiles.node_model import NodeModel
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.profiles.vault import ExcludedAtUse, Vault
from silhouette_client.serving.service import Event
from silhouette_shared.errors import IntegrityError


@pytest.fixture
def updater(home: Path, vault: Vault, model: NodeModel) -> Iterator[LiveUpdater]:
    with opened(home, vault, model) as updater:
        yield updater


@contextmanager
def opened(home: Path, vault: Vault, model: NodeModel) -> Iterator[LiveUpdater]:
    updater = LiveUpdater.open(home, vault, model, clock=lambda: NOW)
    try:
        yield updater
    finally:
        updater.close()


def event(user: str = "ann", item: str = "i9", timestamp: int = 5000) -> Event:
    return Event(user, item, "purchase", timestamp)


def build(home: Path, vault: Vault, model: NodeModel, meanwhile: Callable[[], object], **settings: Any) -> Built:
    """A build of everybody, with something between its reading and its writing."""
    held = held_people(home, vault, model, "profiling")
    meanwhile()
    return build_held(vault, model, held, "test", everybody=True, **settings)


def profile(vault: Vault, user: str) -> ProfileRecord | None:
    return vault.get(user, "test", "show")


def events(vault: Vault, user: str) -> float | None:
    """From how many events a person's profile was made."""
    found = profile(vault, user)
    return None if found is None or found.facts is None else found.facts["events"]


def erase_elsewhere(home: Path, user: str) -> None:
    """As `silhouette subject erase` does in a process of its own."""
    with Vault.open(home) as other:
        other.erase(user, "test")
    remove_people(home, {user})


def test_a_push_between_reading_and_writing_of_a_build_stays_in_the_profile(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel
) -> None:
    built = build(home, vault, model, lambda: updater.push([event()], "shop"))
    assert (events(vault, "ann"), events(vault, "ben")) == (6, 2)
    assert built.written == 1  # ben
    assert build(home, vault, model, lambda: None).written == 2, "the next one reads what was pushed"


def test_a_push_in_the_middle_of_the_writing_stays_as_well(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("silhouette_client.profiles.building.PEOPLE_AT_ONCE", 1)
    pushed: list[str] = []

    def push(done: int, of: int) -> None:
        if done < of:  # one of the two was written
            first, last = vault.in_order(["ann", "ben"])
            pushed.append(last)
            updater.push([event(first), event(last)], "shop")

    build(home, vault, model, lambda: None, progress=push)
    assert pushed
    assert (events(vault, "ann"), events(vault, "ben")) == (6, 3)


def test_who_is_new_since_a_build_read_keeps_the_profile(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel
) -> None:
    built = build(home, vault, model, lambda: updater.push([event("new", "i4")], "shop"))
    assert events(vault, "new") == 1
    assert built.removed == 0


def test_a_profile_by_another_model_that_was_promoted_meanwhile_stays_and_is_answered(
    home: Path, vault: Vault, model: NodeModel
) -> None:
    build(home, vault, replace(model, name="m0"), lambda: None)
    with opened(home, vault, replace(model, name="m2")) as updater:
        built = build(home, vault, model, lambda: updater.push([event()], "shop"))
    found = {user: profile(vault, user) for user in ("ann", "ben")}
    assert {user: record.model for user, record in found.items() if record} == {"ann": "m2", "ben": "m1"}
    assert built.expired == 0


def test_a_model_that_is_promoted_again_answers_at_once(home: Path, vault: Vault, model: NodeModel) -> None:
    build(home, vault, model, lambda: None)
    vault.retire("m2")
    assert profile(vault, "ben") is None
    with opened(home, vault, model) as updater:
        updater.push([event()], "shop")
        assert events(vault, "ann") == 6
        assert vault.purge("test") == 0, "its other profiles count again as well"
    vault.retire("m2")
    seen: list[float | None] = []
    build(home, vault, model, lambda: None, progress=lambda done, of: seen.append(events(vault, "ann")))
    assert seen == [6]


def test_who_was_erased_and_let_in_again_during_a_build_gets_nothing_of_what_was_erased(
    home: Path, vault: Vault, model: NodeModel
) -> None:
    def meanwhile() -> None:
        erase_elsewhere(home, "ann")
        vault.unsuppress("ann", "test")

    assert build(home, vault, model, meanwhile).written == 0
    assert profile(vault, "ann") is None
    assert build(home, vault, model, lambda: None).written == 1
    assert profile(vault, "ann") is None


def test_who_is_let_in_again_during_a_build_keeps_what_is_stored(home: Path, vault: Vault, model: NodeModel) -> None:
    build(home, vault, model, lambda: None)
    vault.suppress("ben", "test")
    built = build(home, vault, model, lambda: vault.unsuppress("ben", "test"))
    assert (built.removed, events(vault, "ben")) == (0, 2)


def test_what_waits_in_the_journal_is_read_while_another_process_writes_the_records(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel
) -> None:
    updater.push([event(), event("new", "i4")], "shop")
    with writing(home):
        held = held_people(home, vault, model, "profiling")
        with opened(home, vault, model) as started:
            assert started.push([event()], "shop").repeated == 1
            started.push([event(item="i2", timestamp=6000)], "shop")
        assert [row["item"] for row in rows_of(home, "new")["events"]] == ["i4"]
    assert dict(zip(held.users, held.histories.lengths.tolist(), strict=True)) == {"ann": 6, "ben": 2, "new": 1}
    assert events(vault, "ann") == 7
    assert build_held(vault, model, held, "test").written == 1  # ben; the others are as the service wrote them
    assert events(vault, "ann") == 7
    assert absorb(home) == 3
    assert rows_of(home, "new")["events"][0]["item"] == "i4"


def test_a_reading_goes_on_when_another_process_replaces_the_parts(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    updater.push([event(item="i6")], "shop")
    absorb(home)
    opened_ones: list[Records] = []

    def open_then_absorb(place: Path) -> Records:
        records = open_records(place)
        opened_ones.append(records)
        if len(opened_ones) == 1:
            updater.push([event()], "shop")
            assert absorb(home) == 1  # writes the part of pushed events anew and removes the one that is to be read
        return records

    monkeypatch.setattr("silhouette_client.ingest.records.open_records", open_then_absorb)
    people = read_people(home, model.numbers, model.words.attributes, "profiling")
    assert dict(zip(people.users, people.histories.lengths.tolist(), strict=True)) == {"ann": 7, "ben": 2}
    assert len(opened_ones) == 2
    for path in (home / "node" / "people" / "parts").iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match="expected a part of the people's records, found none"):
        read_people(home, model.numbers, model.words.attributes, "profiling")


def test_events_of_who_is_erased_while_they_are_pushed_are_taken_back(
    home: Path, vault: Vault, updater: LiveUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Journal.add

    def erased_before(journal: Journal, *given: Any) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", add)
            erase_elsewhere(home, "marked-person")
        return add(journal, *given)

    monkeypatch.setattr(Journal, "add", erased_before)
    outcome = updater.push([event("marked-person"), event("ben")], "shop")
    assert (outcome.accepted, outcome.left_out, outcome.profiles) == (1, 1, 1)
    with Journal.open(home) as journal:
        assert [one.user for _, one in journal.waiting()] == ["ben"]
    assert profile(vault, "marked-person") is None


def test_recommendations_to_who_is_erased_while_they_are_written_down_are_taken_back(
    home: Path, vault: Vault, updater: LiveUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = Journal.show

    def erased_before(journal: Journal, shown: Any) -> list[int]:
        erase_elsewhere(home, "ann")
        return show(journal, shown)

    monkeypatch.setattr(Journal, "show", erased_before)
    updater.note_shown("ann", "m1", ["i1"])
    updater.note_shown("ben", "m1", ["i2"])
    updater.flush()
    with Journal.open(home) as journal:
        assert [one.user for one in journal.shown()] == ["ben"]


def test_a_push_before_the_service_saw_an_import_has_both_in_the_profile_soon(
    home: Path, vault: Vault, updater: LiveUpdater, tmp_path: Path
) -> None:
    ingest(home, write(tmp_path / "events-2.csv", "ann,i8,view,4000,"))
    updater.push([event()], "shop")
    assert events(vault, "ann") == 6
    assert updater.refresh()
    updater.flush()
    assert events(vault, "ann") == 7


def test_what_was_pushed_before_a_look_that_found_nothing_changed_is_not_made_again(
    home: Path, vault: Vault, updater: LiveUpdater, tmp_path: Path
) -> None:
    updater.push([event()], "shop")
    turn = updater.turn()
    updater.push([event("ben")], "shop")
    assert not updater.refresh()
    updater.settle(turn)
    ingest(home, write(tmp_path / "events-2.csv", "ann,i8,view,4000,", "ben,i8,view,4000,"))
    assert updater.refresh()
    updater.flush()
    assert (events(vault, "ann"), events(vault, "ben")) == (6, 4)


def test_a_push_for_who_was_just_let_in_again_has_the_whole_history_soon(
    home: Path, vault: Vault, model: NodeModel
) -> None:
    vault.suppress("ann", "test")
    with opened(home, vault, model) as updater:
        vault.unsuppress("ann", "test")
        updater.push([event()], "shop")
        assert updater.refresh(), "the exclusion list is followed as the records are"
        updater.flush()
    assert events(vault, "ann") == 6


def test_who_was_known_from_pushes_alone_and_erased_elsewhere_is_in_no_memory(
    home: Path, vault: Vault, updater: LiveUpdater
) -> None:
    updater.push([event("new", "i4"), event("new", "i5", 6000)], "shop")
    erase_elsewhere(home, "new")
    vault.unsuppress("new", "test")
    assert updater.refresh()
    updater.push([event("new", "i6", 7000)], "shop")
    assert events(vault, "new") == 1


def test_who_is_erased_while_histories_are_read_anew_is_not_in_them(
    home: Path, vault: Vault, updater: LiveUpdater, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load = updaters._load

    def erased_after(*given: Any) -> Any:
        found = load(*given)
        vault.erase("ann", "test")
        updater.forget("ann")
        return found

    monkeypatch.setattr(updaters, "_load", erased_after)
    ingest(home, write(tmp_path / "events-2.csv", "ben,i8,view,4000,"))
    assert updater.refresh()
    vault.unsuppress("ann", "test")
    updater.push([event("ann", "i6", 7000)], "shop")
    assert events(vault, "ann") == 1


def test_an_import_leaves_out_whom_was_erased_before_it_held_the_records(
    home: Path, vault: Vault, tmp_path: Path
) -> None:
    exclusions = ExcludedAtUse(home)
    erase_elsewhere(home, "ann")
    (taken,) = ingest(home, write(tmp_path / "events-2.csv", "ann,i8,view,4000,"), exclusions=exclusions).taken
    assert (taken.kept, taken.blocked) == (0, 1)
