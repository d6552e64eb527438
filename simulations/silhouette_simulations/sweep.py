"""A sweep: one plan over a grid of settings, each combination a run of its own.

A sweep folder holds `sweep.json` (the base plan and the axes), `runs/` with one ordinary run folder a combination,
`sweep.csv` with every row of every finished run, and `summary.csv` with means over seeds. What is finished is never
repeated and what is half done goes on, so a sweep that was killed is started again with the same command.
"""

import csv
import hashlib
import itertools
import json
import queue
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scipy.stats import t as student

from silhouette_shared.config import Plan, parse_plan, plan_document, with_changes, write_toml
from silhouette_shared.errors import IntegrityError, SilhouetteError, UsageError
from silhouette_simulations.rows import PRIVATE_ROWS
from silhouette_simulations.run_folder import RunFolder, existing_run_folder, make_numbered_folder

AXES: Mapping[str, str] = {
    "epsilon": "privacy.epsilon",
    "partners": "partition.partners",
    "scheme": "partition.scheme",
    "seed": "seed",
}
"""Settings that a sweep goes over, and where they stand in a plan. The seed comes last: it varies fastest."""

Value = float | int | str

SWEEP_COLUMNS = (
    "run",
    "mode",
    *AXES,
    "row",
    "label",
    "hr_at_10",
    "ndcg_at_10",
    "ndcg_low",
    "ndcg_high",
    "spent_epsilon",
    "seconds",
)
SUMMARY_COLUMNS = (
    "mode",
    *(axis for axis in AXES if axis != "seed"),
    "row",
    "label",
    "seeds",
    "hr_at_10",
    "hr_low",
    "hr_high",
    "ndcg_at_10",
    "ndcg_low",
    "ndcg_high",
    "spent_epsilon",
    "seconds",
)
_LEVEL = 0.95


@dataclass(frozen=True)
class Combination:
    """One run of a sweep."""

    name: str  # of its folder, from the settings
    plan: Plan


@dataclass(frozen=True)
class Sweep:
    """A base plan and the values of each axis; all combinations are run."""

    plan: Plan
    axes: Mapping[str, tuple[Value, ...]]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of plan and axes: what a sweep folder belongs to."""
        document = {"plan": self.plan.digest, "axes": {axis: list(values) for axis, values in self.axes.items()}}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def combinations(self) -> tuple[Combination, ...]:
        """Every run, in the order of the axes.

        Raises:
            UsageError: If a combination is no valid plan.
        """
        names = [axis for axis in AXES if axis in self.axes]
        found = []
        for values in itertools.product(*(self.axes[axis] for axis in names)):
            settings = dict(zip(names, values, strict=True))
            try:
                plan = with_changes(self.plan, {AXES[axis]: value for axis, value in settings.items()})
            except UsageError as error:
                raise UsageError(f"{describe(settings)}: {error}") from None
            name = "_".join(f"{axis}-{_short(value)}" for axis, value in settings.items())
            found.append(Combination(name, plan))
        return tuple(found)


def describe(settings: Mapping[str, Value]) -> str:
    """Settings to read: `epsilon 4, seed 0`."""
    return ", ".join(f"{axis} {_short(value)}" for axis, value in settings.items())


def _short(value: Value) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def make_sweep(plan: Plan, axes: Mapping[str, Sequence[Value]]) -> Sweep:
    """Check a grid before anything starts.

    Args:
        plan: What all runs have in common.
        axes: Values by name of the axis, at least one axis.

    Raises:
        UsageError: If there is no axis, one is unknown or empty, a value stands twice, a combination is no valid
            plan, or epsilon is to be varied where nothing is private.
    """
    if not axes:
        raise UsageError(f"expected at least one axis, got none; give {', '.join('--' + axis for axis in AXES)}")
    for axis, values in axes.items():
        if axis not in AXES:
            raise UsageError(f"expected an axis out of {', '.join(AXES)}, got {axis}")
        if not values:
            raise UsageError(f"--{axis}: expected at least one value, got none")
        if len(set(values)) != len(values):
            raise UsageError(f"--{axis}: expected each value once, got {', '.join(map(_short, values))}")
    if "epsilon" in axes and plan.privacy.mode == "none":
        raise UsageError(
            "--epsilon: expected a plan with privacy, got mode none, in which epsilon changes nothing; "
            "leave out --epsilon or --mode none"
        )
    sweep = Sweep(plan, {axis: tuple(axes[axis]) for axis in AXES if axis in axes})
    sweep.combinations()
    return sweep


class SweepFolder:
    """Paths and tables of one sweep.

    Args:
        path: The folder; it exists.
        sweep: What it belongs to.
    """

    def __init__(self, path: Path, sweep: Sweep) -> None:
        self.path, self.sweep = path, sweep
        self.files = RunFolder(path)
        self.combinations = sweep.combinations()

    def run(self, combination: Combination) -> Path:
        """Where the run of a combination lies; it may not exist yet."""
        return self.path / "runs" / combination.name

    def is_finished(self, combination: Combination) -> bool:
        """Whether the run is complete, its report included."""
        folder = RunFolder(self.run(combination))
        return folder.read_json("run.json").get("state") == "complete" and (folder.path / "report.html").is_file()

    def open_run(self, combination: Combination) -> RunFolder:
        """The folder of a run that starts or goes on.

        Raises:
            UsageError: If it holds another plan.
        """
        path = self.run(combination)
        if (path / "plan.toml").is_file():
            return existing_run_folder(path, combination.plan)[0]
        path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path)
        folder.write_text("plan.toml", write_toml(combination.plan))
        return folder

    def write_tables(self) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        """Gather every finished run into `sweep.csv` and `summary.csv`; returns their lines."""
        lines = [
            line
            for combination in self.combinations
            if self.is_finished(combination)
            for line in _lines(combination, self.run(combination))
        ]
        summary = summarise(lines)
        self.files.write_csv("sweep.csv", SWEEP_COLUMNS, lines)
        self.files.write_csv("summary.csv", SUMMARY_COLUMNS, summary)
        return lines, summary


def new_sweep_folder(out: Path, sweep: Sweep) -> SweepFolder:
    """Make a folder for a sweep that starts; a second sweep of the same grid gets a number."""
    folder = SweepFolder(make_numbered_folder(out, f"{sweep.plan.name}-sweep-{sweep.digest[:8]}"), sweep)
    document = {
        "name": sweep.plan.name,
        "digest": sweep.digest,
        "axes": {axis: list(values) for axis, values in sweep.axes.items()},
        "plan": plan_document(sweep.plan),
        "runs": [f"runs/{combination.name}" for combination in folder.combinations],
    }
    folder.files.write_json("sweep.json", document)
    return folder


def existing_sweep_folder(
    path: Path, plan: Plan | None, axes: Mapping[str, Sequence[Value]], mode: str | None = None
) -> SweepFolder:
    """The folder of a sweep that goes on.

    Args:
        path: As `new_sweep_folder` made it.
        plan: What the caller thinks was swept; None takes the folder's word.
        axes: The same for the axes; empty takes the folder's word.
        mode: The same for the privacy mode.

    Raises:
        UsageError: If this is no sweep folder, or it belongs to another plan or other axes.
        IntegrityError: If `sweep.json` is damaged.
    """
    file = path / "sweep.json"
    if not file.is_file():
        raise UsageError(f"{path}: expected a sweep folder with a sweep.json, found none; check the path")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        stored = make_sweep(parse_plan(document["plan"], source=str(file)), document["axes"])
        digest = document["digest"]
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise IntegrityError(f"{file}: expected what a sweep wrote, got a damaged file: {error}") from None
    if digest != stored.digest:
        raise IntegrityError(f"{file}: expected the digest {stored.digest[:12]}, got {digest[:12]}; it was changed")
    given = {axis: tuple(values) for axis, values in axes.items()}
    advice = f"resume it with `silhouette sim sweep --resume {path}` alone, or start a new sweep without --resume"
    if plan is not None and plan.digest != stored.plan.digest:
        raise UsageError(
            f"{path}: expected a sweep of plan {plan.name} ({plan.digest[:8]}), "
            f"got one of plan {stored.plan.name} ({stored.plan.digest[:8]}); {advice}"
        )
    if mode is not None and mode != stored.plan.privacy.mode:
        raise UsageError(
            f"{path}: expected a sweep in mode {mode}, got one in mode {stored.plan.privacy.mode}; {advice}"
        )
    if given and given != stored.axes:
        raise UsageError(f"{path}: expected a sweep over {_axes(given)}, got one over {_axes(stored.axes)}; {advice}")
    return SweepFolder(path, stored)


def _axes(axes: Mapping[str, Sequence[Value]]) -> str:
    return "; ".join(f"{axis} {','.join(map(_short, values))}" for axis, values in axes.items())


class Watcher(Protocol):
    """What a sweep tells while it works; called from several threads."""

    def skipped(self, name: str) -> None:
        """A run that was finished before."""

    def started(self, name: str) -> None:
        """A run starts or goes on."""

    def finished(self, name: str) -> None:
        """A run is complete."""

    def failed(self, name: str, reason: str) -> None:
        """A run ended with an error; the others go on."""


Execute = Callable[[Combination, RunFolder], None]
"""Carries out one run in its folder; raises what goes wrong."""


def carry_out(folder: SweepFolder, execute: Execute, *, workers: int, watcher: Watcher) -> dict[str, SilhouetteError]:
    """Run everything that is not finished, `workers` runs at the same time.

    Tables are written after every run, so that a sweep that is killed leaves what it has.

    Returns:
        The error of each run that failed, in the order of the sweep.

    Raises:
        UnavailableError: If another process works in this sweep folder.
    """
    failures: dict[str, SilhouetteError] = {}
    with folder.files.claimed():
        waiting: queue.SimpleQueue[Combination] = queue.SimpleQueue()
        finished: queue.SimpleQueue[Combination] = queue.SimpleQueue()
        for combination in folder.combinations:
            if folder.is_finished(combination):
                watcher.skipped(combination.name)
            else:
                waiting.put(combination)

        def work() -> None:
            while True:
                try:
                    combination = waiting.get_nowait()
                except queue.Empty:
                    return
                watcher.started(combination.name)
                try:
                    execute(combination, folder.open_run(combination))
                except Exception as error:  # noqa: BLE001 - the other runs go on, whatever happened to this one
                    failures[combination.name] = _explained(error)
                    watcher.failed(combination.name, str(failures[combination.name]))
                else:
                    watcher.finished(combination.name)
                finished.put(combination)

        pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
        try:
            open_work: set[Future[None]] = {pool.submit(work) for _ in range(workers)}
            while open_work:
                _, open_work = wait(open_work, timeout=0.5, return_when=FIRST_COMPLETED)
                if _drain(finished):
                    folder.write_tables()
        finally:
            _drain(waiting)  # after an interrupt nothing more starts
            pool.shutdown(wait=False)
        folder.write_tables()
    return {c.name: failures[c.name] for c in folder.combinations if c.name in failures}


def _drain(waiting: "queue.SimpleQueue[Combination]") -> int:
    count = 0
    with suppress(queue.Empty):
        while True:
            waiting.get_nowait()
            count += 1
    return count


def _explained(error: Exception) -> SilhouetteError:
    if isinstance(error, SilhouetteError):
        return error
    return SilhouetteError(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")


def raise_failures(failures: Mapping[str, SilhouetteError], total: int, path: Path) -> None:
    """Raise one error for all runs that failed, of the kind of the first.

    Raises:
        SilhouetteError: If there is a failure, naming every run with its reason.
    """
    if not failures:
        return
    reasons = "; ".join(f"{name}: {error}" for name, error in failures.items())
    kind = type(next(iter(failures.values())))
    raise kind(
        f"expected {total} finished runs, {len(failures)} failed ({reasons}); "
        f"repeat those with `silhouette sim sweep --resume {path}`"
    )


def _lines(combination: Combination, path: Path) -> Iterable[dict[str, object]]:
    plan = combination.plan
    run = RunFolder(path).read_json("run.json")
    seconds = run.get("row_seconds")
    privacy = RunFolder(path).read_json("privacy.json")
    with (path / "rows.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {
                "run": combination.name,
                "mode": plan.privacy.mode,
                "epsilon": plan.privacy.epsilon if plan.privacy.mode != "none" else None,
                "partners": plan.partition.partners,
                "scheme": plan.partition.scheme,
                "seed": plan.seed,
                "row": row["name"],
                "label": row["label"],
                **{key: float(row[key]) for key in ("hr_at_10", "ndcg_at_10", "ndcg_low", "ndcg_high")},
                "spent_epsilon": privacy.get("epsilon") if row["name"] in PRIVATE_ROWS else None,
                "seconds": seconds.get(row["name"]) if isinstance(seconds, dict) else None,
            }


def summarise(lines: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Means over seeds for each row under each other setting.

    The 95 % interval is Student's over the seeds: how far another seed would move the mean. One seed has none.

    Args:
        lines: As in `sweep.csv`.
    """
    keys = [column for column in SUMMARY_COLUMNS[: SUMMARY_COLUMNS.index("seeds")] if column != "label"]
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in keys), []).append(line)
    summary: list[dict[str, object]] = []
    for key, members in groups.items():
        hit, gain = (_interval([float(str(m[column])) for m in members]) for column in ("hr_at_10", "ndcg_at_10"))
        summary.append(
            {
                **dict(zip(keys, key, strict=True)),
                "label": members[0]["label"],
                "seeds": len(members),
                **dict(zip(("hr_at_10", "hr_low", "hr_high"), hit, strict=True)),
                **dict(zip(("ndcg_at_10", "ndcg_low", "ndcg_high"), gain, strict=True)),
                "spent_epsilon": members[0]["spent_epsilon"],
                "seconds": _mean([m["seconds"] for m in members]),
            }
        )
    return summary


def _interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = float(student.ppf(0.5 + _LEVEL / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def _mean(values: Sequence[object]) -> float | None:
    numbers = [float(str(value)) for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None
