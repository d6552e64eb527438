"""`silhouette sim examine`: what the profiles of a finished run say, whether explanations hold, and eight bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_simulations.cli.sim import DeviceChoice, DeviceOption, finished_run, machine_for

if TYPE_CHECKING:
    from silhouette_simulations.probes import Findings


def register(sim: typer.Typer) -> None:
    """Add the verb `examine` to `sim`."""
    sim.command("examine")(examine_command)


def examine_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    people: Annotated[int, typer.Option("--people", min=1, help="People whose explanations are checked.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the people drawn and of the folds.")] = 0,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Add rows and findings to this file.", show_default=False),
    ] = None,
    device: DeviceOption = DeviceChoice.auto,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Ask a finished model what its profiles are good for.

    A linear probe guesses each declared attribute from frozen profiles, five folds, beside TF-IDF of the items. Leaving
    out the three events that explain a recommendation is compared with leaving out three others. And the item table
    is rounded to eight bits, with the loss of NDCG@10. The run's plan must not read declared attributes.
    """
    from silhouette_shared.allocator import keep_freed_memory

    keep_freed_memory()
    from silhouette_simulations.probes import describe, examine
    from silhouette_simulations.result import read_result
    from silhouette_simulations.results import add_result, result_of_run

    rows = read_result(run)
    plan, world, parameters = finished_run(run, silhouette_home(home))
    with console.status("building profiles, probing them, leaving events out"):
        findings = examine(
            plan,
            world,
            parameters,
            machine_for("process", device.value, 1).device,
            people=people,
            seed=seed,
        )
    document = describe(findings)
    if record is not None:
        add_result(record, result_of_run(run, "rows", {"rows": rows["rows"]}))
        add_result(record, result_of_run(run, "findings", document, timed=False))
    if output is Format.json:
        emit(document)
    else:
        _print(findings)


def _print(findings: Findings) -> None:
    screen = Console()
    if not screen.is_terminal:
        screen.width = max(screen.width, 120)
    table = Table(title="attributes that a linear probe reads", title_justify="left", box=None)
    for name in ("attribute", "from"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", "majority", "precision", "recall", "macro-F1", "AUC"):
        table.add_column(name, justify="right")
    for one in findings.probes:
        score = one.score
        table.add_row(
            score.attribute,
            one.source,
            *(f"{v:.3f}" for v in (score.accuracy, score.majority_rate, score.precision, score.recall, score.f1)),
            "" if score.auc is None else f"{score.auc:.3f}",
        )
    screen.print(table)
    found = findings.faithful
    screen.print(
        f"explanations: leaving out the {found.named} events named first moves the score more than "
        f"{found.named} others do for {found.share.mean:.1%} of {found.people} people "
        f"({found.share.low:.1%} to {found.share.high:.1%}); "
        f"by {found.moved_by_named:.3f} against {found.moved_by_random:.3f}; {found.too_short} had too few events"
    )
    small = findings.int8
    moved = small.difference
    screen.print(
        f"eight bits: {small.bytes_before:,} bytes become {small.bytes_after:,}; "
        f"NDCG@10 {small.ndcg_before:.4f} becomes {small.ndcg_after:.4f} "
        f"({moved.mean:+.5f}, {moved.low:+.5f} to {moved.high:+.5f})"
    )
