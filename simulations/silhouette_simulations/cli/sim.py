"""`silhouette sim`: run plans, repeat them over settings, compare and report."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import (
    Format,
    FormatOption,
    HomeOption,
    console,
    emit,
    is_full_disk,
    silhouette_home,
)
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from silhouette_shared.config import Plan
    from silhouette_simulations.datasets import Dataset
    from silhouette_simulations.training import Machine
    from silhouette_simulations.world import World

sim = typer.Typer(
    name="sim",
    help="Simulate partners, coordinator and network on public data, before anyone deploys.",
    no_args_is_help=True,
    add_completion=False,
)


@sim.callback()
def _noun() -> None:
    """Keep `sim` a group however many verbs it has."""


class Mode(StrEnum):
    """Whether partners train with privacy."""

    local = "local"
    distributed = "distributed"
    none = "none"


class BackendChoice(StrEnum):
    """Where the Flower apps run."""

    process = "process"
    ray = "ray"


class EngineChoice(StrEnum):
    """How clipped sums over people are computed; both give the same."""

    bookkeeping = "bookkeeping"
    opacus = "opacus"


class DeviceChoice(StrEnum):
    """Where tensors live."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


PlanArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PLAN]",
        help="A plan file (TOML). Default: a quick plan on ml-100k that comes with the package.",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where run folders are made.")]
RecordOption = Annotated[
    Path | None,
    typer.Option("--record", metavar="FILE", help="Add the rows to this file of results.", show_default=False),
]
DeviceOption = Annotated[DeviceChoice, typer.Option("--device", help="auto takes the GPU if there is one.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Partners that train at the same time. Default: one per core, one on a GPU.",
        show_default=False,
    ),
]


@sim.command("run")
def run_command(
    plan_file: PlanArgument = None,
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", help="Override the plan's privacy mode; none trains without it."),
    ] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", help="Override the plan's epsilon per partner.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Override the plan's seed.")] = None,
    secure_aggregation: Annotated[
        bool,
        typer.Option("--secure-aggregation", help="Let the coordinator see the partners' sum alone (SA-1)."),
    ] = False,
    audit: Annotated[
        Path | None,
        typer.Option(
            "--audit",
            metavar="RESULT",
            help="A signed result of `silhouette audit run` on this plan; the privacy statement says what it found.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with the run in this folder, after it was stopped or killed.",
            show_default=False,
        ),
    ] = None,
    record: RecordOption = None,
    out: OutOption = Path("runs"),
    backend: Annotated[
        BackendChoice,
        typer.Option("--backend", help="Run the Flower apps in this process or on Ray."),
    ] = BackendChoice.process,
    engine: Annotated[
        EngineChoice,
        typer.Option("--engine", help="Clipped sums by one-pass book-keeping, or by Opacus' hooks: the same, slower."),
    ] = EngineChoice.bookkeeping,
    device: DeviceOption = DeviceChoice.auto,
    workers: WorkersOption = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Train across simulated partners and report what federation and privacy cost.

    The public data come from the cache, and ml-100k is fetched the first time. The run folder holds tables, the global
    model, each partner's profiles and recommendations, and report.html.

    A run that was interrupted, killed, or stopped by a full disk or by too few answers (exit code 4) goes on with
    --resume. A plan or data that are refused end with exit code 2 before anything is written; a damaged file of the
    cache or of the run ends with 5.
    """
    from silhouette_shared.allocator import keep_freed_memory

    changes = _changes(mode, epsilon, seed)
    if secure_aggregation:
        changes["aggregation.protocol"] = "sa-1"
    # Before the heavy imports, so that a mistake in the plan is answered at once.
    asked = plan_from(plan_file, changes)
    keep_freed_memory()
    from silhouette_simulations.disk import require_space
    from silhouette_simulations.result import read_result
    from silhouette_simulations.run_folder import AUDIT_FILE, existing_run_folder, new_run_folder
    from silhouette_simulations.runner import check_fits, estimated_bytes, run
    from silhouette_simulations.training import workers_for

    folder, plan = None, asked
    if resume is not None:
        folder, plan = existing_run_folder(resume, None if plan_file is None else asked, changes)
    audited = None if audit is None else audit_text(audit, plan)
    dataset = dataset_for(plan, silhouette_home(home))
    check_fits(plan, dataset)
    machine = machine_for(backend.value, device.value, workers, engine.value)
    if workers_for(plan, machine) < machine.workers:
        console.print(
            "one worker on Ray: the secrets of a round of secure aggregation stay in one process", style="dim"
        )
        machine = replace(machine, workers=1)
    if folder is None:
        require_space(out, estimated_bytes(plan, dataset), option="--out")
        folder = new_run_folder(out, plan)
    if audited is not None:
        folder.write_text(AUDIT_FILE, audited)
    console.print(
        f"run folder {folder.path} (if it is interrupted: silhouette sim run --resume {folder.path})",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    from silhouette_simulations.cli.progress import ConsoleProgress

    go_on = f"silhouette sim run --resume {folder.path}"
    try:
        with ConsoleProgress(console) as progress:
            run(plan, dataset, folder, machine, progress)
    except (UsageError, IntegrityError):
        raise
    except BaseException as error:
        if is_full_disk(error):
            raise UnavailableError(f"{folder.path}: the disk is full; free some and go on with `{go_on}`") from error
        console.print(f"to go on: {go_on}", highlight=False, markup=False, soft_wrap=True)
        raise
    result = read_result(folder.path)
    if record is not None:
        from silhouette_simulations.results import add_result, result_of_run

        add_result(record, result_of_run(folder.path, rows_name(plan), {"rows": result["rows"]}))
    if output is Format.json:
        emit(result)
    else:
        from silhouette_simulations.cli.tables import print_result

        print_result(result)


def rows_name(plan: Plan) -> str:
    """What the rows of a plan are called among results.

    >>> from silhouette_simulations.plans import quick_plan
    >>> rows_name(quick_plan())
    'rows, local, epsilon 8'
    """
    return "rows" if plan.privacy.mode == "none" else f"rows, {plan.privacy.mode}, epsilon {plan.privacy.epsilon:g}"


def audit_text(path: Path, plan: Plan) -> str:
    """A signed audit result of this plan and of the code that is installed here.

    Raises:
        UsageError: If there is no such file.
        IntegrityError: If it is damaged, or about another plan or other code.
    """
    from silhouette_client.audit.code import require_audited
    from silhouette_client.audit.signing import read_result
    from silhouette_shared.privacy.audit.result import verify

    text = read_result(path)
    require_audited(verify(text).subject, place=path, plan_digest=plan.digest)
    return text


def _changes(mode: Mode | None, epsilon: float | None, seed: int | None) -> dict[str, object]:
    given = {"privacy.mode": mode and mode.value, "privacy.epsilon": epsilon, "seed": seed}
    return {key: value for key, value in given.items() if value is not None}


def plan_from(plan_file: Path | None, changes: dict[str, object]) -> Plan:
    """The plan in a file, or the quick one, with settings of the command line."""
    from silhouette_shared.config import read_plan, with_changes
    from silhouette_simulations.plans import quick_plan

    return with_changes(quick_plan() if plan_file is None else read_plan(plan_file), changes)


def dataset_for(plan: Plan, home: Path) -> Dataset:
    """The data of a plan from the cache; ml-100k is fetched if it is not there."""
    from silhouette_simulations import datasets

    def tell(message: str) -> None:
        console.print(message, style="dim", markup=False, highlight=False, soft_wrap=True)

    if plan.data.dataset == "ml-100k":
        return datasets.get("ml-100k", home=home, source=None, progress=tell)
    return datasets.load(plan.data.dataset, home=home)


def finished_run(run: Path, home: Path) -> tuple[Plan, World, Tensor]:
    """Plan, people and model of a finished run, (D,) or with a prior (D + P,). Errors as `read_plan`, `read_model`."""
    from silhouette_shared.config import read_plan
    from silhouette_simulations.finished import read_model
    from silhouette_simulations.world import build_world

    plan = read_plan(run / "plan.toml")
    world = build_world(plan, dataset_for(plan, home))
    return plan, world, read_model(run, plan, world.vocabulary)


def machine_for(backend: str, device: str, workers: int | None, engine: str = "bookkeeping") -> Machine:
    """Choose the device once, and how many partners train beside each other."""
    import os

    import torch

    from silhouette_simulations.training import Machine

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UnavailableError(
            "expected a GPU for --device cuda, torch found none; use --device cpu or see `silhouette doctor`"
        )
    chosen = "cuda" if there and device != "cpu" else "cpu"
    default = 1 if chosen == "cuda" else (os.cpu_count() or 1)
    return Machine(
        backend="ray" if backend == "ray" else "process",
        device=torch.device(chosen),
        workers=workers or default,
        engine="opacus" if engine == "opacus" else "bookkeeping",
    )
