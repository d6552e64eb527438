"""Who is on the exclusion list stays out, and a changed entry is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.profiles import KEYRING, change, profile, same, store_at

from silhouette_client.profiles.exclusions import ExcludedError, Exclusion
from silhouette_shared.errors import IntegrityError

ANNA, BEN = (KEYRING.pseudonym(name) for name in ("anna", "ben"))


def test_an_erased_person_is_not_written_again_until_lifted(tmp_path: Path) -> None:
    with store_at(tmp_path / "profiles.sqlite") as store:
        store.put(ANNA, profile(1))
        store.erase(ANNA)
        with pytest.raises(ExcludedError, match="exclusion list") as caught:
            store.put(ANNA, profile(1))
        assert caught.value.exit_code == 3
        assert store.put_many([(ANNA, profile(1)), (BEN, profile(2))]) == (1, 1)
        assert store.exclusions() == {ANNA}
        store.exclude(ANNA, Exclusion.suppressed)
        assert store.exclusion(ANNA) is Exclusion.erased
        assert store.include(ANNA)
        assert not store.include(ANNA)
        store.put(ANNA, profile(3))
        assert same(store.get(ANNA), profile(3))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE exclusions SET kind = 'suppressed'",
        "UPDATE exclusions SET since = since - 1",
        "UPDATE exclusions SET seal = zeroblob(32)",
    ],
)
def test_a_changed_entry_is_an_error_whoever_asks_and_nobody_is_written_past_it(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "profiles.sqlite"
    changed = r"profiles\.sqlite: exclusion list: expected an entry that this store wrote, got a changed one"
    with store_at(path) as store:
        store.exclude(ANNA, Exclusion.erased)
        change(path, statement)
        with pytest.raises(IntegrityError, match=changed):
            store.exclusions()
        with pytest.raises(IntegrityError, match=changed):
            store.exclusion(ANNA)
        with pytest.raises(IntegrityError, match=changed):
            store.put(ANNA, profile(1))
        with pytest.raises(IntegrityError, match=changed):
            store.put_many([(ANNA, profile(1)), (BEN, profile(2))])
        assert list(store.people()) == []
