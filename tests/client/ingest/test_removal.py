"""Removed people are in no part any more, and the others keep every row."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.client.ingest.shop_files import events, ingest, state, write

from silhouette_client.ingest.records import Records, open_records, reading
from silhouette_client.ingest.removal import remove_people
from silhouette_shared.errors import IntegrityError


def test_removed_people_are_in_no_table_and_the_others_keep_every_row(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events-1.csv", "u1,a,view,10,", "u2,b,view,20,1", "u1,secret,cart,30,"))
    ingest(home, write(tmp_path / "events-2.csv", "u3,a,view,10,"))
    ingest(home, write(tmp_path / "events-3.csv", "u1,a,view,11,"))
    ingest(home, write(tmp_path / "users.csv", "u1,w", "u2,m", header="who,sex"))
    before = state(home)
    assert remove_people(home, {"u1"}) == {"events": 3, "users": 1}
    assert [row[:2] for row in events(home)] == [("u2", "b"), ("u3", "a")]
    after = state(home)
    records = open_records(home)
    assert {f"parts/{name}" for name in records.manifest.sealed_files()} == {n for n in after if n.startswith("parts/")}
    kept = {name for name in before if name.startswith("parts/")} & after.keys()
    assert len(kept) == 1  # of u3 alone: every other part held u1
    for name in records.manifest.sealed_files():
        assert b"u1" not in records._vault.get(name)
        assert b"secret" not in records._vault.get(name)
    assert sum(one.kept for one in records.manifest.of("events")) == 2


def test_removing_a_stranger_changes_nothing(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events.csv", "u1,a,view,10,"))
    before = state(home)
    assert remove_people(home, {"u9"}) == {"events": 0}
    assert state(home) == before


def test_a_removed_person_returns_only_with_another_file(home: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "events-1.csv", "u1,a,view,10,")
    ingest(home, file)
    remove_people(home, {"u1"})
    assert ingest(home, file).known == ("events-1.csv",)
    assert events(home) == []


def test_a_reader_reads_again_where_a_part_was_removed_before_it_came_to_it(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events.csv", "u1,a,view,10,", "u2,b,view,20,"))
    seen = []

    def users(records: Records) -> list[str]:
        seen.append(len(records.manifest.sealed_files()))
        if len(seen) == 1:
            remove_people(home, {"u1"})  # between the manifest and its parts, as another process does
        table = records.table("events")
        assert table is not None
        return [str(user) for user in table.column("user").to_pylist()]

    assert reading(home, users) == ["u2"]
    assert len(seen) == 2


def test_a_part_that_nobody_removed_is_missed(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events.csv", "u1,a,view,10,"))
    (name,) = open_records(home).manifest.sealed_files()
    (home / "node" / "people" / "parts" / name).unlink()
    with pytest.raises(IntegrityError, match="expected a part of the people's records, found none; restore it"):
        reading(home, lambda records: records.table("events"))
