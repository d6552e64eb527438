"""The ledger key appears whole, once, and for its owner alone."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from silhouette_client.policy.ledger_key import make_key, read_key
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError


def test_a_key_is_made_once_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "ledger.key"
    before = os.umask(0)
    try:
        make_key(path)
    finally:
        os.umask(before)
    key = read_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_key(path)
    assert read_key(path) == key
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_is_first_makes_the_key_of_all(tmp_path: Path) -> None:
    path = tmp_path / "ledger.key"

    def make(_: int) -> bytes:
        make_key(path)
        return read_key(path)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(32)))) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        make_key(tmp_path / "none" / "ledger.key")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "ledger.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(IntegrityError, match="expected a key of 32 bytes, got") as caught:
        read_key(path)
    assert "00" not in str(caught.value).replace(str(path), "")


def test_something_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a file, got something else"):
        read_key(tmp_path)
    with pytest.raises(IntegrityError, match="found none; put it back"):
        read_key(tmp_path / "none")
