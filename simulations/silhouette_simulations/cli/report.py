"""`silhouette sim report` and `silhouette sim compare`: reading what runs left behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, console, emit

if TYPE_CHECKING:
    from silhouette_simulations.report import Comparison

_WIDTH_OF_A_PIPE = 160
"""Columns for output that is no terminal, so that a table is not folded at 80."""

_SIGNS = {"higher": "higher", "lower": "lower", "unclear": "not clear"}


def register(sim: typer.Typer) -> None:
    """Add the verbs `report` and `compare` to `sim`."""
    sim.command("report")(report_command)
    sim.command("compare")(compare_command)


def report_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run.")],
    output: FormatOption = Format.text,
) -> None:
    """Write the report of a run again, from its folder, and print its path.

    The page is one file that opens without a network. A missing file ends
    with exit code 2, a damaged one with 5; an older report then stays.
    """
    from silhouette_simulations.report import write_report

    with console.status("writing the report"):
        path = write_report(folder)
    if output is Format.json:
        emit({"report": str(path)})
    else:
        typer.echo(path)


def compare_command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Folders of runs; the first is the reference."),
    ],
    row: Annotated[
        str | None,
        typer.Option(
            "--row",
            help="Compare this row only: with the others of one plan, or across plans.",
            show_default=False,
        ),
    ] = None,
    cutoff: Annotated[int, typer.Option("--cutoff", min=1, help="Compare NDCG at this many recommendations.")] = 10,
    resamples: Annotated[int, typer.Option("--resamples", min=1, help="How often the people are drawn again.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawing.")] = 0,
    output: FormatOption = Format.text,
) -> None:
    """Say which rows or plans differ, with paired bootstrap intervals over people.

    Runs of one plan that differ only in the seed are averaged person by person.
    With one plan, a row (federated, or --row) stands against every other row.
    With several, the rows of each stand against the same rows of the first.
    Runs over other data, targets or people are refused with exit code 2.
    """
    from silhouette_simulations.report import compare

    with console.status("comparing"):
        found = compare(folders, row, cutoff=cutoff, resamples=resamples, seed=seed)
    if output is Format.json:
        emit(found.to_document())
    else:
        _show(found)


def _show(found: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    plain = Console(highlight=False, markup=False)
    if not plain.is_terminal:
        plain = Console(highlight=False, markup=False, width=_WIDTH_OF_A_PIPE)
    several = len(found.groups) > 1
    table = Table(
        title=(f"NDCG@{found.cutoff} on {found.dataset}, {found.users:,} people, {found.level:.0%} intervals"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    if several:
        table.add_column("row")
    for name in ("plan" if several else "row", "against"):
        table.add_column(name)
        table.add_column("NDCG", justify="right", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("")
    for one in found.differences:
        row = [one.left.label] if several else []
        for side in (one.left, one.right):
            row += [side.group if several else side.label, f"{side.ndcg:.4f}"]
        row += [f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}"]
        table.add_row(*row, _SIGNS[one.verdict])
    plain.print(table)
    for group in found.groups:
        seeds = ", ".join(map(str, group.seeds))
        plain.print(f"{group.label}: seed{'s' if len(group.seeds) > 1 else ''} {seeds}")
