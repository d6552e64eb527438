"""`silhouette sim`: run plans, repeat them over settings, compare and report."""

from __future__ import annotations

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
    silhouette_home,
)

if TYPE_CHECKING:
    from silhouette_shared.config import Plan
    from silhouette_simulations.datasets import Dataset
    from silhouette_simulations.training import Machine

sim = typer.Typer(
    name="sim",
    help="Simulate partners, coordinator and network on public data, before anyone deploys.",
    no_args_is_help=True,
)


@sim.callback()
def _noun() -> None:
    """Keep `sim` a group however many verbs it has."""


class Mode(StrEnum):
    """Whether partners train with privacy."""

    local = "local"
    none = "none"


class BackendChoice(StrEnum):
    """Where the Flower apps run."""

    process = "process"
    ray = "ray"


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
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with the run in this folder, after it was stopped or killed.",
            show_default=False,
        ),
    ] = None,
    out: OutOption = Path("runs"),
    backend: Annotated[
        BackendChoice,
        typer.Option("--backend", help="Run the Flower apps in this process or on Ray."),
    ] = BackendChoice.process,
    device: DeviceOption = DeviceChoice.auto,
    workers: WorkersOption = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Train across simulated partners and report what federation and privacy cost.

    The public data come from the cache, and ml-100k is fetched the first time. The run folder holds tables, the global
    model, each partner's profiles and recommendations, and report.html.
    """
    from silhouette_shared.allocator import keep_freed_memory

    keep_freed_memory()
    from silhouette_simulations.result import read_result
    from silhouette_simulations.run_folder import (
        existing_run_folder,
        new_run_folder,
        require_space,
    )
    from silhouette_simulations.runner import check_fits, estimated_bytes, run

    changes = _changes(mode, epsilon, seed)
    folder = None
    if resume is None:
        plan = _plan(plan_file, changes)
    else:
        named = plan_file is not None or bool(changes)
        folder, plan = existing_run_folder(resume, _plan(plan_file, changes) if named else None)
    dataset = _dataset(plan, silhouette_home(home))
    check_fits(plan, dataset)
    machine = machine_for(backend.value, device.value, workers)
    if folder is None:
        require_space(out, estimated_bytes(plan, dataset))
        folder = new_run_folder(out, plan)
    console.print(
        f"run folder {folder.path} (if it is interrupted: silhouette sim run --resume {folder.path})",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    from silhouette_simulations.cli.progress import ConsoleProgress

    with ConsoleProgress(console) as progress:
        run(plan, dataset, folder, machine, progress)
    result = read_result(folder.path)
    if output is Format.json:
        emit(result)
    else:
        from silhouette_simulations.cli.tables import print_result

        print_result(result)


def _changes(mode: Mode | None, epsilon: float | None, seed: int | None) -> dict[str, object]:
    given = {"privacy.mode": mode and mode.value, "privacy.epsilon": epsilon, "seed": seed}
    return {key: value for key, value in given.items() if value is not None}


def _plan(plan_file: Path | None, changes: dict[str, object]) -> Plan:
    from silhouette_shared.config import read_plan, with_changes
    from silhouette_simulations.plans import quick_plan

    return with_changes(quick_plan() if plan_file is None else read_plan(plan_file), changes)


def _dataset(plan: Plan, home: Path) -> Dataset:
    from silhouette_simulations import datasets

    def tell(message: str) -> None:
        console.print(message, style="dim", markup=False, highlight=False, soft_wrap=True)

    if plan.data.dataset == "ml-100k":
        return datasets.get("ml-100k", home=home, source=None, progress=tell)
    return datasets.load(plan.data.dataset, home=home)


def machine_for(backend: str, device: str, workers: int | None) -> Machine:
    """Choose the device once, and how many partners train beside each other."""
    import os

    import torch

    from silhouette_shared.errors import UnavailableError
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
    )
