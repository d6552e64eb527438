"""`silhouette sim lookalike`: how well lookalikes find the rest of a class, from a finished run's profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_simulations.cli.sim import DeviceChoice, DeviceOption, finished_run, machine_for


def register(sim: typer.Typer) -> None:
    """Add the verb to the noun `sim`."""
    sim.command("lookalike")(lookalike_command)


def lookalike_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    seeds: Annotated[int, typer.Option("--seeds", min=10, help="People drawn from a class.")] = 100,
    draws: Annotated[int, typer.Option("--draws", min=1, help="How often.")] = 20,
    share: Annotated[float, typer.Option("--share", min=0.001, max=1.0, help="Of the people that counts.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    device: DeviceOption = DeviceChoice.auto,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Draw some people of each declared class and see how many of the rest are among the first by likeness.

    Lift 3 at 10 % says three times as many as by chance. Nothing that people declared is in the profiles: the run's
    plan must not read it.
    """
    from silhouette_simulations.lookalikes import class_lifts

    plan, world, parameters = finished_run(run, silhouette_home(home))
    with console.status("building profiles and ranking people"):
        found = class_lifts(
            plan,
            world,
            parameters,
            machine_for("process", device.value, 1).device,
            seeds=seeds,
            draws=draws,
            share=share,
            seed=seed,
        )
    if output is Format.json:
        emit({"seeds": seeds, "draws": draws, "share": share, "lifts": [vars(one) for one in found]})
        return
    for one in found:
        typer.echo(
            f"{one.attribute:<12}{one.value:<24}{one.people:>6} people  {one.scoring:<8}lift {one.lift:5.2f} "
            f"(+-{one.error:.2f}) of at most {one.largest:.2f}"
        )
