"""A run that was killed, at whatever moment, goes on and ends as if nothing had happened."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tests.integration.desk import PLAN, WITH_TIMES, Desk, Reference, tree

Moment = Callable[[Path], bool]

# Kills in a row are deterministic where the state on disk times them, and seeded where the clock does.


def in_the_first_training(folder: Path) -> bool:
    """After the first round of the federated training."""
    return (folder / "state/trainings/federated/checkpoint.safetensors").exists()


def before_the_first_round(folder: Path) -> bool:
    """While the partners' data are written."""
    return (folder / "state/trainings/federated/nodes").exists()


def between_rows(folder: Path) -> bool:
    """When the federated row is kept and the others begin."""
    return (folder / "state/rows/federated.safetensors").exists()


def while_writing_outputs(folder: Path) -> bool:
    """Among the tables and the partners' folders."""
    return (folder / "ranks.parquet").exists()


def at_the_end(folder: Path) -> bool:
    """When run.json says complete; report and clearing away may be missing."""
    run = folder / "run.json"
    return run.exists() and '"complete"' in run.read_text()


def after_a_first_best(folder: Path) -> bool:
    """When a training that may stop early has kept a model."""
    return (folder / "state/trainings/federated/best.safetensors").exists()


def assert_as_if_nothing_had_happened(folder: Path, reference: Reference) -> None:
    assert tree(folder, leave_out=WITH_TIMES) == tree(reference.folder, leave_out=WITH_TIMES)
    assert json.loads((folder / "run.json").read_text())["state"] == "complete"
    assert (folder / "report.html").stat().st_size > 10_000
    columns = ["row", "round", "replies", "refused", "update_norm", "hr_at_10", "ndcg_at_10"]
    rounds = pd.read_csv(folder / "rounds.csv")[columns]
    pd.testing.assert_frame_equal(rounds, pd.read_csv(reference.folder / "rounds.csv")[columns], check_exact=True)


def test_killed_at_three_moments_and_resumed_it_ends_with_the_same_bytes(desk: Desk, reference: Reference) -> None:
    folder = desk.killed(in_the_first_training, desk.plan())
    assert folder is not None
    assert json.loads((folder / "run.json").read_text())["state"] == "running"
    assert desk.killed(between_rows, "--resume", folder) == folder
    desk.killed(while_writing_outputs, "--resume", folder)
    (folder / ".rows.csv.1.tmp").write_text("half of a ta")  # what a kill inside a write leaves
    done = desk.run("--resume", folder)
    assert done.code == 0, done.err
    assert "Federated: " not in done.err  # nothing finished is trained again
    assert_as_if_nothing_had_happened(folder, reference)
    assert done.document["rows"] == reference.done.document["rows"]


STOPPING = PLAN.replace("rounds = 3\nbatch_size", "rounds = 40\npatience = 2\nbatch_size").replace(
    "every_rounds = 2", 'every_rounds = 1\nrows = ["local_only", "federated", "federated_with_counts"]'
)


def test_a_training_that_stops_early_gives_its_best_round_also_after_a_kill(desk: Desk) -> None:
    done = desk.run(desk.plan(STOPPING))
    assert done.code == 0, done.err
    whole = Path(done.document["folder"])
    rounds = pd.read_csv(whole / "rounds.csv")
    counts = rounds.groupby("row")["round"].max()
    assert counts["federated"] < 40
    assert set(counts.index) == {"federated", *(f"local_only/partner-{number}" for number in range(3))}
    assert [row["name"] for row in done.document["rows"]] == ["local_only", "federated", "federated_with_counts"]
    best = rounds[(rounds["row"] == "federated") & (rounds["round"] == counts["federated"] - 2)]
    federated = done.document["rows"][1]
    assert federated["ndcg_at_10"] == pytest.approx(float(best["ndcg_at_10"].iloc[0]))
    folder = desk.killed(
        lambda place: (place / "state/trainings/federated/best.safetensors").exists(), desk.plan(STOPPING)
    )
    assert folder is not None
    assert desk.run("--resume", folder).code == 0
    assert tree(folder, leave_out=WITH_TIMES) == tree(whole, leave_out=WITH_TIMES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [before_the_first_round, in_the_first_training, between_rows, while_writing_outputs, at_the_end]
)
def test_killed_in_a_phase_and_resumed_it_ends_with_the_same_bytes(
    desk: Desk, reference: Reference, moment: Moment
) -> None:
    folder = desk.killed(moment, desk.plan())
    if folder is None:  # it was faster than the eye; the folder is there all the same
        (folder,) = desk.out.iterdir()
    done = desk.run("--resume", folder)
    assert done.code == 0, done.err
    assert_as_if_nothing_had_happened(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bytes(
    desk: Desk, reference: Reference, seed: int
) -> None:
    draw = random.Random(seed)
    folder: Path | None = None
    for _ in range(3):
        moment = _after(draw.uniform(0.0, 4.0))
        folder = desk.killed(moment, *(("--resume", folder) if folder else (desk.plan(),)))
        if folder is None:
            break
    (folder,) = desk.out.iterdir()
    done = desk.run("--resume", folder)
    assert done.code == 0, done.err
    assert_as_if_nothing_had_happened(folder, reference)


def _after(seconds: float) -> Moment:
    """So long after the run claimed its folder, which is when anything can be lost."""
    began: list[float] = []

    def moment(folder: Path) -> bool:
        if not began and (folder / "run.json").exists():
            began.append(time.monotonic())
        return bool(began) and time.monotonic() - began[0] >= seconds

    return moment


@pytest.mark.parametrize("arguments", [(), ("--mode", "none", "--seed", 0)])
def test_a_complete_run_prints_its_result_again_and_changes_nothing(
    desk: Desk, reference: Reference, arguments: tuple[object, ...]
) -> None:
    before = tree(reference.folder)
    done = desk.here("sim", "run", "--resume", reference.folder, *arguments, "--format", "json")
    assert done.code == 0, done.err
    assert done.document == reference.done.document
    assert "Federated" not in done.err
    assert "counting" not in done.err
    assert tree(reference.folder) == before


@pytest.mark.parametrize(
    ("plan", "arguments", "named"),
    [
        (PLAN.replace("rounds = 3", "rounds = 4"), ("--mode", "none"), "seed 0, mode none), got one of plan tiny"),
        (PLAN.replace('"tiny"', '"other"'), ("--mode", "none"), "expected a run of plan other ("),
        (PLAN, ("--mode", "none", "--seed", 7), "seed 7, mode none), got one of plan tiny"),
        (PLAN, (), "mode local), got one of plan tiny"),
        (None, ("--mode", "local"), "mode local), got one of plan tiny"),
        (None, ("--seed", 7), "seed 7, mode none), got one of plan tiny"),
    ],
)
def test_another_plan_seed_or_mode_is_refused_and_nothing_is_changed(
    desk: Desk, reference: Reference, plan: str | None, arguments: tuple[object, ...], named: str
) -> None:
    before = tree(reference.folder)
    given = () if plan is None else (desk.plan(plan),)
    done = desk.here("sim", "run", *given, *arguments, "--resume", reference.folder)
    assert done.code == 2, done.err
    assert named in done.err
    assert "seed 0, mode none); resume it without naming a plan" in done.err
    assert str(reference.folder) in done.err
    assert done.out == ""
    assert tree(reference.folder) == before
    assert not desk.out.exists()


@pytest.fixture(scope="session")
def half_done(reference: Reference) -> Path:
    """A run that was killed between its rows; tests take a copy."""
    folder = reference.desk.killed(_with_half_a_training, reference.desk.plan())
    assert folder is not None
    return folder


def _with_half_a_training(folder: Path) -> bool:
    kept = list((folder / "state/trainings").glob("local_only/*/checkpoint.safetensors"))
    return between_rows(folder) and bool(kept)


def _flip_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_flip_in_the_middle, _truncate, _empty])
@pytest.mark.parametrize("what", ["trainings/local_only/*/checkpoint.safetensors", "rows/federated.safetensors"])
def test_a_damaged_checkpoint_or_row_is_named_and_never_believed(
    desk: Desk, half_done: Path, what: str, damage: Callable[[Path], None]
) -> None:
    folder = desk.plans / "copy"
    shutil.copytree(half_done, folder)
    path = next((folder / "state").glob(what))
    damage(path)
    done = desk.here("sim", "run", "--resume", folder)
    assert done.code == 5, done.err
    assert f"error: {path}: expected a checkpoint, got a damaged file" in done.err
    assert "Traceback" not in done.err
    assert not (folder / "rows.csv").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 3}', '{"state": "complete"}'])
def test_a_damaged_run_file_is_named(desk: Desk, reference: Reference, content: str) -> None:
    folder = desk.plans / "copy"
    shutil.copytree(reference.folder, folder)
    (folder / "run.json").write_text(content)
    done = desk.here("sim", "run", "--resume", folder)
    assert done.code == 5, done.err
    assert "run.json" in done.err


def test_other_data_than_the_run_began_with_are_refused(desk: Desk, half_done: Path) -> None:
    folder = desk.plans / "copy"
    shutil.copytree(half_done, folder)
    before = tree(folder)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "dataset_digest": "0" * 64}))
    done = desk.here("sim", "run", "--resume", folder)
    assert done.code == 2, done.err
    assert "expected the ml-1m that the run began with (SHA-256 000000000000)" in done.err
    assert tree(folder, leave_out=["run.json"]) == {name: hash_ for name, hash_ in before.items() if name != "run.json"}


def test_a_second_process_on_the_same_run_is_refused(desk: Desk, half_done: Path) -> None:
    folder = desk.plans / "copy"
    shutil.copytree(half_done, folder)
    before = tree(folder)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the first process holds it
        done = desk.here("sim", "run", "--resume", folder)
    assert done.code == 4, done.err
    assert "another process works on this run; wait for it or stop it" in done.err
    assert tree(folder) == before


@pytest.mark.slow
def test_of_two_processes_at_once_one_finishes_and_one_is_refused(desk: Desk, half_done: Path) -> None:
    folder = desk.plans / "copy"
    shutil.copytree(half_done, folder)
    both = [desk.start("sim", "run", "--resume", folder) for _ in range(2)]
    ends = [process.communicate(timeout=400) for process in both]
    # Unless one was over before the other began, which then only prints the result.
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 4], [0, 0]), ends
    assert json.loads((folder / "run.json").read_text())["state"] == "complete"


def test_an_interrupt_ends_it_within_a_round_and_says_how_to_go_on(desk: Desk) -> None:
    many = desk.plan(PLAN.replace("rounds = 3", "rounds = 2000", 1))
    process = desk.start("sim", "run", many, "--mode", "none", "--out", desk.out)
    while not list(desk.out.glob("*/state/trainings/federated/checkpoint.safetensors")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert f"to go on: silhouette sim run --resume {next(desk.out.iterdir())}" in err
    assert "Traceback" not in err
