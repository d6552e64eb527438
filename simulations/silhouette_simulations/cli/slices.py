"""`silhouette sim slices`: does each promoted model beat the one before it on what comes next?"""

from __future__ import annotations

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
    WorkersOption,
    dataset_for,
    machine_for,
    plan_from,
)

if TYPE_CHECKING:
    from silhouette_simulations.succession import Turn


def register(sim: typer.Typer) -> None:
    """Add the verb `slices` to `sim`."""
    sim.command("slices")(slices_command)


def slices_command(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file (TOML).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For registry and results; one there goes on.")],
    count: Annotated[int, typer.Option("--slices", min=2, max=50, help="Models that are trained in turn.")] = 4,
    people: Annotated[
        int | None, typer.Option("--people", min=3, help="How many people to take. Default: all with enough events.")
    ] = None,
    least: Annotated[int, typer.Option("--least-events", min=1, help="Of an item, for it to be in the catalogue.")] = 1,
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Override the plan's privacy mode; none trains without it.")
    ] = None,
    device: DeviceOption = DeviceChoice.auto,
    workers: WorkersOption = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Train a model after each slice of time, from the promoted one, and promote it if it may be.

    A registry decides, by the evaluation of the run, as in a deployment. Beside it is shown how the model and the one
    before it do on what the same people did next. At last a model that was hardly trained asks to be promoted.
    """
    from silhouette_shared.allocator import keep_freed_memory

    plan = plan_from(plan_file, {} if mode is None else {"privacy.mode": mode.value})
    keep_freed_memory()
    from silhouette_simulations.slicing import cut
    from silhouette_simulations.succession import Succession, describe

    slices = cut(plan, dataset_for(plan, silhouette_home(home)), count=count, people=people, least=least)
    machine = machine_for("process", device.value, workers)
    with console.status("") as status:

        def tell(what: str) -> None:
            status.update(what)
            if not console.is_terminal:
                console.print(what, markup=False, highlight=False, soft_wrap=True)

        turns = Succession(plan, slices, out, machine, tell).run()
    if output is Format.json:
        emit(describe(plan, slices, turns))
    else:
        _print(turns)


def _print(turns: tuple[Turn, ...]) -> None:
    screen = Console()
    if not screen.is_terminal:
        screen.width = max(screen.width, 140)
    table = Table(box=None)
    for name in ("model", "promoted"):
        table.add_column(name, no_wrap=True)
    for name in ("epsilon", "people asked next", "HR@10", "NDCG@10", "model before", "difference, 95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for turn in turns:
        found = turn.difference
        table.add_row(
            turn.name,
            "yes" if turn.promoted else "no",
            "none" if turn.epsilon is None else f"{turn.epsilon:.2f}",
            f"{turn.people:,}",
            f"{turn.hits:.4f}",
            f"{turn.ndcg:.4f}",
            "" if turn.before is None else f"{turn.before:.4f}",
            "" if found is None else f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})",
        )
    screen.print(table)
    for turn in turns:
        screen.print(f"{turn.name}: {turn.why}", markup=False, highlight=False, soft_wrap=True)
