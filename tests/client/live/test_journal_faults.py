"""The journal of pushed events on a disk that is full, under kills, and without its key."""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import time
from pathlib import Path

import pytest
from tests.children import in_a_child

from silhouette_client.ingest.folder import FOLDER
from silhouette_client.ingest.pushed import JOURNAL_NAME, Journal, Pushed
from silhouette_shared.errors import IntegrityError, UnavailableError


def event(number: int) -> tuple[str, int, Pushed]:
    """Each with an id and a content of its own."""
    return (f"id-{number}", number + 1, Pushed(f"user-{number % 7}", f"item-{number}", "view", number, text="x" * 200))


def numbers(home: Path) -> list[int]:
    with Journal.open(home) as journal:
        return [one.timestamp for _, one in journal.waiting()]


def acknowledged(path: Path) -> list[int]:
    return [number for (number,) in struct.iter_unpack(">I", path.read_bytes())]


def test_a_push_on_a_full_disk_is_told_and_what_was_acknowledged_before_is_there(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails, as on a full disk
        with Journal.open(tmp_path) as journal, told.open("ab", buffering=0) as out:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
            try:
                for number in range(2000):
                    journal.add([event(number)])
                    out.write(struct.pack(">I", number))
            except UnavailableError as error:
                os._exit(40 + error.exit_code if "free some" in str(error) else 2)

    assert in_a_child(fill) == 44, "it is told, with exit code 4"
    assert len(acknowledged(told)) > 20
    assert numbers(tmp_path) == acknowledged(told)
    with Journal.open(tmp_path) as journal:  # and with room again it goes on
        assert not journal.add([event(5000)])[0].repeated


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_no_acknowledged_event_is_lost_to_kills_and_none_is_there_twice(tmp_path: Path, kills: int) -> None:
    told, draw = tmp_path / "told", random.Random(kills)
    with Journal.open(tmp_path):
        told.touch()
    for life in range(kills):
        reader, first = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with Journal.open(tmp_path) as journal, told.open("ab", buffering=0) as out:
                    number = told.stat().st_size // 4
                    while True:
                        journal.add([event(number)])  # the first one again, as an application does after an error
                        out.write(struct.pack(">I", number))
                        os.write(first, b"1")
                        number += 1
            finally:
                os._exit(1)  # a child ends by being killed; anything else is a failure
        os.close(first)
        # Every other life is killed at work, however slow the machine is; the others maybe before.
        if life % 2:
            assert os.read(reader, 1) == b"1"
        time.sleep(draw.uniform(0.01, 0.06))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(reader)  # only now: a child that writes into a closed pipe ends by itself
    said = acknowledged(told)
    assert len(said) >= kills // 2
    assert numbers(tmp_path) in (said, [*said, len(said)]), "and at most the one whose answer the kill met"


def test_a_lost_key_of_the_records_is_named_and_nothing_is_begun_anew(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.add([event(1)])
    key = tmp_path / FOLDER / "key"
    content = key.read_bytes()
    whole = (tmp_path / FOLDER / JOURNAL_NAME).read_bytes()
    key.write_bytes(content[::-1])
    with pytest.raises(IntegrityError), Journal.open(tmp_path) as journal:
        journal.waiting()
    key.unlink()
    with pytest.raises(IntegrityError, match="expected the key of the people's records, found none; restore it"):
        Journal.open(tmp_path)
    assert (tmp_path / FOLDER / JOURNAL_NAME).read_bytes() == whole
    key.write_bytes(content)
    assert numbers(tmp_path) == [1]
