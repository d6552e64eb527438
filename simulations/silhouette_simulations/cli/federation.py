"""`silhouette sim federation`: what federating costs each partner, from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, emit


def register(sim: typer.Typer) -> None:
    """Add the verb to `silhouette sim`."""
    sim.command("federation")(federation_command)


def federation_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run with the row federated.")],
    pooled: Annotated[
        Path | None,
        typer.Option("--pooled", metavar="RUN", help="With the row pooled; the same run if left out."),
    ] = None,
    local: Annotated[
        Path | None,
        typer.Option("--local", metavar="RUN", help="With the row local_only, of the same partition."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Add the table to this file.", show_default=False),
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Compare federated with pooled and local training at every partner, person by person, with the bytes.

    The rows may stand in several runs over the same people, because pooled training does not depend on the partners.
    """
    from silhouette_simulations.cli.study import print_table
    from silhouette_simulations.federation import federation

    table = federation(run, pooled or run, local)
    if record is not None:
        record_table(record, run, "federation", table.document())
    if output is Format.json:
        emit(table.document())
    else:
        print_table(table)


def record_table(path: Path, run: Path, what: str, values: dict[str, object]) -> None:
    """Keep a table that was made of a finished run among the results."""
    import json

    from silhouette_shared.config import read_plan
    from silhouette_simulations.results import Result, add_result, commit_of

    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    add_result(
        path,
        Result(
            what=what,
            plan=about["name"],
            plan_digest=about["digest"],
            seed=about["seed"],
            commit=commit_of(Path(__file__).parent),
            dataset_digest=about["dataset_digest"],
            target=read_plan(run / "plan.toml").evaluation.target,
            seconds=about["seconds"],
            values=values,
        ),
    )
