"""`silhouette sim federation`: what federating costs each partner, from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, emit, silhouette_home


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
    counts: Annotated[
        bool, typer.Option("--counts", help="Compare the rows with transition counts; needs the data of the run.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Add the table to this file.", show_default=False),
    ] = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Compare federated with pooled and local training at every partner, person by person, with the bytes.

    The rows may stand in several runs over the same people, because pooled training does not depend on the partners.
    """
    from silhouette_simulations.cli.study import print_table
    from silhouette_simulations.federation import federation
    from silhouette_simulations.results import add_result, result_of_run

    traffic = _counts_traffic(run, silhouette_home(home)) if counts else None
    table = federation(run, pooled or run, local, traffic)
    if record is not None:
        what = "federation with counts" if counts else "federation"
        add_result(record, result_of_run(run, what, table.document()))
    if output is Format.json:
        emit(table.document())
    else:
        print_table(table)


def _counts_traffic(run: Path, home: Path) -> dict[str, tuple[int, int]]:
    from silhouette_simulations.cli.sim import finished_run
    from silhouette_simulations.mixing import counts_traffic

    _, world, _ = finished_run(run, home)
    return counts_traffic(world.partners, len(world.catalogue.items))
