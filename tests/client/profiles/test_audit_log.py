"""The audit log says who touched whom, and notices every change to what it said."""

from __future__ import annotations

import fcntl
import os
import random
import threading
from pathlib import Path

import pytest
from tests.profiles import Clock

from silhouette_client.policy.witness import FileWitness
from silhouette_client.profiles.audit_log import Access, AuditLog, read_log, verify_log
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError

KEY = b"a" * 32
ANNA = bytes(range(32))


def log_of(path: Path, count: int = 6) -> Path:
    with AuditLog(path, KEY, Clock()) as log:
        for number in range(count):
            log.record([Access(f"app-{number}", "GetProfile", ANNA)])
    return path


def test_entries_come_back_in_order_with_who_what_whom_and_when(tmp_path: Path) -> None:
    path, clock = tmp_path / "audit.log", Clock()
    with AuditLog(path, KEY, clock) as log:
        log.record([Access("app", "GetProfile", ANNA), Access("app", "Recommend", b"", "denied")])
        clock.now -= 100  # a clock that is set back
        log.record([Access("cli:root", "erase", ANNA)], flush=True)
        assert log.head == verify_log(path, KEY)
    found = list(read_log(path, KEY))
    assert [(e.number, e.access.who, e.access.method, e.access.person, e.access.outcome) for e in found] == [
        (1, "app", "GetProfile", ANNA, "granted"),
        (2, "app", "Recommend", b"", "denied"),
        (3, "cli:root", "erase", ANNA, "granted"),
    ]
    assert found[2].time == found[1].time == int(Clock().now * 1000)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("who", ["", "two words", "line\nbreak", "-first", "x" * 129, "ä"])
def test_a_name_that_could_look_like_another_entry_is_refused(who: str) -> None:
    with pytest.raises(UsageError, match="expected who of an audit entry"):
        Access(who, "GetProfile", ANNA)


def test_a_changed_removed_moved_or_added_line_is_named(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.log")
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong, named in [
        ([*lines[:2], lines[2].replace(b"app-2", b"app-9"), *lines[3:]], 3),
        ([*lines[:2], *lines[3:]], 3),
        ([lines[1], lines[0], *lines[2:]], 1),
        ([*lines[:4], lines[3], *lines[4:]], 5),
        ([*lines, b"7 1790000000000 app GetProfile granted - " + b"00" * 32 + b"\n"], 7),
        ([*lines, b"7 17900"], 7),
    ]:
        path.write_bytes(b"".join(wrong))
        with pytest.raises(IntegrityError, match=f"entry {named}: expected an entry that continues") as caught:
            verify_log(path, KEY)
        assert caught.value.exit_code == 5


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.log")
    whole, draw = path.read_bytes(), random.Random(1)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="entry"):
            verify_log(path, KEY)


def test_another_key_seals_nothing_here(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.log")
    with pytest.raises(IntegrityError, match="entry 1"):
        verify_log(path, b"b" * 32)
    with pytest.raises(IntegrityError, match="entry 6"):
        AuditLog(path, b"b" * 32)


def test_a_log_cut_at_its_end_is_noticed_by_its_witness(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.log")
    (tmp_path / "witness").mkdir()
    witness = FileWitness(tmp_path / "witness")
    with AuditLog(path, KEY, Clock()) as log:
        head = log.publish("north", witness)
    assert head is not None
    assert verify_log(path, KEY, witness.head("north")) == head
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    assert verify_log(path, KEY) is not None  # by itself it fits together
    with pytest.raises(IntegrityError, match="entry 6 that the witness has seen, got a log that ends at 4"):
        verify_log(path, KEY, witness.head("north"))
    with AuditLog(path, KEY, Clock()) as log:  # and going on from there does not heal it
        log.record([Access("app", "GetProfile", ANNA)] * 2)
    with pytest.raises(IntegrityError, match="got another: it was cut or replaced"):
        verify_log(path, KEY, witness.head("north"))


def test_a_half_written_line_of_a_crash_is_dropped_and_the_log_goes_on(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.log", 3)
    with path.open("ab") as file:
        file.write(b"4 179000000")
    with AuditLog(path, KEY, Clock()) as log:
        log.record([Access("app", "Recommend", ANNA)])
    assert [entry.number for entry in read_log(path, KEY)] == [1, 2, 3, 4]
    alone = tmp_path / "first.log"
    alone.write_bytes(b"1 17")
    log_of(alone, 2)
    assert len(list(read_log(alone, KEY))) == 2


def test_two_openings_and_many_threads_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with AuditLog(path, KEY) as one, AuditLog(path, KEY) as other:

        def write(log: AuditLog) -> None:
            for _ in range(50):
                log.record([Access("app", "GetProfile", ANNA)] * 2)

        threads = [threading.Thread(target=write, args=(log,)) for log in (one, other, one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    head = verify_log(path, KEY)
    assert head is not None
    assert head.sequence == 400


def test_whoever_checks_the_log_waits_for_an_entry_that_is_half_written(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.log", 4)
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as service:
        fcntl.flock(service, fcntl.LOCK_EX)
        service.truncate(len(whole) - 20)

        def go_on() -> None:
            service.seek(0)
            service.write(whole)
            fcntl.flock(service, fcntl.LOCK_UN)

        threading.Timer(0.3, go_on).start()
        head = verify_log(path, KEY)
    assert head is not None
    assert head.sequence == 4


def test_a_log_that_became_shorter_under_an_open_service_stops_it(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.log")
    with AuditLog(path, KEY, Clock()) as log:
        os.truncate(path, 10)
        with pytest.raises(IntegrityError, match="expected the entry 6 that was there, got a shorter log"):
            log.record([Access("app", "GetProfile", ANNA)])


def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = log_of(tmp_path / "audit.log")
    before, real = path.read_bytes(), os.pwrite
    with AuditLog(path, KEY, Clock()) as log:
        monkeypatch.setattr(os, "pwrite", lambda file, content, place: real(file, content[:20], place))
        with pytest.raises(UnavailableError, match=r"cannot be written \(the disk is full\); .* nobody is read"):
            log.record([Access("app", "GetProfile", ANNA)])
        monkeypatch.undo()
        assert path.read_bytes() == before
        log.record([Access("app", "GetProfile", ANNA)])
    head = verify_log(path, KEY)
    assert head is not None
    assert head.sequence == 7


def test_a_log_that_is_not_there_is_no_empty_log(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected an audit log, found none"):
        verify_log(tmp_path / "none.log", KEY)
