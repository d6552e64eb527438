"""A sweep is refused whole or carried out whole: nothing finished is repeated, nothing that fails stops the rest."""

from __future__ import annotations

import json
import math
import threading
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest

from silhouette_shared.config import Partition, Plan, Privacy, read_plan, with_changes
from silhouette_shared.errors import IntegrityError, RefusedError, SilhouetteError, UnavailableError, UsageError
from silhouette_simulations.run_folder import RunFolder
from silhouette_simulations.sweep import (
    SWEEP_COLUMNS,
    Combination,
    SweepFolder,
    carry_out,
    existing_sweep_folder,
    make_sweep,
    new_sweep_folder,
    raise_failures,
    summarise,
)

PLAN = Plan(name="tiny")
AXES = {"epsilon": (2.0, 8.0), "seed": (0, 1, 2)}


class Log:
    """What a sweep told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def skipped(self, name: str) -> None:
        self.told.append(("skipped", name))

    def started(self, name: str) -> None:
        self.told.append(("started", name))

    def finished(self, name: str) -> None:
        self.told.append(("finished", name))

    def failed(self, name: str, reason: str) -> None:
        self.told.append(("failed", f"{name}: {reason}"))

    def of(self, kind: str) -> list[str]:
        return [name for told, name in self.told if told == kind]


def pretend(combination: Combination, folder: RunFolder) -> None:
    """Leave behind what a finished run leaves that a sweep reads; quality is a function of the settings."""
    plan = combination.plan
    rows = ("popularity", "federated_private")
    folder.write_csv(
        "rows.csv",
        ("name", "label", "hr_at_10", "ndcg_at_10", "ndcg_low", "ndcg_high"),
        [
            {
                "name": row,
                "label": row.title(),
                "hr_at_10": 0.1,
                "ndcg_at_10": 0.01 * (plan.privacy.epsilon + plan.seed) if row != "popularity" else 0.04,
                "ndcg_low": 0.0,
                "ndcg_high": 1.0,
            }
            for row in rows
        ],
    )
    folder.write_json("privacy.json", {"mode": "local", "epsilon": plan.privacy.epsilon - 0.01})
    folder.write_text("report.html", "<html>")
    folder.write_json("run.json", {"state": "complete", "row_seconds": {"federated_private": 3.0}})


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep of six runs, none of them begun."""
    return new_sweep_folder(tmp_path / "runs", make_sweep(PLAN, AXES))


def test_a_grid_has_a_run_for_every_combination_the_seed_varying_fastest() -> None:
    combinations = make_sweep(PLAN, {"seed": (0, 1), "partners": (5, 10), "epsilon": (0.5, 2)}).combinations()
    assert [c.name for c in combinations] == [
        f"epsilon-{epsilon}_partners-{partners}_seed-{seed}"
        for epsilon in ("0.5", "2")
        for partners in (5, 10)
        for seed in (0, 1)
    ]
    last = combinations[-1].plan
    assert (last.privacy.epsilon, last.partition.partners, last.seed) == (2.0, 10, 1)
    assert last == with_changes(PLAN, {"privacy.epsilon": 2, "partition.partners": 10, "seed": 1})


@pytest.mark.parametrize(
    ("plan", "axes", "message"),
    [
        (PLAN, {}, "at least one axis"),
        (PLAN, {"width": (16,)}, "axis out of epsilon, partners, scheme, seed"),
        (PLAN, {"seed": ()}, "at least one value"),
        (PLAN, {"seed": (1, 2, 1)}, "each value once, got 1, 2, 1"),
        (PLAN, {"epsilon": (1.0, -1.0)}, "epsilon -1: .*privacy.epsilon: expected a positive number"),
        (PLAN, {"scheme": ("random", "sizes")}, "scheme sizes: .*partition.ratios"),
        (PLAN, {"scheme": ("by-age",)}, "scheme by-age"),
        (PLAN, {"partners": (0,)}, "partition.partners"),
        (Plan(name="tiny", privacy=Privacy(mode="none")), {"epsilon": (1.0, 2.0)}, "epsilon changes nothing"),
        (
            Plan(name="tiny", partition=Partition(partners=2, scheme="sizes", ratios=(1.0, 2.0))),
            {"partners": (2, 3)},
            "partners 3: .*3 positive numbers",
        ),
    ],
)
def test_a_grid_with_a_wrong_combination_is_refused(
    plan: Plan, axes: dict[str, tuple[float, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_sweep(plan, axes)


def test_every_run_is_carried_out_once_in_a_folder_with_its_plan(folder: SweepFolder) -> None:
    log = Log()
    assert carry_out(folder, pretend, workers=2, watcher=log) == {}
    names = [c.name for c in folder.combinations]
    assert sorted(log.of("finished")) == sorted(names)
    for combination in folder.combinations:
        assert read_plan(folder.run(combination) / "plan.toml") == combination.plan


def test_a_finished_run_is_not_repeated_and_a_half_finished_one_goes_on(folder: SweepFolder) -> None:
    first, second = folder.combinations[:2]
    pretend(first, folder.open_run(first))
    halfway = folder.open_run(second)
    halfway.write_json("run.json", {"state": "running"})
    halfway.write_text("state/kept", "here")
    kept: list[str] = []

    def execute(combination: Combination, run: RunFolder) -> None:
        if (run.state / "kept").exists():
            kept.append(combination.name)
        pretend(combination, run)

    log = Log()
    carry_out(folder, execute, workers=1, watcher=log)
    assert log.of("skipped") == [first.name]
    assert first.name not in log.of("started")
    assert kept == [second.name]


def test_a_complete_run_without_its_report_is_not_finished(folder: SweepFolder) -> None:
    first = folder.combinations[0]
    pretend(first, folder.open_run(first))
    assert folder.is_finished(first)
    (folder.run(first) / "report.html").unlink()
    assert not folder.is_finished(first)


def test_a_failed_run_is_named_and_the_others_still_run(folder: SweepFolder) -> None:
    def execute(combination: Combination, run: RunFolder) -> None:
        if combination.plan.seed == 1:
            raise RefusedError("the budget is spent") if combination.plan.privacy.epsilon == 2 else KeyError("oh")
        pretend(combination, run)

    failures = carry_out(folder, execute, workers=3, watcher=Log())
    assert list(failures) == ["epsilon-2_seed-1", "epsilon-8_seed-1"]
    assert len(pd.read_csv(folder.path / "sweep.csv")["run"].unique()) == 4
    with pytest.raises(RefusedError) as raised:
        raise_failures(failures, 6, folder.path)
    assert "6 finished runs, 2 failed" in str(raised.value)
    assert "epsilon-2_seed-1: the budget is spent" in str(raised.value)
    assert "epsilon-8_seed-1: unexpected KeyError" in str(raised.value)
    # Again, and only those two run.
    log = Log()
    assert carry_out(folder, pretend, workers=1, watcher=log) == {}
    assert log.of("started") == list(failures)


def test_without_a_failure_nothing_is_raised(folder: SweepFolder) -> None:
    raise_failures({}, 6, folder.path)


def test_the_kind_of_the_first_failure_decides_the_exit_code(folder: SweepFolder) -> None:
    failures: dict[str, SilhouetteError] = {"a": UnavailableError("x"), "b": UsageError("y")}
    with pytest.raises(UnavailableError):
        raise_failures(failures, 6, folder.path)


def test_runs_are_carried_out_beside_each_other(folder: SweepFolder) -> None:
    together = threading.Barrier(3)

    def execute(combination: Combination, run: RunFolder) -> None:
        together.wait(120)  # breaks unless three runs are here at the same time
        pretend(combination, run)

    assert carry_out(folder, execute, workers=3, watcher=Log()) == {}


def test_two_sweeps_do_not_work_in_one_folder(folder: SweepFolder) -> None:
    with folder.files.claimed(), pytest.raises(UnavailableError, match="another process"):
        carry_out(folder, pretend, workers=1, watcher=Log())


def test_a_sweep_waits_for_workers_of_one_that_was_killed(folder: SweepFolder) -> None:
    """They end a moment after it, and hold the folders of their runs until then."""
    with ExitStack() as ending:
        ending.enter_context(folder.files.claimed())
        threading.Timer(0.3, ending.close).start()
        assert carry_out(folder, pretend, workers=1, watcher=Log()) == {}


def test_the_tables_hold_every_row_of_every_run_and_means_over_seeds(folder: SweepFolder) -> None:
    carry_out(folder, pretend, workers=2, watcher=Log())
    table = pd.read_csv(folder.path / "sweep.csv")
    assert tuple(table.columns) == SWEEP_COLUMNS
    assert len(table) == 12
    private = table[table["row"] == "federated_private"]
    assert list(private["spent_epsilon"]) == pytest.approx([1.99] * 3 + [7.99] * 3)
    assert table[table["row"] == "popularity"]["spent_epsilon"].isna().all()
    summary = pd.read_csv(folder.path / "summary.csv")
    line = summary[(summary["row"] == "federated_private") & (summary["epsilon"] == 8)].iloc[0]
    assert line["seeds"] == 3
    assert line["ndcg_at_10"] == pytest.approx(0.09)
    # Student's t with two degrees of freedom: 4.302653, standard deviation .01 over the root of 3.
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert (line["ndcg_low"], line["ndcg_high"]) == pytest.approx((0.09 - half, 0.09 + half), rel=1e-5)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    line = dict.fromkeys(SWEEP_COLUMNS, "x") | {"hr_at_10": 0.1, "ndcg_at_10": 0.2, "seconds": None}
    (only,) = summarise([line])
    assert (only["ndcg_at_10"], only["ndcg_low"], only["ndcg_high"]) == (0.2, None, None)


def test_a_folder_goes_on_with_its_own_plan_and_axes(folder: SweepFolder) -> None:
    for plan, axes in ((None, {}), (PLAN, AXES), (None, AXES), (PLAN, {})):
        again = existing_sweep_folder(folder.path, plan, axes)
        assert again.sweep == folder.sweep
        assert again.combinations == folder.combinations


@pytest.mark.parametrize(
    ("plan", "axes", "mode", "message"),
    [
        (Plan(name="other"), AXES, None, "expected a sweep of plan other"),
        (None, {"epsilon": (2.0,), "seed": (0, 1, 2)}, None, "epsilon 2; seed 0,1,2, got one over epsilon 2,8"),
        (None, {"seed": (0, 1, 2)}, None, "expected a sweep over seed 0,1,2"),
        (None, {}, "none", "expected a sweep in mode none"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(
    folder: SweepFolder, plan: Plan | None, axes: dict[str, tuple[float, ...]], mode: str | None, message: str
) -> None:
    before = (folder.path / "sweep.json").read_bytes()
    with pytest.raises(UsageError, match=message):
        existing_sweep_folder(folder.path, plan, axes, mode)
    assert (folder.path / "sweep.json").read_bytes() == before


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a sweep folder with a sweep\.json"):
        existing_sweep_folder(tmp_path, None, {})


@pytest.mark.parametrize("damage", ["cut", "axes", "digest"])
def test_a_damaged_sweep_file_is_noticed(folder: SweepFolder, damage: str) -> None:
    path = folder.path / "sweep.json"
    document = json.loads(path.read_text())
    if damage == "axes":
        document["axes"]["seed"] = [7]
    if damage == "digest":
        del document["digest"]
    text = json.dumps(document)
    path.write_text(text[:-20] if damage == "cut" else text)
    with pytest.raises(IntegrityError):
        existing_sweep_folder(folder.path, None, {})


def test_a_second_sweep_of_the_same_grid_has_a_folder_of_its_own(folder: SweepFolder) -> None:
    second = new_sweep_folder(folder.path.parent, folder.sweep)
    assert second.path.name == f"{folder.path.name}-2"
