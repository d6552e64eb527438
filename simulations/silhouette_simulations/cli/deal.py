"""`silhouette sim deal`: the tables of a plan's partners, for a deployment on public data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, emit, silhouette_home


def register(sim: typer.Typer) -> None:
    """Add the verb to `silhouette sim`."""
    sim.command("deal")(deal_command)


def deal_command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file (TOML).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Made; one that is there is refused.")],
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Write the public catalogue and each partner's tables, to try a deployment on one machine or several.

    Everybody gets the people and events that the plan's simulation trains on. Prints what each partner declares.
    """
    from silhouette_shared.config import read_plan
    from silhouette_simulations import datasets
    from silhouette_simulations.dealing import deal

    read = read_plan(plan)
    people = deal(read, datasets.load(read.data.dataset, home=silhouette_home(home)), out)
    if output is Format.json:
        emit({"catalogue": str(out / "catalogue.safetensors"), "people": people})
        return
    for name, count in people.items():
        typer.echo(f"{name}  {count}  {out / name / 'people'}")
