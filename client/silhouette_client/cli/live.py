"""`silhouette profile response`: what became of the recommendations that this node's service gave out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from silhouette_client.cli.lines import lines_of
from silhouette_shared.cli import Format, FormatOption, HomeOption, emit, silhouette_home
from silhouette_shared.errors import UsageError


def response_command(
    days: Annotated[
        float, typer.Option("--days", min=0, help="How long after a recommendation an event still answers it.")
    ] = 7.0,
    behaviour: Annotated[
        list[str] | None,
        typer.Option(
            "--behaviour",
            help="What counts as taking an item, e.g. purchase; any event by default.",
            show_default=False,
        ),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            "--catalogue",
            metavar="FILE",
            help="Item ids, one a line; by default the catalogue of the node's promoted model.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show how people answered what was recommended to them, and how much of the catalogue that was, by model.

    From what `silhouette profile serve` noted in the last 90 days and the events that followed. Nothing of it leaves
    this node.
    """
    import pandas as pd

    from silhouette_client.ingest.absorb import absorb_if_free, with_waiting
    from silhouette_client.ingest.pushed import Journal
    from silhouette_client.ingest.records import reading
    from silhouette_client.live.response import responses
    from silhouette_shared.schema import BEHAVIOURS

    place, wanted = silhouette_home(home), behaviour or []
    if strange := sorted(set(wanted) - set(BEHAVIOURS)):
        raise UsageError(f"expected behaviours out of {', '.join(BEHAVIOURS)}, got {', '.join(strange)}; change it")
    items = lines_of(catalogue, "item ids") if catalogue is not None else _own_items(place)
    waiting, columns = absorb_if_free(place), ["user", "item", "behaviour", "timestamp"]
    table = reading(place, lambda records: with_waiting(records, records.table("events", columns), waiting))
    events = pd.DataFrame(columns=columns) if table is None else table.to_pandas()
    journal = Journal.open_if_there(place)
    found = []
    if journal is not None:
        with journal:
            found = responses(journal.shown(), events, window_days=days, behaviours=wanted, catalogue=items)
    if output is Format.json:
        emit({"days": days, "models": [asdict(one) | {"rate": one.rate} for one in found]})
        return
    if not found:
        typer.echo("nothing was recommended by this node's service yet")
    for one in found:
        share = "" if one.coverage is None else f", {one.coverage:.1%} of the catalogue"
        typer.echo(
            f"{one.model}  {one.answers} answers to {one.people} people; {one.taken} of {one.offered} items taken "
            f"({one.rate:.1%}) by {one.responded} people; {one.items} items{share}"
        )


def _own_items(home: Path) -> list[str] | None:
    import torch

    from silhouette_client.enrolment.home import NodeHome
    from silhouette_client.profiles.node_model import promoted_model
    from silhouette_client.promoted import held_model

    node = NodeHome.of(home)
    if not node.installed or held_model(node) is None:
        return None
    return list(promoted_model(home, torch.device("cpu")).words.items)
