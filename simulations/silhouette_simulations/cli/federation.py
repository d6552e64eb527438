"""`silhouette sim federation`: what federating costs each partner, from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, emit, silhouette_home

if TYPE_CHECKING:
    from collections.abc import Callable

    from silhouette_simulations.report.reading import Ranks


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
        float | None,
        typer.Option(
            "--counts", help="Federated and pooled together with transition counts in this part, as `sim mix`."
        ),
    ] = None,
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

    table = federation(
        run,
        pooled or run,
        local,
        counts=counts or 0.0,
        with_counts=None if counts is None else _with_counts(counts, silhouette_home(home)),
    )
    if record is not None:
        what = "federation" if counts is None else f"federation, counts {counts:g}"
        add_result(record, result_of_run(run, what, table.document()))
    if output is Format.json:
        emit(table.document())
    else:
        print_table(table)


def _with_counts(share: float, home: Path) -> Callable[[Path], Ranks]:
    import torch

    from silhouette_simulations.cli.sim import finished_run
    from silhouette_simulations.mixing import mixed_ranks
    from silhouette_simulations.report.reading import Ranks
    from silhouette_simulations.training import load_encoder

    def ranked(run: Path) -> Ranks:
        plan, world, parameters = finished_run(run, home)
        everybody, device = world.pooled(), torch.device("cpu")
        encoder = load_encoder(plan, world.vocabulary, parameters, device)
        (ranks,) = mixed_ranks(encoder, everybody, (share,), device)
        users = [everybody.users[row] for row in everybody.asked.tolist()]
        order = sorted(range(len(users)), key=users.__getitem__)
        return Ranks(tuple(users[row] for row in order), ranks[order].numpy())

    return ranked
