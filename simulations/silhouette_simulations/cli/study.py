"""`silhouette sim study`: one question to the encoder, answered in one table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_simulations.cli.lists import listed
from silhouette_simulations.cli.sim import (
    DeviceChoice,
    DeviceOption,
    WorkersOption,
    dataset_for,
    machine_for,
    plan_from,
)
from silhouette_simulations.studies import SEVERAL_SEEDS, STUDIES, StudyName

if TYPE_CHECKING:
    from silhouette_simulations.studies.bench import Bench, StudyTable


class StudyChoice(StrEnum):
    """Every study, by name."""

    heads = "heads"
    risk = "risk"
    social = "social"
    traits = "traits"
    continuation = "continuation"
    ablation = "ablation"
    personal = "personal"
    texts = "texts"


_QUESTIONS = "; ".join(f"{name}: {question}" for name, question in STUDIES.items())


def register(sim: typer.Typer) -> None:
    """Add the verb `study` to `sim`."""
    sim.command("study")(study_command)


def study_command(
    name: Annotated[StudyChoice, typer.Argument(metavar="STUDY", help=f"{_QUESTIONS}.")],
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="Model, objective, schedule, split and data.")],
    people: Annotated[
        int | None,
        typer.Option("--people", min=1, help="Only so many people, drawn at random.", show_default=False),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="LIST",
            help="Override the plan's seed; several, as 0,1,2: the mean over them, person by person.",
            show_default=False,
        ),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(
            "--without",
            metavar="LIST",
            help="Of the ablation: these parts alone, beside the whole.",
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Add the table to this file.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where checkpoints are kept.")] = Path("runs"),
    device: DeviceOption = DeviceChoice.auto,
    workers: WorkersOption = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Ask one question of the encoder that a run does not answer.

    A study trains what it needs, without privacy, on the plan's public data, and prints one table. A study that was
    killed goes on with the training it was at when the same command is given again.
    """
    from silhouette_shared.allocator import keep_freed_memory

    seeds, parts = _seeds(name.value, seed), _parts(name.value, without)
    plan = plan_from(plan_file, {"seed": seeds[0]} if seeds else {})
    keep_freed_memory()
    import time

    import torch

    from silhouette_simulations.studies.bench import Bench, some_people

    dataset = dataset_for(plan, silhouette_home(home))
    if people is not None:
        dataset = some_people(dataset, people, plan.seed)
    torch.set_num_threads(1)  # partners train beside each other instead, and sums keep their order
    folder = out / f"study-{name.value}-{plan.name}-{plan.digest[:8]}-{people or 'all'}"
    bench = Bench(plan, dataset, machine_for("process", device.value, workers), folder, _say, seeds, parts)
    began = time.monotonic()
    table = _study(name.value, bench)
    if record is not None:
        _record(record, bench, name.value, people, table, time.monotonic() - began)
    if output is Format.json:
        emit(table.document())
    else:
        print_table(table)


def _seeds(name: StudyName, text: str | None) -> tuple[int, ...]:
    """What was asked for, none for the plan's own.

    Raises:
        UsageError: If a seed occurs twice, or the study takes one alone.
    """
    from silhouette_shared.errors import UsageError

    seeds = () if text is None else tuple(listed("seed", text, int, "whole numbers"))
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seed: expected each seed once, got {text!r}")
    if len(seeds) > 1 and name not in SEVERAL_SEEDS:
        raise UsageError(
            f"--seed: expected one for the study {name}, got {len(seeds)}; several are for "
            f"{', '.join(sorted(SEVERAL_SEEDS))}"
        )
    return seeds


def _parts(name: StudyName, text: str | None) -> tuple[str, ...]:
    """What the ablation is to leave out.

    Raises:
        UsageError: If it is another study.
    """
    from silhouette_shared.errors import UsageError

    if text is not None and name != "ablation":
        raise UsageError(f"--without: expected the study ablation, got {name}; leave the option out")
    return () if text is None else tuple(listed("without", text, str, "parts"))


def _say(text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _study(name: str, bench: Bench) -> StudyTable:
    from importlib import import_module

    found: StudyTable = getattr(import_module(f"silhouette_simulations.studies.{name}"), name)(bench)
    return found


def _record(path: Path, bench: Bench, name: str, people: int | None, table: StudyTable, seconds: float) -> None:
    from silhouette_simulations.results import Result, add_result, commit_of

    add_result(
        path,
        Result(
            what=f"study {name}"
            + ("" if people is None else f", {people} people")
            + "".join(f", without {part}" for part in bench.without)
            + (f", seeds {','.join(map(str, bench.seeds))}" if len(bench.seeds) > 1 else ""),
            plan=bench.plan.name,
            plan_digest=bench.plan.digest,
            seed=bench.plan.seed,
            commit=commit_of(Path(__file__).parent),
            dataset_digest=bench.dataset.digest,
            target=bench.plan.evaluation.target,
            seconds=round(seconds, 1),
            values=table.document(),
        ),
    )


def print_table(table: StudyTable) -> None:
    """Show a study's table on the screen."""
    screen = Console()
    if not screen.is_terminal:
        screen.width = max(screen.width, 160)
    shown = Table(title=table.title, title_justify="left", box=None)
    for column in table.columns:
        shown.add_column(column, justify="left" if column in (table.columns[0], "from", "definition") else "right")
    for row in table.rows:
        shown.add_row(*(_cell(row[column]) for column in table.columns))
    screen.print(shown)
    for note in table.notes:
        screen.print(note, style="dim", highlight=False)


def _cell(value: object) -> str:
    from silhouette_shared.model.evaluation import Interval

    if value is None:
        return ""
    if isinstance(value, Interval):
        return f"{value.mean:+.4f} ({value.low:+.4f} to {value.high:+.4f})"
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
