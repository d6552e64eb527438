"""A pushed event is on the disk and in the profile when it is acknowledged, once, and goes with the person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.client.ingest.shop_files import MAPPING, NOW, ingest, mapping, write
from tests.people import ITEMS

from silhouette_client.ingest.absorb import absorb, rows_of
from silhouette_client.ingest.folder import FOLDER
from silhouette_client.ingest.identity import identities
from silhouette_client.ingest.pushed import JOURNAL_NAME, Journal, Pushed, Shown
from silhouette_client.ingest.reading import read_people
from silhouette_client.ingest.records import open_records, writing
from silhouette_client.ingest.removal import remove_people
from silhouette_client.live.updater import LiveUpdater
from silhouette_client.profiles.building import build_held, held_people, made_records
from silhouette_client.profiles.node_model import NodeModel
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving.service import Event, Service
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError

ITEM = [f"i{number}" for number in range(1, ITEMS + 1)]


@pytest.fixture
def updater(home: Path, vault: Vault, model: NodeModel) -> Iterator[LiveUpdater]:
    updater = LiveUpdater.open(home, vault, model, clock=lambda: NOW)
    yield updater
    updater.close()


def event(user: str = "ann", item: str = "i9", timestamp: int = 5000, **more: object) -> Event:
    return Event(user, item, str(more.pop("behaviour", "purchase")), timestamp, **more)  # type: ignore[arg-type]


def held(home: Path, model: NodeModel) -> dict[str, list[int]]:
    people = read_people(home, model.numbers, model.words.attributes, "profiling")
    return {
        user: people.histories.of_people(torch.tensor([row])).items.tolist() for row, user in enumerate(people.users)
    }


def test_a_pushed_event_gives_the_profile_that_a_build_from_all_events_would_give(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel
) -> None:
    outcome = updater.push([event(value=2.5), event(item="i2", timestamp=4000)], "shop")
    assert (outcome.accepted, outcome.profiles, outcome.repeated) == (2, 1, 0)
    record = vault.get("ann", "test", "show")
    people = read_people(home, model.numbers, model.words.attributes, "profiling")
    row = torch.tensor([people.users.index("ann")])
    (whole,) = made_records(model, people.histories.of_people(row), 20)
    assert record is not None
    assert np.array_equal(record.vector, whole.vector)  # type: ignore[arg-type]
    assert record.recommendations == whole.recommendations
    assert {one.item for one in record.recommendations or ()}.isdisjoint({"i9", "i2"})
    assert vault.get("ben", "test", "show") is None  # nobody else's was made


def test_it_is_part_of_what_ingest_holds_and_so_of_the_next_training(
    home: Path, updater: LiveUpdater, model: NodeModel
) -> None:
    updater.push([event(), event("new", "i4", 10)], "shop")
    assert held(home, model) == {"ann": [1, 2, 3, 4, 5, 9], "ben": [4, 8], "new": [4]}
    names = [one.name for one in open_records(home).manifest.files]
    assert names == ["events.csv", "users.csv", "pushed events"]


def test_a_build_leaves_the_profile_of_a_push_as_it_is(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel
) -> None:
    updater.push([event()], "shop")
    built = build_held(vault, model, held_people(home, vault, model, "profiling"), "test")
    assert (built.written, built.unchanged) == (1, 1)  # ben's, and ann's as it is


@pytest.mark.parametrize("given", ["order-17", ""])
def test_the_same_event_again_changes_nothing_also_after_it_was_absorbed(
    home: Path, updater: LiveUpdater, model: NodeModel, given: str
) -> None:
    assert updater.push([event(id=given)], "shop").accepted == 1
    again = updater.push([event(id=given), event(id=given)], "shop")
    assert (again.accepted, again.repeated, again.profiles) == (0, 2, 0)
    assert absorb(home) == 1
    assert absorb(home) == 0
    assert updater.refresh()
    assert updater.push([event(id=given)], "shop").repeated == 1
    assert held(home, model)["ann"] == [1, 2, 3, 4, 5, 9]


def test_an_event_that_a_file_brought_already_is_known(updater: LiveUpdater) -> None:
    outcome = updater.push([event(item="i1", timestamp=1000, behaviour="view")], "shop")
    assert (outcome.accepted, outcome.repeated) == (0, 1)


def test_a_file_that_brings_a_pushed_event_later_adds_nothing(
    home: Path, updater: LiveUpdater, model: NodeModel, tmp_path: Path
) -> None:
    updater.push([event(value=2.0)], "shop")
    absorb(home)
    (taken,) = ingest(home, write(tmp_path / "events-2.csv", "ann,i9,purchase,5000,2", "ann,i8,view,6000,")).taken
    assert (taken.kept, taken.repeated) == (1, 1)
    assert updater.refresh()  # the file is in the histories that the next push goes on from
    updater.push([event(item="i7", timestamp=7000)], "shop")
    assert held(home, model)["ann"] == [1, 2, 3, 4, 5, 9, 8, 7]


def test_what_a_kill_left_without_a_profile_gets_one_at_the_next_start(
    home: Path, vault: Vault, model: NodeModel
) -> None:
    pushed = Pushed("ann", "i9", "view", 5000)
    with Journal.open(home) as journal:  # as far as a killed push came
        journal.add([("e1", int(identities(rows_of([pushed]))[0]), pushed)])
    updater = LiveUpdater.open(home, vault, model, clock=lambda: NOW)
    try:
        record = vault.get("ann", "test", "show")
        assert record is not None
        assert "i9" not in {one.item for one in record.recommendations or ()}
        assert updater.push([event(behaviour="view", id="e1")], "shop").repeated == 1
    finally:
        updater.close()


def test_a_push_whose_profile_failed_succeeds_when_it_is_sent_again(
    vault: Vault, updater: LiveUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> tuple[int, int]:
        raise UnavailableError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(vault, "put_many", full)
        with pytest.raises(UnavailableError, match="the disk is full"):
            updater.push([event()], "shop")
    assert vault.get("ann", "test", "show") is None
    outcome = updater.push([event()], "shop")
    assert (outcome.repeated, outcome.profiles) == (1, 1)
    assert vault.get("ann", "test", "show") is not None


def test_excluded_people_and_unknown_items_are_counted_and_change_no_profile(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel
) -> None:
    vault.suppress("ben", "test")
    outcome = updater.push([event("ben"), event("ann", "nobody-knows-it"), event("cem", "nor-that", 1)], "shop")
    assert (outcome.accepted, outcome.left_out, outcome.unknown_items, outcome.profiles) == (2, 1, 2, 0)
    table = open_records(home).table("events") if absorb(home) else None
    assert table is not None
    assert sorted(set(table.column("user").to_pylist())) == ["ann", "ben", "cem"]
    assert table.num_rows == 9
    assert held(home, model) == {"ann": [1, 2, 3, 4, 5], "ben": [4, 8]}


def test_without_consent_an_event_is_kept_and_no_profile_follows(
    home: Path, vault: Vault, model: NodeModel, tmp_path: Path
) -> None:
    rows = ["ann,profiling,true,10", "ben,profiling,true,10", "ben,profiling,false,20"]
    strict = mapping(MAPPING.replace('"elsewhere"', '"table"'))
    ingest(home, write(tmp_path / "consent.csv", *rows, header="who,purpose,granted,at"), rules=strict)
    updater = LiveUpdater.open(home, vault, model, clock=lambda: NOW)
    try:
        outcome = updater.push([event("ann"), event("ben"), event("stranger")], "shop")
    finally:
        updater.close()
    assert (outcome.accepted, outcome.without_consent, outcome.profiles) == (3, 2, 1)
    assert set(held(home, model)) == {"ann"}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"item": ""}, "an item of 1 to 256 bytes"),
        ({"item": "x" * 257}, "an item of 1 to 256 bytes"),
        ({"user": " ann"}, "a user of 1 to 256 bytes"),
        ({"behaviour": "teleport"}, "a behaviour out of view"),
        ({"timestamp": -1}, "a timestamp in UTC seconds"),
        ({"timestamp": NOW + 90_000}, "at most a day ahead"),
        ({"timestamp": 1000 * NOW}, "a timestamp in UTC seconds"),
        ({"value": float("nan")}, "a finite value"),
        ({"id": "x" * 257}, "an id of at most"),
        ({"text": "x" * 5000}, "a text of at most"),
    ],
)
def test_one_wrong_event_refuses_the_push_and_none_is_taken(
    home: Path, updater: LiveUpdater, wrong: dict[str, object], expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        updater.push([event(), event(**wrong)], "shop")  # type: ignore[arg-type]
    assert str(caught.value).startswith("event 1: expected")
    assert expected in str(caught.value)
    assert "none was taken" in str(caught.value)
    assert absorb(home) == 0


def test_an_erased_person_is_in_no_file_and_no_push_brings_them_back(
    home: Path, vault: Vault, updater: LiveUpdater, model: NodeModel
) -> None:
    marker = "marked-person-7f3a"
    service = Service(vault, updater, forget=updater.forget)
    service.push([event(marker, "i3", 100, id="marked-id-91", text="marked-text-55")], "shop")
    service.push([event(marker, "i4", 200)], "shop")
    service.recommend(marker, "shop")
    updater.flush()
    absorb(home)
    service.push([event(marker, "i5", 300)], "shop")  # this one is in the journal alone
    assert held(home, model)[marker] == [3, 4, 5]
    service.erase(marker, "shop")
    with Journal.open(home) as journal:
        assert list(journal.shown()) == []
        assert journal.waiting() == []
    assert marker not in held(home, model)
    assert service.push([event(marker, "i6", 400)], "shop").left_out == 1
    for path in home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(word in content for word in (marker.encode(), b"marked-id", b"marked-text")), path


def test_files_hold_nothing_readable_of_what_was_pushed_or_recommended(
    home: Path, vault: Vault, updater: LiveUpdater
) -> None:
    service = Service(vault, updater)
    service.push([event("marked-person", "i3", 100, id="marked-id", text="marked-text")], "shop")
    service.recommend("marked-person", "shop")
    updater.flush()
    for path in [*(home / FOLDER).glob(f"{JOURNAL_NAME}*"), home / "profile-audit.log"]:
        assert b"marked" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_a_changed_entry_of_the_journal_is_found(home: Path, updater: LiveUpdater) -> None:
    updater.push([event()], "shop")
    updater.close()
    import sqlite3

    with sqlite3.connect(home / FOLDER / JOURNAL_NAME) as connection:
        connection.execute(
            "UPDATE events SET sealed = CAST(substr(sealed, 1, 20) || x'00' || substr(sealed, 22) AS BLOB)"
        )
    connection.close()
    with pytest.raises(IntegrityError, match="expected an entry that was written here"):
        absorb(home)


def test_a_newer_journal_is_refused_and_left_alone(home: Path) -> None:
    Journal.open(home).close()
    import sqlite3

    path = home / FOLDER / JOURNAL_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(UnavailableError, match="expected a journal of version 1, got 9; update Silhouette"):
        Journal.open(home)


def test_a_reader_of_people_goes_on_while_another_process_writes(
    home: Path, updater: LiveUpdater, model: NodeModel
) -> None:
    updater.push([event()], "shop")
    with writing(home):
        assert held(home, model)["ann"] == [1, 2, 3, 4, 5, 9]  # what was pushed waits, and is read
    assert held(home, model)["ann"] == [1, 2, 3, 4, 5, 9]


def test_what_was_recommended_is_written_down_by_person_and_removed_with_them(
    home: Path, vault: Vault, updater: LiveUpdater
) -> None:
    service = Service(vault, updater)
    service.push([event()], "shop")
    model, items = service.recommend("ann", "shop", count=3)
    updater.flush()
    with Journal.open(home) as journal:
        assert list(journal.shown()) == [Shown("ann", model, NOW, tuple(one.item for one in items))]
        journal.forget_old(NOW + 89 * 86_400)
        assert len(list(journal.shown())) == 1
        journal.forget_old(NOW + 91 * 86_400)
        assert list(journal.shown()) == []
        journal.show([Shown("ben", "m1", NOW, ("i1",))])
    assert remove_people(home, {"ben"})["shown"] == 1


def test_somebody_who_has_seen_nearly_all_is_recommended_the_rest_and_then_nothing(
    vault: Vault, updater: LiveUpdater
) -> None:
    updater.push([event("all", item, number) for number, item in enumerate(ITEM[:-2])], "shop")
    record = vault.get("all", "test", "show")
    assert record is not None
    assert {one.item for one in record.recommendations or ()} == set(ITEM[-2:])
    updater.push([event("all", item, 1000) for item in ITEM[-2:]], "shop")
    record = vault.get("all", "test", "show")
    assert record is not None
    assert record.recommendations == ()
