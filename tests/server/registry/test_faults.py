"""A disk that fails or is full, a process that is killed, a byte that flips: nothing half done, nothing unnoticed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.disks import build_faulty_disk, mounted
from tests.server.registry.house import IDENTITY, LAYOUT, PRIVATE, committed, opened, place, started, vector

from silhouette_server.registry import Registry
from silhouette_server.registry.model_files import ModelFiles
from silhouette_shared.errors import IntegrityError, SilhouetteError, UnavailableError

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]


def script(name: str, *arguments: str, preload: Path | None = None) -> str:
    """Run one of the loops and give its output."""
    extra = {} if preload is None else {"LD_PRELOAD": str(preload)}
    finished = subprocess.run(
        [sys.executable, str(HERE / name), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), **extra},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("faults")
    library = build_faulty_disk(folder)
    # In memory where there is such a disk: thousands of flushes, and what fails is the call, not the device.
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else folder) as root:
        found: dict[str, list[dict[str, Any]]] = json.loads(script("fault_loop.py", root, preload=library))
    return found


def test_a_call_to_the_disk_that_fails_leaves_all_of_an_operation_or_nothing(
    loop: dict[str, list[dict[str, Any]]],
) -> None:
    fired = [one for one in loop["failed"] if one["fired"]]
    reached = Counter((one["operation"], one["kind"]) for one in fired)
    assert reached["commit", "rename"] == 2  # model and card
    assert reached["commit", "sync"] >= 4  # both files, the journal, the database
    assert reached["commit", "folder"] >= 2
    assert min(reached[name, "write"] for name in ("commit", "void", "promote", "submit")) >= 3
    assert {one["standing"] for one in fired} <= {"all", "nothing", "half"}
    assert [one for one in fired if one["standing"] == "half" and one["operation"] != "submit"] == []
    assert [one for one in fired if one["faults"]] == []


def test_who_was_told_that_it_is_done_finds_it_done(loop: dict[str, list[dict[str, Any]]]) -> None:
    assert [one for one in loop["failed"] if not one["message"] and one["standing"] != "all"] == []
    refused = [one for one in loop["failed"] if one["message"]]
    assert all("mend" in one["message"] or "free some" in one["message"] for one in refused)
    assert len(refused) >= 20


def test_without_a_fault_the_same_loop_does_everything(loop: dict[str, list[dict[str, Any]]]) -> None:
    untouched = [one for one in loop["failed"] + loop["killed"] if not one["fired"]]
    assert len(untouched) == 4 * 5 + 4  # each kind was counted up to its last call
    assert all(one["standing"] == "all" and not one["faults"] for one in untouched)


def test_a_process_killed_before_any_call_to_the_disk_leaves_all_or_nothing(
    loop: dict[str, list[dict[str, Any]]],
) -> None:
    fired = [one for one in loop["killed"] if one["fired"]]
    calls = Counter(one["operation"] for one in fired)
    assert calls["commit"] >= 15
    assert {one["standing"] for one in fired if one["operation"] != "submit"} == {"all", "nothing"}
    assert [one for one in fired if one["faults"]] == []


@pytest.mark.parametrize(("kills", "seed"), [(8, 1), pytest.param(30, 2, marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_registry_whose_process_is_killed_again_and_again_verifies_and_loses_no_round(
    tmp_path: Path, kills: int, seed: int
) -> None:
    script("kill_loop.py", str(tmp_path), str(kills), str(seed))
    told = {int(line) for line in (tmp_path / "told").read_text().split()}
    with opened(tmp_path) as registry:
        run = registry.run("open-1")
        assert len(told) >= kills // 2
        assert told <= {one.number for one in run.committed}
        assert len({one.number for one in run.committed} - told) <= kills  # at most the last of each life
        assert all(one.reason == "interrupted" for one in run.void)
        assert sorted(run.rounds) == list(range(1, run.last_begun + 1))
        assert registry.verify() == ()


# A full disk


def commit_many(registry: Registry, run: str) -> None:
    for number in range(1, 500):
        committed(registry, run, number)


def test_a_full_disk_commits_nothing_and_the_round_can_be_committed_when_there_is_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "160k") as disk, opened(disk) as registry:
        run = started(registry)
        committed(registry, run, 1)
        registry.begin_round(run, 2)
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2**20))
        with pytest.raises(UnavailableError, match="free some"):
            registry.commit_round(run, 2, vector(2), LAYOUT)
        assert registry.unfinished(run) == (2,)
        filler.unlink()
        assert registry.verify() == ()
        registry.commit_round(run, 2, vector(2), LAYOUT)
        assert registry.last_committed(run) == 2
        assert registry.verify() == ()


def test_a_full_disk_while_the_entry_is_written_is_the_same(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "96k") as disk:
        disk.joinpath("models").symlink_to(tmp_path / "models")  # files elsewhere: only the database is short of room
        (tmp_path / "models").mkdir()
        with opened(disk) as registry:
            run = started(registry)
            with pytest.raises(UnavailableError, match="free some"):
                commit_many(registry, run)
            before = registry.run(run)
            subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
            assert registry.verify() == ()
            for number in before.unfinished:
                registry.commit_round(run, number, vector(number), LAYOUT)
            committed(registry, run, before.last_begun + 1)
            assert registry.verify() == ()


# Flipped bytes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with opened(folder) as registry:
        run = started(registry)
        for number in (1, 2):
            committed(registry, run, number)
        registry.promote(f"{run}:1")
        registry.contact("north", "connected")
    return folder


def answer_of(folder: Path, contents: object) -> str:
    """How a changed registry answers. Who was seen when is not signed, and is let off."""
    try:
        with Registry.open(place(folder), None, [IDENTITY.public]) as registry:
            if registry.verify():
                return "found"
            return "without effect" if registry.contents == contents else "UNNOTICED"
    except (IntegrityError, UnavailableError):
        return "found"


@pytest.mark.parametrize("flips", [150, pytest.param(4000, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_the_database_is_found_or_has_no_effect(whole: Path, tmp_path: Path, flips: int) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    with Registry.open(place(whole), None, [IDENTITY.public]) as registry:
        known = registry.contents
    content = place(whole).read_bytes()
    draw = random.Random(7)
    came: Counter[str] = Counter()
    for _ in range(flips):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        place(folder).write_bytes(changed)
        (folder / "registry.sqlite-journal").write_bytes(b"")
        came[answer_of(folder, known)] += 1
    assert came["UNNOTICED"] == 0
    assert came["found"] > 0
    assert came["without effect"] > 0  # free space within pages


@pytest.mark.parametrize("pattern", ["*.safetensors", "*.card.json"])
def test_a_flipped_bit_in_a_model_or_a_card_is_found_and_the_file_named(
    whole: Path, tmp_path: Path, pattern: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    path = sorted((folder / "models" / "open-1").glob(pattern))[1]
    content, draw = path.read_bytes(), random.Random(3)
    with Registry.open(place(folder), None, [IDENTITY.public]) as registry:
        for _ in range(60):
            changed = bytearray(content)
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            (fault,) = registry.verify()
            assert fault.place == "open-1:2"
            with pytest.raises(IntegrityError):
                registry.model("open-1:2").read()
        path.write_bytes(content)
        assert registry.verify() == ()
        path.unlink()
        (fault,) = registry.verify()
        assert "No such file" in fault.what


def test_an_older_copy_of_the_registry_is_noticed_by_the_models_it_does_not_know(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    with opened(folder) as registry:
        committed(registry, "open-1", 3)
    shutil.copy(place(whole), place(folder))
    with opened(folder) as registry:
        faults = registry.verify()
    assert [fault.place for fault in faults] == ["open-1:3", "open-1:3"]  # model and card
    assert all("an older copy of the registry was put back" in fault.what for fault in faults)


def test_a_round_that_is_committed_while_everything_is_checked_is_no_fault(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    listed = ModelFiles.rounds

    def overtaken(files: ModelFiles) -> Iterator[tuple[str, int, Path]]:
        monkeypatch.setattr(ModelFiles, "rounds", listed)
        with opened(folder) as another:  # the coordinator, with entries read and files not yet
            committed(another, "open-1", 3)
        return listed(files)

    with Registry.open(place(folder), None, [IDENTITY.public]) as registry:
        monkeypatch.setattr(ModelFiles, "rounds", overtaken)
        assert registry.verify() == ()
        assert registry.run("open-1").last_committed == 3


def test_an_entry_that_changes_while_the_registry_is_open_stops_it(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        other = tmp_path / "other"
        other.mkdir()
        with opened(other) as another:
            started(another, PRIVATE)
            another.submit(PRIVATE)
        shutil.copy(place(other), place(tmp_path))
        with pytest.raises(SilhouetteError, match="changed or went away"):
            registry.begin_round(run, 1)
