"""A sweep on the command line: refused before it starts, or killed half way and gone on with."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from tests.integration.desk import PLAN, Desk, tree

QUICK = PLAN.replace("rounds = 3\nbatch_size", "rounds = 2\nbatch_size") + 'rows = ["popularity", "federated"]\n'


def sweep(*arguments: object) -> tuple[object, ...]:
    return ("sim", "sweep", *arguments, "--mode", "none", "--device", "cpu", "--workers", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epsilon", "1,2", "--mode", "none"), "epsilon changes nothing"),
        (("--epsilon", "1,two"), "expected numbers separated by commas"),
        (("--seed", "0,1.5"), "expected whole numbers separated by commas"),
        (("--scheme", "random,sizes"), "partition.ratios"),
        (("--epsilon", "-1"), "privacy.epsilon"),
        ((), "at least one axis"),
        (("--partners", "70", "--seed", "0"), "60"),  # more partners than people
    ],
)
def test_a_sweep_that_cannot_be_is_refused_with_exit_code_2_and_nothing_written(
    desk: Desk, arguments: tuple[str, ...], message: str
) -> None:
    done = desk.here("sim", "sweep", desk.plan(), *arguments, "--out", desk.out)
    assert done.code == 2, done.err
    assert message in " ".join(done.err.split())
    assert not desk.out.exists()


@pytest.mark.slow
def test_twelve_runs_killed_half_way_go_on_without_repeating_a_finished_one(desk: Desk) -> None:
    plan = desk.plan(QUICK)
    process = desk.start(*sweep(plan, "--seed", "0,1,2,3,4,5", "--partners", "2,3", "--out", desk.out))
    finished: set[Path] = set()
    deadline = time.monotonic() + 600
    while process.poll() is None and len(finished) < 5 and time.monotonic() < deadline:
        finished = set(desk.out.glob("*/runs/*/report.html"))
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it was killed"
    (folder,) = desk.out.iterdir()
    wait_until_nobody_works(folder)
    runs = {path.parent for path in folder.glob("runs/*/report.html") if not (path.parent / "state").exists()}
    assert 0 < len(runs) < 12
    before = {run: (tree(run), (run / "run.json").stat().st_mtime_ns) for run in runs}

    refused = desk.here(*sweep(plan, "--seed", "0,1,2", "--resume", folder))
    assert refused.code == 2
    assert "got one over partners 2,3; seed 0,1,2,3,4,5" in " ".join(refused.err.split())

    done = desk.call("sim", "sweep", "--resume", folder, "--device", "cpu", "--workers", "2", "--format", "json")
    assert done.code == 0, done.err
    assert len(list(folder.glob("runs/*/report.html"))) == 12
    for run, (files, written) in before.items():
        assert (run / "run.json").stat().st_mtime_ns == written
        assert tree(run) == files
        assert f"{run.name}: finished before" in done.err
    assert len(done.document["rows"]) == 24
    assert done.document["failed"] == []
    table = pd.read_csv(folder / "summary.csv")
    assert list(table["seeds"]) == [6] * 4

    # What a single run of the same settings gives, the sweep gave.
    alone = desk.run(plan, "--seed", "3", "--out", desk.out.parent / "alone")
    (inside,) = folder.glob("runs/partners-3_seed-3")
    assert (inside / "rows.csv").read_bytes() == (Path(alone.document["folder"]) / "rows.csv").read_bytes()


def wait_until_nobody_works(folder: Path) -> None:
    """The workers end with the sweep that started them, at once; a lock that is held says that one has not."""
    import fcntl

    for lock in folder.glob("runs/*/.lock"):
        deadline = time.monotonic() + 60
        with lock.open("r+") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    assert time.monotonic() < deadline, f"somebody still works in {lock.parent}"
                    time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_run_and_the_others_finish(desk: Desk) -> None:
    plan = desk.plan(QUICK.replace("rounds = 2\nbatch_size", "rounds = 40\nbatch_size"))
    arguments = ("--seed", "0,1,2", "--mode", "none", "--device", "cpu", "--workers", "1", "--out", desk.out)
    process = desk.start("sim", "sweep", plan, *arguments)
    deadline = time.monotonic() + 300
    while not list(desk.out.glob("*/runs/partners-3_seed-0/state")) and not list(desk.out.glob("*/runs/seed-0/state")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (worker,) = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 4, err
    assert "seed-0: the process of this run ended (signal 9)" in " ".join(err.split())
    (folder,) = desk.out.iterdir()
    assert {path.parent.name for path in folder.glob("runs/*/report.html")} == {"seed-1", "seed-2"}


def workers_of(pid: int) -> list[int]:
    """Children that carry out runs; the other child of a sweep counts its semaphores."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in command:
            found.append(int(stat.parent.name))
    return found
