"""`silhouette sim attack`: what attackers learn from a model that a plan trains, beside what epsilon allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_simulations.cli.sim import (
    DeviceChoice,
    DeviceOption,
    Mode,
    PlanArgument,
    WorkersOption,
    dataset_for,
    machine_for,
    plan_from,
)

if TYPE_CHECKING:
    from silhouette_simulations.attacks import AttackReport


def register(sim: typer.Typer) -> None:
    """Add the verb `attack` to `sim`."""
    sim.command("attack")(attack_command)


def attack_command(
    plan_file: PlanArgument = None,
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Override the plan's privacy mode; none trains without it.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", help="Override the plan's epsilon.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Override the plan's seed.")] = None,
    references: Annotated[
        int, typer.Option("--references", min=2, max=64, help="Models the attacker trains, an even number.")
    ] = 8,
    people: Annotated[int, typer.Option("--people", min=40, help="Largest number of people to take.")] = 1000,
    written: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Also write the report as JSON.", show_default=False),
    ] = None,
    device: DeviceOption = DeviceChoice.auto,
    workers: WorkersOption = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Attack a model: who was trained on, and what are people like.

    Membership inference by loss, RMIA and LiRA with a few reference models, read at low false-positive rates beside the
    largest rate that epsilon allows; and declared attributes guessed from histories, from clipped gradients and from
    what leaves the partner. It needs to know the truth, so it runs on public data. One model is trained for the
    attack and one for each reference.
    """
    from silhouette_shared.allocator import keep_freed_memory

    changes: dict[str, object] = {"privacy.mode": mode and mode.value, "privacy.epsilon": epsilon, "seed": seed}
    plan = plan_from(plan_file, {key: value for key, value in changes.items() if value is not None})
    keep_freed_memory()
    from silhouette_simulations.attacks import attack, describe

    dataset = dataset_for(plan, silhouette_home(home))
    machine = machine_for("process", device.value, workers)
    with console.status("") as status:
        report = attack(
            plan,
            dataset,
            machine,
            references=references,
            people=people,
            progress=lambda stage: status.update(stage),
        )
    document = describe(report)
    if written is not None:
        written.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if output is Format.json:
        emit(document)
    else:
        _print(report)


def _print(report: AttackReport) -> None:
    screen = Console()
    if not screen.is_terminal:
        screen.width = max(screen.width, 120)
    claim = "no privacy" if report.epsilon is None else f"epsilon {report.epsilon:.2f}"
    title = f"membership of {report.people} people, half of them trained on; {claim}, {report.references} references"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("attack", no_wrap=True)
    table.add_column("AUC", justify="right")
    for point in report.membership[0].points:
        table.add_column(f"TPR at {point.allowed:g} FPR", justify="right")
        if point.limit is not None:
            table.add_column("allowed", justify="right")
    for one in report.membership:
        cells = [one.attack, f"{one.auc:.3f}"]
        for point in one.points:
            cells.append(f"{point.rate:.4f}" + (" EXCEEDS" if point.exceeds else ""))
            cells += [] if point.limit is None else [f"{point.limit:.3g}"]
        table.add_row(*cells)
    screen.print(table)
    table = Table(title="attributes guessed from", title_justify="left", box=None)
    for name in ("attribute", "source"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", "majority", "balanced", "AUC"):
        table.add_column(name, justify="right")
    for found in report.probes:
        table.add_row(
            found.attribute,
            found.source,
            f"{found.accuracy:.3f}",
            f"{found.majority:.3f}",
            f"{found.balanced_accuracy:.3f}",
            "" if found.auc is None else f"{found.auc:.3f}",
        )
    screen.print(table)
