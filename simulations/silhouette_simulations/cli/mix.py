"""`silhouette sim mix`: a finished model and transition counts together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_simulations.cli.sim import DeviceChoice, DeviceOption, finished_run, machine_for


def register(sim: typer.Typer) -> None:
    """Add the verb to `silhouette sim`."""
    sim.command("mix")(mix_command)


def mix_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Of the counts' logarithm, 0 or more; several times for several. Else four."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Add the table to this file.", show_default=False),
    ] = None,
    device: DeviceOption = DeviceChoice.auto,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Rank by a finished run's model and by transition counts of the same people together, with several weights.

    Without privacy: the counts are exact. Choose the weight on validation events or on other data than those it is
    reported on, and set it as `evaluation.counts_weight`: the rows `…_with_counts` of a run follow it.
    """
    from silhouette_simulations.cli.study import print_table
    from silhouette_simulations.mixing import WEIGHTS, mix
    from silhouette_simulations.models import load_encoder
    from silhouette_simulations.results import add_result, result_of_run

    plan, world, parameters = finished_run(run, silhouette_home(home))
    where = machine_for("process", device.value, 1).device
    with console.status("ranking by model and counts"):
        encoder = load_encoder(plan, world.vocabulary, parameters, where)
        table = mix(encoder, world.pooled(), where, tuple(weight or WEIGHTS))
    if record is not None:
        add_result(record, result_of_run(run, "mix", table.document()))
    if output is Format.json:
        emit(table.document())
    else:
        print_table(table)
