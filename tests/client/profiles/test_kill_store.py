"""However often a writer or a rotation is killed, what was acknowledged is there and everything opens."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tests.client.profiles.kill_store import PEOPLE
from tests.profiles import profile, same

from silhouette_client.profiles.audit_log import LOG_NAME
from silhouette_client.profiles.vault import Vault, rotate

ROOT = Path(__file__).parents[3]


def kill(home: Path, kills: int, what: str) -> None:
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    finished = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_store.py")), str(home), str(kills), "1", what],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_no_acknowledged_write_is_lost(tmp_path: Path, kills: int) -> None:
    kill(tmp_path, kills, "write")
    content = (tmp_path / "acknowledged").read_bytes()
    newest = dict(struct.iter_unpack(">II", content))  # the last one of each person stays
    assert len(content) // 8 > kills  # it did write between the kills
    with Vault.open(tmp_path) as vault:
        for person in range(PEOPLE):
            found = vault.get(str(person), "test", "check")
            assert found is not None
            # what was acknowledged, or the one write after it that the kill met before its acknowledgement
            candidates = [
                n for n in range(newest.get(person, 0), len(content) // 8 + 2) if n % PEOPLE == person or n == 0
            ]
            assert any(same(found, profile(number)) for number in candidates), person
        counts, head = vault.verify(tmp_path / LOG_NAME)
        assert counts.people == PEOPLE
        assert head is not None
        assert head.sequence >= len(content) // 8


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_a_killed_rotation_goes_on_and_everything_opens(tmp_path: Path, kills: int) -> None:
    kill(tmp_path, kills, "rotate")
    with Vault.open(tmp_path) as vault:
        assert all(same(vault.get(str(person), "test", "check"), profile(0)) for person in range(PEOPLE))
    rotate(tmp_path, "test")
    with Vault.open(tmp_path) as vault:
        counts, _ = vault.verify(tmp_path / LOG_NAME)
        assert list(counts.wrapped_by.values()) == [PEOPLE]
        assert max(counts.wrapped_by) > 1
