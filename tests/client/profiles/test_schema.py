"""An older store gets what it lacks; a newer one, another's and another file are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.profiles import KEYRING, change, profile, rows, same, store_at

from silhouette_client.profiles.keys import Keyring
from silhouette_shared.errors import IntegrityError, UnavailableError

ANNA, BEN = (KEYRING.pseudonym(name) for name in ("anna", "ben"))


def test_a_store_of_the_first_version_gets_the_tables_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        store.put(ANNA, profile(1))
    for statement in ("DROP TABLE basis", "DROP TABLE segments", "DROP TABLE changes", "PRAGMA user_version = 1"):
        change(path, statement)
    with store_at(path) as store:
        assert same(store.get(ANNA), profile(1))
        store.put_many([(BEN, profile(2))], {BEN: b"history"})
        assert store.current("model-1", {ANNA: b"", BEN: b"history"}) == {BEN}
    assert rows(path, "PRAGMA user_version") == [(3,)]


def test_a_store_of_the_second_version_goes_on_with_higher_numbers_than_its_records_have(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        for number in range(3):
            store.put(ANNA, profile(number))
    for statement in ("DROP TABLE changes", "PRAGMA user_version = 2"):
        change(path, statement)
    with store_at(path) as store:
        seen = store.newest_change()
        assert store.put_many([(ANNA, profile(4)), (BEN, profile(5))], since=seen) == (2, 0)
        assert store.put_many([(ANNA, profile(6)), (BEN, profile(7))], since=seen) == (0, 2)
        assert same(store.get(ANNA), profile(4))


def test_a_newer_store_is_refused_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    store_at(path).close()
    change(path, "PRAGMA user_version = 4")
    before = path.read_bytes()
    with pytest.raises(UnavailableError, match="expected a store of version 3 or older, got 4; update Silhouette"):
        store_at(path)
    assert path.read_bytes() == before


def test_the_keys_of_another_store_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    store_at(path).close()
    with pytest.raises(IntegrityError, match="expected the store of these keys, got another"):
        store_at(path, Keyring.generate())


@pytest.mark.parametrize("content", [b"no database, but a long enough text" * 40, b"SQLite format 3\0" + bytes(8000)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profiles.sqlite"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="expected"):
        store_at(path)
