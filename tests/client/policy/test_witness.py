"""A witness keeps the newest head of each node, on the disk, and never goes back."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from silhouette_client.policy.witness import FileWitness, MemoryWitness, Witness
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.privacy.ledger import Head


def head(sequence: int, text: str = "") -> Head:
    return Head(sequence, hashlib.sha256(f"{sequence}{text}".encode()).digest())


@pytest.fixture(params=["file", "memory"])
def witness(request: pytest.FixtureRequest, tmp_path: Path) -> Witness:
    return FileWitness(tmp_path) if request.param == "file" else MemoryWitness()


def test_it_knows_what_it_was_shown_node_by_node(witness: Witness) -> None:
    assert witness.head("north") is None
    witness.publish("north", head(1))
    witness.publish("south", head(7))
    witness.publish("north", head(2))
    assert witness.head("north") == head(2)
    assert witness.head("south") == head(7)


def test_it_never_goes_back(witness: Witness) -> None:
    witness.publish("north", head(5))
    witness.publish("north", head(3))  # another process was faster
    witness.publish("north", head(5))
    assert witness.head("north") == head(5)


def test_it_notices_two_ledgers_of_one_node(witness: Witness) -> None:
    witness.publish("north", head(5))
    with pytest.raises(IntegrityError, match=r"expected the entry 5 that the witness .* has seen, got another: two"):
        witness.publish("north", head(5, "other"))
    assert witness.head("north") == head(5)


def test_many_at_once_end_at_the_newest(witness: Witness) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: witness.publish("north", head(number)), range(1, 101)))
    assert witness.head("north") == head(100)


def test_the_folder_tells_the_history_and_another_object_reads_it(tmp_path: Path) -> None:
    for number in range(1, 201):
        FileWitness(tmp_path).publish("north", head(number))
    lines = (tmp_path / "north.heads").read_text().splitlines()
    assert lines == [f"{number} {head(number).hash.hex()}" for number in range(1, 201)]
    assert FileWitness(tmp_path).head("north") == head(200)


@pytest.mark.parametrize("torn", [1, 10, 66])
def test_a_line_that_a_crash_left_half_written_is_no_head_and_is_replaced(tmp_path: Path, torn: int) -> None:
    witness = FileWitness(tmp_path)
    witness.publish("north", head(1))
    path = tmp_path / "north.heads"
    whole = path.read_bytes()
    path.write_bytes(whole + f"2 {head(2).hash.hex()}\n".encode()[:torn])
    assert witness.head("north") == head(1)
    witness.publish("north", head(2))
    assert path.read_bytes() == whole + f"2 {head(2).hash.hex()}\n".encode()


@pytest.mark.parametrize("line", ["", "2", "two " + "00" * 32, "2 " + "00" * 31, "0 " + "00" * 32, "x" * 9000])
def test_a_damaged_witness_says_so(tmp_path: Path, line: str) -> None:
    (tmp_path / "north.heads").write_text(f"1 {head(1).hash.hex()}\n{line}\n")
    with pytest.raises(IntegrityError, match="expected a number and a hash in its last line"):
        FileWitness(tmp_path).head("north")
    with pytest.raises(IntegrityError, match="expected a number and a hash in its last line"):
        FileWitness(tmp_path).publish("north", head(2))


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    witness = FileWitness(tmp_path / "unmounted")
    for attempt in (lambda: witness.head("north"), lambda: witness.publish("north", head(1))):
        with pytest.raises(UnavailableError, match="expected a folder, found none; mount its disk"):
            attempt()
    assert not (tmp_path / "unmounted").exists()


def test_a_file_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "north.heads").mkdir()
    witness = FileWitness(tmp_path)
    for attempt in (lambda: witness.head("north"), lambda: witness.publish("north", head(1))):
        with pytest.raises(UnavailableError, match="cannot be used"):
            attempt()


def test_a_node_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected node to be"):
        FileWitness(tmp_path / "inner").publish("../north", head(1))
