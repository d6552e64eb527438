"""The store gives back what was written, keeps it secret, notices changes and forgets when told to."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.profiles import KEYRING, Clock, change, profile, rows, same, store_at

from silhouette_client.profiles.exclusions import Exclusion
from silhouette_client.profiles.record import FIELDS
from silhouette_client.profiles.store import ProfileStore, Retention
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError

ANNA, BEN, CLEO = (KEYRING.pseudonym(name) for name in ("anna", "ben", "cleo"))


def test_a_record_comes_back_from_another_opening_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        store.put(ANNA, profile(1))
        store.put(BEN, profile(2))
    with store_at(path) as store:
        assert same(store.get(ANNA), profile(1))
        assert same(store.get(BEN), profile(2))
        assert store.get(CLEO) is None
        only = store.get(ANNA, ("tags",))
        assert only is not None
        assert only.present == ("tags",)
        assert sorted(store.people()) == sorted([ANNA, BEN])
        counts = store.verify()
        assert (counts.people, counts.fields, dict(counts.wrapped_by)) == (2, 2 * len(FIELDS), {1: 2})


def test_a_second_write_takes_the_place_of_the_first_and_uses_another_key(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        store.put(ANNA, profile(1))
        before = rows(path, "SELECT wrapped FROM people")
        store.put(ANNA, replace(profile(2), vector=None))
        assert same(store.get(ANNA), replace(profile(2), vector=None))
        assert rows(path, "SELECT wrapped FROM people") != before
        assert rows(path, "SELECT count(*) FROM fields") == [(len(FIELDS) - 1,)]


def test_nothing_of_a_person_is_readable_in_the_files(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    record = profile(7)
    assert record.vector is not None
    secrets = [b"anna", b"item-7-3", b"Title 3", b"Tag 7", b"Drama", b"gender", record.vector.tobytes(), b"k" * 32]
    with store_at(path) as store:
        store.put(ANNA, record)
        files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}  # the log among them
        assert any(len(content) > 0 and name.endswith("-wal") for name, content in files.items())
        assert not [s for s in secrets for content in files.values() if s in content]
    assert path.stat().st_mode & 0o077 == 0


def test_after_an_erasure_neither_key_nor_ciphertext_nor_person_is_in_the_files(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        for number in range(50):
            store.put(KEYRING.pseudonym(f"other {number}"), profile(number))
        store.put(ANNA, profile(1))
        (wrapped,) = rows(path, "SELECT wrapped FROM people WHERE person = ?", ANNA)[0]
        sealed = [row[0] for row in rows(path, "SELECT sealed FROM fields WHERE person = ?", ANNA)]
        erased = store.erase(ANNA)
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert not [part for part in (wrapped, *sealed) if part in content]
        assert store.get(ANNA) is None
        assert (erased.fields, erased.model, erased.data_key) == (FIELDS, "model-1", True)
        assert store.verify().people == 50
        again = store.erase(ANNA)
        assert (again.fields, again.model, again.data_key) == ((), None, False)


def test_a_field_goes_when_its_time_is_over_and_the_others_stay(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "profiles.sqlite"
    keep = Retention(seconds={"vector": 60})
    with ProfileStore.open(path, KEYRING, retention=keep, clock=clock) as store:
        store.put(ANNA, profile(1))
        clock.now += 59
        assert same(store.get(ANNA), profile(1))
        assert store.purge() == 0
        clock.now += 2
        assert same(store.get(ANNA), replace(profile(1), vector=None))
        (sealed,) = rows(path, "SELECT sealed FROM fields WHERE field = 'vector'")[0]
        assert store.purge() == 1
        assert store.purge() == 0
        assert same(store.get(ANNA), replace(profile(1), vector=None))
        assert sealed not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert store.verify().fields == len(FIELDS) - 1


@pytest.mark.parametrize(("field", "seconds"), [("vectors", 5), ("vector", 0)])
def test_a_retention_that_would_keep_for_ever_is_refused(field: str, seconds: int) -> None:
    with pytest.raises(UsageError, match="expected a positive time for one of vector"):
        Retention(seconds={field: seconds})


def test_profiles_expire_with_the_model_that_made_them(tmp_path: Path) -> None:
    clock = Clock()
    with store_at(tmp_path / "profiles.sqlite", clock=clock) as store:
        store.put(ANNA, profile(1, model="old"))
        store.put(BEN, profile(2, model="new"))
        store.retire("new", grace_seconds=60)
        assert same(store.get(ANNA), profile(1, model="old"))
        clock.now += 61
        assert store.get(ANNA) is None
        assert store.get(BEN) is not None
        assert store.purge() == 1
        assert list(store.people()) == [BEN]
        store.put(ANNA, profile(3, model="new"))
        assert same(store.get(ANNA), profile(3, model="new"))


def test_rotated_keys_open_everything_and_the_old_key_nothing(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        store.put_many((KEYRING.pseudonym(str(n)), profile(n)) for n in range(20))
        fresh = KEYRING.with_new_key()
        assert store.rewrap(fresh) == 20
        assert store.rewrap(fresh) == 0
        assert dict(store.verify().wrapped_by) == {2: 20}
    with store_at(path, fresh.with_active_only()) as store:
        assert same(store.get(KEYRING.pseudonym("3")), profile(3))
    with store_at(path, KEYRING) as store, pytest.raises(IntegrityError, match="key-encryption key 2 in the key file"):
        store.get(KEYRING.pseudonym("3"))


def test_a_row_of_another_person_or_an_older_version_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        store.put(ANNA, profile(1))
        store.put(BEN, profile(2))
        old = rows(path, "SELECT sealed FROM fields WHERE person = ? AND field = 'tags'", ANNA)[0][0]
        store.put(ANNA, profile(3))
        change(path, "UPDATE fields SET sealed = ? WHERE person = ? AND field = 'tags'", old, ANNA)
        with pytest.raises(
            IntegrityError, match=f"profile {ANNA[:8].hex()}, tags: expected what was written"
        ) as caught:
            store.get(ANNA)
        assert caught.value.exit_code == 5
        assert store.get(ANNA, ("vector",)) is not None
        change(path, "UPDATE people SET wrapped = (SELECT wrapped FROM people WHERE person = ?)", BEN)
        with pytest.raises(IntegrityError, match="data key: expected a data key wrapped by a key of this store"):
            store.get(ANNA)
        change(path, "DELETE FROM fields WHERE person = ? AND field = 'weights'", BEN)
        with pytest.raises(IntegrityError, match=f"profile {BEN[:8].hex()}, fields: expected those that were written"):
            store.verify() if store.get(BEN) else None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE people SET version = version + 1",
        "UPDATE people SET model = 'other'",
        "UPDATE people SET fields = 3",
        "UPDATE people SET key_id = 2",
        "UPDATE fields SET expires = 5 WHERE field = 'tags'",
        "UPDATE fields SET version = 9 WHERE field = 'tags'",
        "UPDATE fields SET field = 'other' WHERE field = 'tags'",
        "UPDATE people SET person = zeroblob(32)",
        "DELETE FROM people",
        "UPDATE exclusions SET kind = 'erased'",
        "UPDATE exclusions SET since = since + 1",
        "UPDATE models SET expires = expires + 1",
    ],
)
def test_verify_finds_whatever_is_changed_in_clear(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "profiles.sqlite"
    with store_at(path) as store:
        store.put(ANNA, profile(1, model="old"))
        store.exclude(BEN, Exclusion.suppressed)
        store.retire("new", grace_seconds=1000)
        store.verify()
        change(path, statement)
        with pytest.raises(IntegrityError, match=r"profiles\.sqlite: .* put back a backup"):
            store.verify()


def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    people = {KEYRING.pseudonym(str(number)): profile(number) for number in range(12)}
    with store_at(path) as store:
        store.put_many(people.items())
        store.exclude(ANNA, Exclusion.erased)
    whole = path.read_bytes()
    draw, found, nothing = random.Random(3), 0, 0
    for _ in range(120):
        place = draw.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            with store_at(path) as store:
                store.verify()
                # what passes has to be everything that was written
                assert all(same(store.get(person), record) for person, record in people.items()), place
                assert store.exclusions() == {ANNA}, place
                nothing += 1
        except IntegrityError as error:
            found += "profiles.sqlite" in str(error)
        except UnavailableError as error:  # the version itself
            found += "update Silhouette" in str(error)
    assert found > 25  # the rest of the pages is empty
    assert found + nothing == 120


def test_a_record_is_current_for_the_source_and_the_model_that_made_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    sources = {ANNA: b"a" * 32, BEN: b"b" * 32}
    with store_at(path) as store:
        assert store.put_many([(ANNA, profile(1)), (BEN, profile(2)), (CLEO, profile(3))], sources) == (3, 0)
        wanted = {**sources, CLEO: b"c" * 32}
        assert store.current("model-1", wanted) == {ANNA, BEN}
        assert store.current("model-2", wanted) == set()
        assert store.current("model-1", {ANNA: b"x" * 32}) == set()
        before = rows(path, "SELECT seal FROM basis WHERE person = ?", ANNA)
        store.put(ANNA, profile(1))  # from a source that nobody named
        assert store.current("model-1", wanted) == {BEN}
        store.erase(BEN)
        assert store.current("model-1", wanted) == set()
    change(path, "INSERT INTO basis VALUES (?, ?)", ANNA, before[0][0])  # of an older version of the row
    with store_at(path) as store:
        assert store.current("model-1", wanted) == set()


def test_of_a_person_who_comes_twice_the_last_record_counts(tmp_path: Path) -> None:
    with store_at(tmp_path / "profiles.sqlite") as store:
        assert store.put_many([(ANNA, profile(1)), (BEN, profile(2)), (ANNA, profile(3))]) == (2, 0)
        assert same(store.get(ANNA), profile(3))
        assert store.verify().people == 2


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    script = f"""
import resource, signal, sys
from pathlib import Path
from typing import Any
from tests.profiles import KEYRING, profile, same, store_at
from silhouette_shared.errors import UnavailableError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails, as on a full disk
store = store_at(Path({str(path)!r}))
store.put(KEYRING.pseudonym("anna"), profile(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY))
written = 0
try:
    for number in range(1000):
        store.put(KEYRING.pseudonym(str(number)), profile(number))
        written += 1
except UnavailableError as error:
    assert error.exit_code == 4, error
    print(written, error)
"""
    finished = child(script)
    assert finished.returncode == 0, finished.stderr
    written = int(finished.stdout.split()[0])
    assert "free some" in finished.stdout
    with store_at(path) as store:
        assert same(store.get(ANNA), profile(1))
        for number in range(written):
            assert same(store.get(KEYRING.pseudonym(str(number))), profile(number))
        store.verify()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def child(script: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([str(root), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
