"""`silhouette data`: get, list and describe the public data sets of a simulation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_simulations.datasets import Dataset, DatasetInfo

data = typer.Typer(
    name="data",
    help="Get, list and describe the public data sets that simulations run on.",
    no_args_is_help=True,
    add_completion=False,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A data set, as `silhouette data list` names it.")]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FOLDER",
        help="Read the published files from this folder instead of fetching them.",
        show_default=False,
    ),
]


@data.command("get")
def get_command(
    name: NameArgument,
    source: SourceOption = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Put a data set into the cache, checked; ml-100k is fetched, the others need --from.

    A file that is refused is named with its line and the reason. That, a checksum that differs and a disk with too
    little room end with exit code 2 and leave the cache as it was.
    """
    from silhouette_simulations import datasets

    place = silhouette_home(home)
    with console.status(f"getting {name}") as status:

        def tell(message: str) -> None:
            console.print(message, style="dim", markup=False, highlight=False, soft_wrap=True)
            status.update(f"getting {name}")

        dataset = datasets.get(name, home=place, source=source, progress=tell)
    _show(dataset, place, output)


@data.command("list")
def list_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """List the data sets: what they are, how to get them, and whether they are in the cache."""
    from silhouette_simulations import datasets
    from silhouette_simulations.datasets import cache

    place = silhouette_home(home)
    rows = [
        _known(known) | {"cached": (cache.folder(place, known.name) / "manifest.json").is_file()}
        for known in datasets.available()
    ]
    if output is Format.json:
        emit({"datasets": rows})
        return
    for known, row in zip(datasets.available(), rows, strict=True):
        users, items, events = known.sizes
        state = "cached" if row["cached"] else ("fetched" if known.fetched else "--from FOLDER")
        typer.echo(f"{known.name:<12}{state:<16}{known.title}")
        typer.echo(f"{'':<28}{users:,} users, {items:,} items, {events:,} events; {known.licence}")
        typer.echo(f"{'':<28}files: {', '.join(known.files)}; {known.home_page}")


@data.command("describe")
def describe_command(name: NameArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Describe a data set that is in the cache: sizes, behaviours, times, attributes, digest."""
    from silhouette_simulations import datasets

    place = silhouette_home(home)
    _show(datasets.load(name, home=place), place, output)


def _known(known: DatasetInfo) -> dict[str, object]:
    users, items, events = known.sizes
    return {
        "name": known.name,
        "title": known.title,
        "licence": known.licence,
        "home_page": known.home_page,
        "times": known.times,
        "files": list(known.files),
        "users": users,
        "items": items,
        "events": events,
        "fetched": known.fetched,
    }


def _show(dataset: Dataset, home: Path, output: Format) -> None:
    from silhouette_simulations.datasets import cache

    lengths = dataset.events["user"].value_counts()
    times = dataset.events["timestamp"]
    utc = dataset.times == "utc"
    document: dict[str, object] = {
        "name": dataset.name,
        "digest": dataset.digest,
        "catalogue_digest": dataset.catalogue.digest(),
        "folder": str(cache.folder(home, dataset.name)),
        "users": len(dataset.users),
        "items": len(dataset.catalogue),
        "events": len(dataset.events),
        "events_per_user": {
            "least": int(lengths.min()),
            "median": float(lengths.median()),
            "most": int(lengths.max()),
        },
        "behaviours": {str(word): int(count) for word, count in dataset.events["behaviour"].value_counts().items()},
        "times": dataset.times,
        "first_time": int(times.min()) if utc else None,
        "last_time": int(times.max()) if utc else None,
        "attributes": {
            attribute: {word: int((dataset.users[attribute] == word).sum()) for word in classes}
            for attribute, classes in dataset.attributes.items()
        },
        "categories": list(dataset.catalogue.categories),
        "described_items": sum(1 for text in dataset.catalogue.texts if text),
        "edges": None if dataset.edges is None else len(dataset.edges),
        "tags": None if dataset.tags is None else len(dataset.tags),
        "held_out": None if dataset.held_out is None else len(dataset.held_out),
    }
    if output is Format.json:
        emit(document)
        return
    for key, value in document.items():
        if value is None or value in ({}, []):
            continue
        if isinstance(value, dict):
            shown = ", ".join(f"{word} {_text(count)}" for word, count in value.items())
        elif key.endswith("_time") and isinstance(value, int):
            shown = f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
        elif isinstance(value, list):
            shown = ", ".join(map(str, value))
        else:
            shown = _text(value)
        typer.echo(f"{key.replace('_', ' '):<18}{shown}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{word} {_text(count)}" for word, count in value.items()) + ")"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
