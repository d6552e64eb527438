"""`silhouette node ingest`, `quarantine`, `describe`, `mapping suggest`: a partner's data in, and what came of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from silhouette_client.cli.lines import lines_of
from silhouette_client.cli.opening import PassphraseOption, passphrase
from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

_mapping = typer.Typer(
    name="mapping", help="Draft how a partner's tables are read.", no_args_is_help=True, add_completion=False
)

CatalogueOption = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        metavar="FILE",
        help="Item ids of the catalogue, one a line; the report then says what it covers.",
        show_default=False,
    ),
]


def register(node: typer.Typer) -> None:
    """Add these verbs to the noun `node`."""
    node.command("ingest")(ingest_command)
    node.command("quarantine")(quarantine_command)
    node.command("describe")(describe_command)
    node.add_typer(_mapping)


def ingest_command(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Files, folders of files, or SQLAlchemy URLs of databases.")
    ],
    mapping: Annotated[
        Path, typer.Option("--mapping", metavar="FILE", help="Which column is what: a TOML file.", show_default=False)
    ],
    catalogue: CatalogueOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the report here too, as a page that opens without a network.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Take a partner's tables into the node; the same file twice changes nothing.

    A bad row goes to the quarantine with its line and reason; a bad file is refused whole. The same command goes on
    with a killed run. The report of the latest run lies in the home as node/people/report.json.
    """
    from silhouette_client.ingest.absorb import absorb
    from silhouette_client.ingest.mapping import read_mapping
    from silhouette_client.ingest.report import page, write_report
    from silhouette_client.ingest.summary import summary
    from silhouette_client.ingest.take_in import take_in

    place = silhouette_home(home)
    rules = read_mapping(mapping)
    items = None if catalogue is None else lines_of(catalogue, "item ids")
    from silhouette_client.ingest.describing import counts, coverage
    from silhouette_client.profiles.vault import ExcludedAtUse

    absorb(place)  # what was pushed came first
    before = counts(place)
    outcome = take_in(
        place,
        rules,
        sources,
        now=int(time.time()),
        exclusions=ExcludedAtUse(place, lambda: passphrase(passphrase_file)),
        progress=lambda line: console.print(line, markup=False, highlight=False),
    )
    document = summary(
        outcome, before=before, after=counts(place), coverage=None if items is None else coverage(place, items)
    )
    write_report(place, document)
    if report is not None:
        report.write_text(page(document), encoding="utf-8")
    if output is Format.json:
        emit(document)
    else:
        _print(document)


def quarantine_command(
    most: Annotated[int, typer.Option("--most", help="Print at most so many rows; 0 for all.", min=0)] = 50,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show the rows that were left out, with file, line, column and reason.

    No value of a row is kept or shown: open the file at the line.
    """
    from itertools import islice

    from silhouette_client.ingest.manifest import reasons
    from silhouette_client.ingest.records import Records, reading

    def read(records: Records) -> tuple[dict[str, int], list[tuple[str, str, int, str, str]]]:
        return reasons(records.manifest.files), list(islice(records.quarantine(), most or None))

    total, rows = reading(silhouette_home(home), read)
    if output is Format.json:
        emit(
            {
                "rows": sum(total.values()),
                "reasons": total,
                "shown": [
                    {"file": file, "table": table, "line": line, "column": column or None, "reason": reason}
                    for file, table, line, column, reason in rows
                ],
            }
        )
        return
    for file, _, line, column, reason in rows:
        typer.echo(f"{file}:{line}: {f'{column}: ' if column else ''}{reason}")
    _say(f"{sum(total.values())} rows in the quarantine, {len(rows)} shown")


def describe_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Show what this node holds, in counts only."""
    from silhouette_client.ingest.describing import describe

    document = describe(silhouette_home(home))
    if output is Format.json:
        emit(document)
        return
    for name, value in document.items():
        shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{name.replace('_', ' '):<17}{shown if shown != '' else 'none'}")


@_mapping.command("suggest")
def suggest_command(
    sample: Annotated[Path, typer.Argument(metavar="SAMPLE", help="A CSV, JSON lines or Parquet file of the partner.")],
    table: Annotated[
        str, typer.Option("--table", help="The canonical table it fills: events, users, edges, tags or consent.")
    ] = "events",
) -> None:
    """Draft a mapping from the first rows of a file, for a person to check.

    What is a guess is marked as one; what could not be guessed is marked `FILL IN`.
    """
    from silhouette_client.ingest.suggest import suggest

    typer.echo(suggest(sample, table), nl=False)


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print(document: dict[str, object]) -> None:
    parts = cast(dict[str, Any], document)
    for one in parts["files"]:
        bad = sum(one["bad"].values())
        typer.echo(
            f"{one['name']}: {one['rows']} rows, {one['kept']} into {one['table']}, {bad} bad, "
            f"{one['repeated']} repeated, {one['ignored']} ignored, {one['late']} late"
        )
        for reason, count in one["bad"].items():
            typer.echo(f"        {count} {reason}")
    for name in parts["known"]:
        typer.echo(f"{name}: known, nothing changed")
    after = parts["after"]
    typer.echo(f"now     {after['people']} people, {after['items']} items, {after['tables']['events']} events")
    if (covered := parts["coverage"]) is not None:
        typer.echo(
            f"        {covered['events_outside']} events of {covered['items_outside']} items that the catalogue lacks"
        )
