"""However a training is killed, nothing was released that was not charged before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.client.policy.kill_loop import LIVES_A_RUN, RECORD_BYTES
from tests.ledgers import NODE, Place

from silhouette_client.policy.ledger_store import read_chain
from silhouette_shared.privacy.ledger import Charge, Head

SCRIPT = Path(__file__).with_name("kill_loop.py")
ROOT = Path(__file__).parents[3]


@dataclass
class Aftermath:
    charges: int
    releases: int
    uncharged: int  # releases of which the ledger knows nothing
    other: int  # releases whose charge is another entry, or one that the witness had not seen
    repeated: int  # releases of a round that was released before
    too_many: Counter[str]  # charges without a release, by run


def killed(folder: Path, kills: int, *arguments: str, seed: int = 1) -> Aftermath:
    """Kill a training so many times, then read what it left."""
    place = Place(folder)
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(kills), str(seed), *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    chain = read_chain(place.path)  # verifies all of it
    seen = place.witness.head(NODE)
    assert seen is not None
    chain.check_head(seen, "the witness")
    charged = {
        (entry.content.run, entry.content.round): Head(entry.sequence, head)
        for entry, head in zip(chain.entries, hashes(place), strict=True)
        if isinstance(entry.content, Charge)
    }
    content = (folder / "releases").read_bytes()
    assert len(content) % RECORD_BYTES == 0
    released: dict[tuple[str, int], Head] = {}
    repeated = 0
    for line in content.decode().splitlines():
        run, number, sequence, digest = line.split()
        repeated += (run, int(number)) in released
        released[run, int(number)] = Head(int(sequence), bytes.fromhex(digest))
    return Aftermath(
        charges=len(charged),
        releases=len(released),
        uncharged=len(released.keys() - charged.keys()),
        other=sum(charged.get(key, head) != head or head.sequence > seen.sequence for key, head in released.items()),
        repeated=repeated,
        too_many=Counter(run for run, number in charged if (run, number) not in released),
    )


def hashes(place: Place) -> list[bytes]:
    import sqlite3

    from silhouette_shared.privacy.ledger import Record

    rows = sqlite3.connect(place.path).execute("SELECT body, seal FROM entries ORDER BY sequence").fetchall()
    return [Record(body, seal).hash for body, seal in rows]


def check(found: Aftermath, kills: int) -> None:
    assert found.uncharged == found.other == found.repeated == 0
    assert found.releases >= kills // 2  # it did train
    assert sum(found.too_many.values()) == found.charges - found.releases <= kills
    assert all(count <= LIVES_A_RUN for count in found.too_many.values())


def test_ten_kills_leave_no_release_without_its_charge(tmp_path: Path) -> None:
    check(killed(tmp_path, 10), 10)


@pytest.mark.slow
def test_two_hundred_kills_leave_no_release_without_its_charge(tmp_path: Path) -> None:
    check(killed(tmp_path, 200, seed=2), 200)


def test_the_same_loop_notices_a_training_that_releases_first(tmp_path: Path) -> None:
    found = killed(tmp_path, 10, "release-first")
    assert found.uncharged + found.repeated > 0
