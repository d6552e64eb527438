"""A disk that is full or fails at a charge: nothing is released, and the next start is clean."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.children import in_a_child
from tests.disks import build_faulty_disk, mounted
from tests.ledgers import ANY, NODE, STEP, Place, charge

from silhouette_client.policy.ledger_store import Ledger, read_chain
from silhouette_shared.errors import UnavailableError

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of a charge when each of its calls to the disk failed in turn, and of a start."""
    folder = tmp_path_factory.mktemp("faults")
    shim = build_faulty_disk(folder)
    finished = subprocess.run(
        [sys.executable, str(HERE / "fault_loop.py"), str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "LD_PRELOAD": str(shim),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


@pytest.fixture
def outcomes(faulty: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = faulty["charges"]
    return found


@pytest.mark.parametrize(("kind", "least"), [("sync", 4), ("write", 4), ("truncate", 1)])
def test_a_charge_survives_no_failing_call(outcomes: list[dict[str, Any]], kind: str, least: int) -> None:
    failed = [outcome for outcome in outcomes if outcome["kind"] == kind and outcome["fired"]]
    assert len(failed) >= 2 * least  # with two errors each: the faults did reach the database and the witness
    assert [outcome for outcome in failed if outcome["released"]] == []
    assert all("mend" in outcome["message"] or "free some" in outcome["message"] for outcome in failed)


def test_without_a_fault_the_same_loop_releases(outcomes: list[dict[str, Any]]) -> None:
    untouched = [outcome for outcome in outcomes if not outcome["fired"]]
    assert len(untouched) == 6  # each kind and error was counted up to its last call
    assert all(outcome["released"] and outcome["charged"] for outcome in untouched)


def test_a_start_makes_sure_of_the_names_of_its_files(faulty: dict[str, Any]) -> None:
    # SQLite flushes the journal's folder at each charge and ignores a failure. The names are there since the start.
    assert "Input/output error" in faulty["start"]


# Without a compiler and without root


def charge_until_it_fails(ledger: Ledger, first: int = 1) -> tuple[int, str]:
    """The first round that was refused by the disk, and why."""
    for number in range(first, first + 500):
        try:
            receipt = ledger.charge(charge(number))
        except UnavailableError as error:
            return number, str(error)
        receipt.redeem(STEP)
    raise AssertionError("the disk never failed")


def test_a_file_that_may_not_grow_stops_the_charge(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.open().close()

    def work() -> None:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        with place.open() as ledger:
            resource.setrlimit(resource.RLIMIT_FSIZE, (place.path.stat().st_size + 8192, most))
            number, message = charge_until_it_fails(ledger)
            assert "nothing was released" in message, message
            with pytest.raises(UnavailableError, match="open it again"):
                ledger.charge(charge(number + 1))
        with place.open() as ledger:  # still no room, but everything that was charged is there
            assert ledger.head.sequence == 2 + number - 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        with place.open() as ledger:
            ledger.charge(charge(number)).redeem(STEP)

    assert in_a_child(work) == 0
    assert place.witness.head(NODE) == read_chain(place.path).head


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    with mounted(tmp_path / "small", "64k") as folder:
        yield folder


def test_a_full_disk_stops_the_charge_and_the_next_start_is_clean(tmp_path: Path, small_disk: Path) -> None:
    place = Place(tmp_path)
    place.path = small_disk / "ledger.sqlite"
    place.key = place.path.with_suffix(".key")
    with place.open() as ledger:
        number, message = charge_until_it_fails(ledger)
        assert "free some" in message
        assert number > 10
    with place.open() as ledger:  # the disk is still full
        assert ledger.head.sequence == 2 + number - 1
        again, message = charge_until_it_fails(ledger, number)
        assert again == number
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    with place.open() as ledger:
        ledger.charge(charge(number)).redeem(STEP)
    assert place.witness.head(NODE) == read_chain(place.path).head


def test_a_witness_whose_disk_is_full_stops_the_release(tmp_path: Path, small_disk: Path) -> None:
    place = Place(tmp_path)
    place.witness = type(place.witness)(small_disk)
    with place.open() as ledger:
        ledger.charge(charge(1)).redeem(STEP)
        (small_disk / "filler").write_bytes(bytes(4096))
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "more").write_bytes(bytes(65536))
        number, message = charge_until_it_fails(ledger, 2)
        assert "No space left on device" in message
        (small_disk / "more").unlink()
        (small_disk / "filler").unlink()
        ledger.charge(charge(number + 1)).redeem(STEP)
    place.open().close()


def test_a_ledger_does_not_begin_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    place = Place(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(65536 + 1))
    with pytest.raises(UnavailableError, match=r"No space left|full"):
        Ledger.open(small_disk / "ledger.sqlite", node=NODE, limits=ANY, witness=place.witness)
    (small_disk / "filler").unlink()
    with Ledger.open(small_disk / "ledger.sqlite", node=NODE, limits=ANY, witness=place.witness) as ledger:
        ledger.charge(charge(1)).redeem(STEP)
