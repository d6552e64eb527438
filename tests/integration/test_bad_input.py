"""Bad input is refused whole: the file, the line and the reason, exit code 2, and nothing written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.desk import EVENTS_EACH, PEOPLE, PLAN, Desk, Done, tree, write_films

SECRETS = ("|", "::")  # separators of the people's files: no line of them is ever shown


def assert_refused(done: Done, place: str, reason: str) -> None:
    assert done.code == 2, done.err
    assert done.out == ""
    last = done.err.splitlines()[-1]
    assert last.startswith(f"error: {place}: "), done.err
    assert reason in last
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (PLAN + "[modle]\nwidth = 3\n", ":26", "modle: unknown key; remove it or correct its spelling"),
        (PLAN.replace("blocks", "block"), ":13", "model.block: unknown key"),
        (PLAN.replace("sampling_rate = 0.5", "epsilon = -1"), ":22", "privacy.epsilon: expected a positive number"),
        (PLAN.replace("sampling_rate = 0.5", "epsilon = 0.0"), ":22", "privacy.epsilon: expected a positive number"),
        (PLAN.replace("sampling_rate = 0.5", "epsilon = nan"), ":22", "privacy.epsilon"),
        (PLAN.replace("sampling_rate = 0.5", 'epsilon = "much"'), ":22", "should be a valid number, got 'much'"),
        (PLAN.replace("width = 16", "width = [1"), ":13", "expected TOML, got a file that does not parse"),
        (PLAN.replace("width = 16", "width = 16\nwidth = 17"), ":13", "expected TOML, got a file that does not parse"),
        (PLAN[:100], "", ""),
        ("", "", "name: expected a value, got none"),
        (PLAN.replace('"tiny"', '"../tiny"'), ":1", "name: expected 1 to 64 letters"),
        (PLAN.replace("partners = 3", "partners = 0"), ":9", "partition.partners: expected 1 to 1000 partners, got 0"),
        (PLAN.replace("partners = 3", "partners = 61"), None, "61"),
        (PLAN.replace('"ml-1m"', '"netflix"'), None, "expected a data set out of"),
        (PLAN.replace('"ml-1m"', '"taobao"'), None, "silhouette data get taobao"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_written(desk: Desk, text: str, line: str | None, reason: str) -> None:
    plan = desk.plan(text)
    before = tree(desk.home)
    done = desk.here("sim", "run", plan, "--mode", "none", "--out", desk.out)
    if line is None:  # the plan is one; it does not fit the data
        assert done.code == 2, done.err
        assert reason in done.err
    elif line or reason:
        assert_refused(done, f"{plan}{line}", reason)
    else:
        assert done.code == 2, done.err
    assert not desk.out.exists()
    assert tree(desk.home) == before


def test_a_plan_that_is_missing_a_folder_or_no_text_is_refused(desk: Desk) -> None:
    nowhere, binary = desk.plans / "nowhere.toml", desk.plans / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00name")
    for path, reason in ((nowhere, "found none"), (desk.plans, "cannot be read"), (binary, "does not parse")):
        assert_refused(desk.here("sim", "run", path, "--out", desk.out), str(path), reason)
    assert not desk.out.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--epsilon", "-1"), "privacy.epsilon: expected a positive number"),
        (("--epsilon", "much"), "'much' is not a valid float"),
        (("--mode", "some"), "'some' is not one of"),
        (("--seed", "-1"), "seed: expected a whole number from 0"),
        (("--workers", "0"), "0 is not in the range"),
        (("--frobnicate",), "No such option"),
    ],
)
def test_a_bad_option_is_refused(desk: Desk, arguments: tuple[str, ...], reason: str) -> None:
    done = desk.here("sim", "run", desk.plan(), *arguments, "--out", desk.out)
    assert done.code == 2
    assert reason in " ".join(done.err.replace("│", " ").split())
    assert not desk.out.exists()


def test_the_real_command_ends_with_the_code_and_one_line(desk: Desk) -> None:
    plan = desk.plan(PLAN.replace("blocks", "block"))
    done = desk.run(plan)
    assert_refused(done, f"{plan}:13", "unknown key")
    assert len(done.err.splitlines()) == 1


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """The published files, for a test to spoil."""
    return write_films(tmp_path / "films")


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


def _cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2 + 1])

    return spoil


def _cut_between_lines(folder: Path) -> None:
    lines = (folder / "interactions.csv").read_text().splitlines(keepends=True)
    (folder / "interactions.csv").write_text("".join(lines[: len(lines) // 2]))


def _write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(text)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "place", "reason"),
    [
        (_edit("interactions.csv", "movie_id", "film"), "interactions.csv:1", "got none called movie_id"),
        (_edit("interactions.csv", "user_id,movie_id,rating,seq\n", ""), "interactions.csv:1", "none called user_id"),
        (_edit("interactions.csv", ",0\n", ",now\n"), "interactions.csv:2", "got 'now'"),
        (_edit("interactions.csv", "\n1,", "\nAlice,"), "interactions.csv:2", "a whole number as id in column user"),
        (_edit("users.dat", "7::", "70::"), "interactions.csv:86", "expected a value listed in"),
        (_edit("users.dat", "7::M", "6::M"), "users.dat:7", "expected every value once"),
        (_edit("users.dat", "1::M", "99::F::1::3::0\n1::M"), "users.dat:1", "a user with events in"),
        (_write("interactions.csv", ""), "interactions.csv:1", "expected a table, got an empty file"),
        (_write("users.dat", "\n"), "users.dat:1", "expected a table, got an empty file"),
        (_cut("interactions.csv"), "interactions.csv:", "the file ends inside a line"),
        (_cut("users.dat"), "users.dat:", "the file ends inside a line"),
        (_cut_between_lines, "users.dat:", "a user with events in"),
        (_edit("movies.dat", "::Horror", ""), "movies.dat:", "expected 3 fields, got 2"),
        (lambda folder: (folder / "users.dat").unlink(), "users.dat:1", "expected a readable file"),
        (_write("item_text_llm_CoLaKG.json", '{"1": '), "item_text_llm_CoLaKG.json:1", "expected JSON"),
    ],
)
def test_a_bad_data_set_is_refused_whole(
    desk: Desk, films: Path, tmp_path: Path, spoil: Callable[[Path], None], place: str, reason: str
) -> None:
    spoil(films)
    before, home = tree(films), tmp_path / "new home"
    done = desk.here("data", "get", "ml-1m", "--from", films, "--home", home)
    assert done.code == 2, done.err
    last = done.err.splitlines()[-1]
    assert last.startswith(f"error: {films / place}"), last
    assert reason in last
    assert done.out == ""
    for word in ("Alice", "'99'", "'70'", "'7'", *SECRETS):  # nobody's id, no line of a file
        assert word not in last.removeprefix(f"error: {films}")
    assert not home.exists()
    assert tree(films) == before


def test_a_bad_data_set_leaves_the_good_one_in_the_cache(desk: Desk, films: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(desk.home, home)
    before = tree(home)
    _cut("users.dat")(films)
    assert desk.here("data", "get", "ml-1m", "--from", films, "--home", home).code == 2
    assert tree(home) == before


@pytest.mark.parametrize("content", [b"PK\x05\x06" + bytes(18), b"", b"half"])
def test_an_archive_with_another_checksum_is_refused(desk: Desk, tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "ml-100k.zip"
    archive.write_bytes(content)
    home = tmp_path / "home"
    done = desk.here("data", "get", "ml-100k", "--from", tmp_path, "--home", home)
    assert_refused(done, str(archive), "expected SHA-256 50d2a982")
    assert not home.exists()


@pytest.mark.parametrize("name", ["events.parquet", "items.parquet", "manifest.json"])
def test_a_damaged_cache_is_an_integrity_failure_and_no_run_begins(desk: Desk, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(desk.home, home)
    path = home / "data/ml-1m" / name
    path.write_bytes(path.read_bytes()[:-20])
    before = tree(home)
    done = desk.here("sim", "run", desk.plan(), "--mode", "none", "--out", desk.out, "--home", home)
    assert done.code == 5, done.err
    assert "silhouette data get ml-1m" in done.err
    assert not desk.out.exists()
    assert tree(home) == before


def test_what_is_no_run_folder_cannot_go_on(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    for path in (tmp_path / "other", tmp_path / "nowhere", tmp_path / "other/notes.txt"):
        done = desk.here("sim", "run", "--resume", path)
        assert_refused(done, str(path), "expected a run folder with a plan.toml, found none")
    assert tree(tmp_path / "other") == tree(tmp_path / "other")
    assert [entry.name for entry in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_a_person_with_too_few_events_is_refused_without_a_name(desk: Desk, films: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    lines = (films / "interactions.csv").read_text().splitlines(keepends=True)
    kept = lines[:2] + lines[1 + EVENTS_EACH :]  # one event of the first person
    (films / "interactions.csv").write_text("".join(kept))
    assert desk.here("data", "get", "ml-1m", "--from", films, "--home", home).code == 0
    done = desk.here("sim", "run", desk.plan(), "--mode", "none", "--out", desk.out, "--home", home)
    assert_refused(done, "ml-1m", "expected more than 1 events of every person")
    assert not desk.out.exists()


def test_out_that_is_a_file_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = desk.here("sim", "run", desk.plan(), "--mode", "none", "--out", tmp_path / "file")
    assert_refused(done, str(tmp_path / "file"), "expected a folder to write to")
    assert (tmp_path / "file").read_text() == "mine"


# --- full disks -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount disks of so many bytes; skipped where mounting is not allowed."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("this machine does not allow mounting")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_run_does_not_begin_on_a_disk_that_is_too_small(desk: Desk, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(1_000_000)
    done = desk.here("sim", "run", desk.plan(), "--mode", "none", "--out", disk / "runs")
    assert_refused(
        done, str(disk / "runs"), "of free disk space, got 1 MB; free some or choose another folder with --out"
    )
    assert tree(disk) == {}


def test_data_are_not_fetched_to_a_disk_that_is_too_small(
    desk: Desk, films: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(500_000)
    for arguments in (("ml-1m", "--from", films), ("ml-100k",)):
        done = desk.here("data", "get", *arguments, "--home", disk / "home")
        assert_refused(done, str(disk / "home"), "choose another folder with --home")
        assert tree(disk) == {}


def test_a_disk_that_becomes_full_ends_the_run_and_it_goes_on_when_there_is_room(
    desk: Desk, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(40_000_000)
    # What fills the disk is somebody else's file, written as soon as the first training has a checkpoint.
    fill = f"""
import silhouette_server.coordination.federation as federation
save = federation.write_checkpoint
def write_checkpoint(path, checkpoint):
    save(path, checkpoint)
    try:
        with open({str(disk / "filler")!r}, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
federation.write_checkpoint = write_checkpoint
"""
    done = desk.run(desk.plan(), "--out", disk / "runs", script=fill)
    (folder,) = (disk / "runs").iterdir()
    assert done.code == 4, done.err
    assert f"error: {folder}: the disk is full; free some and go on with" in done.err
    assert f"`silhouette sim run --resume {folder}`" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    (disk / "filler").unlink()
    undisturbed = desk.run(desk.plan())
    resumed = desk.here("sim", "run", "--resume", folder, "--format", "json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["rows"] == undisturbed.document["rows"]


def test_the_estimate_is_not_less_than_what_a_run_writes(desk: Desk) -> None:
    from silhouette_shared.config import read_plan
    from silhouette_simulations import datasets
    from silhouette_simulations.runner import estimated_bytes

    done = desk.here("sim", "run", desk.plan(), "--mode", "none", "--out", desk.out, "--format", "json")
    assert done.code == 0, done.err
    folder = Path(done.document["folder"])
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    dataset = datasets.load("ml-1m", home=desk.home)
    assert len(dataset.users) == PEOPLE
    assert written < estimated_bytes(read_plan(desk.plan()), dataset)
