"""`silhouette sim sweep`: one plan over a grid of settings."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_simulations.cli.lists import listed
from silhouette_simulations.cli.sim import (
    DeviceChoice,
    DeviceOption,
    Mode,
    OutOption,
    PlanArgument,
    dataset_for,
    machine_for,
    plan_from,
)

if TYPE_CHECKING:
    from rich.console import Console

    from silhouette_simulations.run_folder import RunFolder
    from silhouette_simulations.sweep import Combination, SweepFolder, Value
    from silhouette_simulations.workers import WorkerPool

_WIDTH_OF_A_PIPE = 160  # columns for output that is no terminal


def register(sim: typer.Typer) -> None:
    """Add the verb `sweep` to `sim`."""
    sim.command("sweep")(sweep_command)


def _axis(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(f"--{name}", metavar="LIST", help=text, show_default=False)
    return option


def sweep_command(
    plan_file: PlanArgument = None,
    epsilon: Annotated[str | None, _axis("epsilon", "Values of epsilon per partner, as 1,2,4,8.")] = None,
    seed: Annotated[str | None, _axis("seed", "Seeds, as 0,1,2.")] = None,
    partners: Annotated[str | None, _axis("partners", "Numbers of partners, as 5,10.")] = None,
    scheme: Annotated[
        str | None, _axis("scheme", "Ways to deal people to partners: random, dirichlet, sizes, attribute.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Override the plan's privacy mode; none trains without it.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="SWEEP",
            help="Go on with the sweep in this folder; no finished run is repeated.",
            show_default=False,
        ),
    ] = None,
    out: OutOption = Path("runs"),
    device: DeviceOption = DeviceChoice.auto,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Runs at the same time, each with an equal share of the cores. Default: one per core, one on a GPU.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Run a plan for every combination of settings: epsilon, seed, partners, scheme.

    The sweep folder holds a run folder for each combination, sweep.csv with every row of every run, and summary.csv
    with means and 95 % intervals over the seeds. A run that fails is named and the others still run; the exit code is
    then that of the failure.
    """
    from silhouette_simulations.disk import require_space
    from silhouette_simulations.runner import check_fits, estimated_bytes
    from silhouette_simulations.sweep import (
        carry_out,
        existing_sweep_folder,
        make_sweep,
        new_sweep_folder,
        raise_failures,
    )
    from silhouette_simulations.workers import WorkerPool

    axes = _axes(epsilon=epsilon, seed=seed, partners=partners, scheme=scheme)
    changes: dict[str, object] = {} if mode is None else {"privacy.mode": mode.value}
    folder = None
    if resume is None:
        sweep = make_sweep(plan_from(plan_file, changes), axes)
    else:
        named = None if plan_file is None else plan_from(plan_file, changes)
        folder = existing_sweep_folder(resume, named, axes, mode and mode.value)
        sweep = folder.sweep
    place = silhouette_home(home)
    dataset = dataset_for(sweep.plan, place)
    open_runs = [c for c in sweep.combinations() if folder is None or not folder.is_finished(c)]
    with console.status("checking every combination"):
        for combination in open_runs:
            check_fits(combination.plan, dataset)
    machine = machine_for("process", device.value, None)
    cores = os.cpu_count() or 1
    beside = workers or (1 if machine.device.type == "cuda" else cores)
    beside = max(1, min(beside, len(open_runs)))
    if folder is None:
        needed = sum(estimated_bytes(combination.plan, dataset) for combination in open_runs)
        require_space(out, needed, option="--out")
        folder = new_sweep_folder(out, sweep)
    console.print(
        f"sweep folder {folder.path}, {len(folder.combinations)} runs, {beside} at a time "
        f"(if it is interrupted: silhouette sim sweep --resume {folder.path})",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    share = max(1, cores // beside)
    with _SweepProgress(console, len(folder.combinations)) as progress, WorkerPool(share) as pool:
        execute = _in_workers(pool, progress, place, str(machine.device), share)
        failures = carry_out(folder, execute, workers=beside, watcher=progress)
    lines, summary = folder.write_tables()
    if output is Format.json:
        emit(_document(folder, lines, summary, {name: str(error) for name, error in failures.items()}))
    else:
        _print_summary(folder, summary)
    raise_failures(failures, len(folder.combinations), folder.path)


def _in_workers(
    pool: WorkerPool, progress: _SweepProgress, home: Path, device: str, cores: int
) -> Callable[[Combination, RunFolder], None]:
    from silhouette_simulations.workers import Task

    def execute(combination: Combination, folder: RunFolder) -> None:
        task = Task(plan=combination.plan, folder=folder.path, home=home, device=device, cores=cores)
        pool.run(task, _RunProgress(progress, combination.name))

    return execute


def _axes(*, epsilon: str | None, seed: str | None, partners: str | None, scheme: str | None) -> dict[str, list[Value]]:
    axes: dict[str, list[Value]] = {}
    for name, text, kind, what in (
        ("epsilon", epsilon, float, "numbers"),
        ("partners", partners, int, "whole numbers"),
        ("scheme", scheme, str, "names"),
        ("seed", seed, int, "whole numbers"),
    ):
        if text is not None:
            axes[name] = listed(name, text, kind, what)
    return axes


class _SweepProgress:
    """One bar for the sweep and one for each run that works; lines where nobody watches."""

    _SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, screen: Console, runs: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        self._screen = screen
        self._runs = runs
        self._over = 0
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._whole = self._bars.add_task("runs", total=runs)

    def __enter__(self) -> _SweepProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def skipped(self, name: str) -> None:
        self._count(name)
        self._line(f"{name}: finished before")

    def started(self, name: str) -> None:
        with self._lock:
            self._begun[name] = time.monotonic()
            self._tasks[name] = self._bars.add_task(name, total=None)
        self._line(f"{name}: started")

    def finished(self, name: str) -> None:
        self._count(name)
        self._line(f"{name}: done in {time.monotonic() - self._begun[name]:.0f} s ({self._over} of {self._runs} runs)")

    def failed(self, name: str, reason: str) -> None:
        self._count(name)
        self._line(f"{name}: failed: {reason}", style="red")

    def doing(self, name: str, what: str, done: int | None, of: int | None) -> None:
        """Where a run is; a line now and then where there are no bars."""
        with self._lock:
            self._bars.update(self._tasks[name], description=f"{name}: {what}", completed=done or 0, total=of)
            now = time.monotonic()
            since = now - max(self._last_line.get(name, 0.0), self._begun[name])
            if due := not self._screen.is_terminal and since >= self._SECONDS_BETWEEN_LINES:
                self._last_line[name] = now
        if due:
            self._line(f"{name}: {what}" + (f", round {done} of {of}" if done and of else ""))

    def _count(self, name: str) -> None:
        with self._lock:
            self._over += 1
            self._bars.update(self._whole, completed=self._over)
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))

    def _line(self, text: str, style: str = "dim") -> None:
        self._screen.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _RunProgress:
    """Progress of one run, told to the sweep's."""

    def __init__(self, sweep: _SweepProgress, name: str) -> None:
        self._sweep, self._name = sweep, name
        self._labels: dict[str, tuple[str, int]] = {}

    def say(self, text: str) -> None:
        self._sweep.doing(self._name, text, None, None)

    def begin(self, name: str, label: str, rounds: int) -> None:
        self._labels[name] = (label, rounds)
        self._sweep.doing(self._name, label, 0, rounds)

    def advance(self, name: str, round_number: int, ndcg: float | None) -> None:
        label, rounds = self._labels[name]
        self._sweep.doing(self._name, label, round_number, rounds)

    def end(self, name: str) -> None:
        del self._labels[name]


def _document(
    folder: SweepFolder,
    lines: Sequence[Mapping[str, object]],
    summary: Sequence[Mapping[str, object]],
    failures: Mapping[str, str],
) -> dict[str, object]:
    return {
        "name": folder.sweep.plan.name,
        "digest": folder.sweep.digest,
        "folder": str(folder.path),
        "axes": {axis: list(values) for axis, values in folder.sweep.axes.items()},
        "runs": [str(folder.run(combination)) for combination in folder.combinations],
        "failed": [{"run": name, "reason": reason} for name, reason in failures.items()],
        "rows": list(lines),
        "summary": list(summary),
    }


def _print_summary(folder: SweepFolder, summary: Sequence[Mapping[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen = Console(highlight=False, width=_WIDTH_OF_A_PIPE)
    varied = [axis for axis, values in folder.sweep.axes.items() if axis != "seed" and len(values) > 1]
    table = Table(title=f"{folder.sweep.plan.name}: means over seeds", title_justify="left", box=None)
    for axis in varied:
        table.add_column(axis, justify="right", no_wrap=True)
    table.add_column("row", no_wrap=True)
    for column in ("seeds", "HR@10", "NDCG@10", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in summary:
        low, high = line["ndcg_low"], line["ndcg_high"]
        table.add_row(
            *(f"{line[axis]:g}" if isinstance(line[axis], float) else str(line[axis]) for axis in varied),
            str(line["label"]),
            str(line["seeds"]),
            f"{line['hr_at_10']:.3f}",
            f"{line['ndcg_at_10']:.4f}",
            "" if low is None else f"{low:.4f} to {high:.4f}",
        )
    screen.print(table)
    screen.print(f"tables: {folder.path / 'summary.csv'}, {folder.path / 'sweep.csv'}", soft_wrap=True)
