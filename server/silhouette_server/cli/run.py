"""`silhouette run`: put a training run into the registry, watch it, stop it, and go on with it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_server.registry import Registry, RunView

run = typer.Typer(
    name="run",
    help="Submit a training run to the partners, watch it, stop it and go on with it.",
    no_args_is_help=True,
    add_completion=False,
)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="As `silhouette run list` names it.")]

_WATCH_SECONDS = 1.0


@run.command("submit")
def submit_command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file (TOML).", show_default=False)],
    catalogue: Annotated[
        Path, typer.Option("--catalogue", help="The public catalogue that all partners share (safetensors).")
    ],
    partner: Annotated[
        list[str] | None,
        typer.Option("--partner", help="Who takes part; may be repeated. Default: every active member."),
    ] = None,
    start: Annotated[
        str, typer.Option("--start", help="The model to start from: promoted or RUN:ROUND. Default: a fresh one.")
    ] = "",
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Sign an offer of the plan and put the run into the registry.

    A coordinator that is started takes it from there: it sends the offer to every partner and runs the rounds. Prints
    the run's name.
    """
    from silhouette_server.enrolment.office import Office
    from silhouette_server.registry import Submission
    from silhouette_server.runs import prepare_run, read_public_catalogue
    from silhouette_shared.config import read_plan
    from silhouette_shared.supervision import read_status

    office = Office.of(silhouette_home(home))
    read = read_plan(plan)
    with _registry(home, write=True) as registry:
        public, runs = read_public_catalogue(catalogue), office.folder / "runs"
        begins = registry.start_of(start, read).read() if start else None
        prepared = prepare_run(office, read, public, runs, partner, begins)
        offer = prepared.read_offer(office)
        registry.submit(
            read,
            Submission(
                name=prepared.run,
                offer=prepared.offer,
                catalogue=offer.catalogue,
                roster=offer.roster_version,
                partners=offer.people,
                start=start,
            ),
        )
    if read_status(office.folder / "processes") is None:
        console.print("no coordinator runs in this home: begin with `silhouette coordinator start`", soft_wrap=True)
    if output is Format.json:
        emit({"run": prepared.run, "partners": list(offer.partners), "parameters": prepared.layout.size})
    else:
        typer.echo(prepared.run)


@run.command("list")
def list_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """List all runs with their state, the newest last."""
    with _registry(home) as registry:
        found = registry.runs()
    if output is Format.json:
        emit({"runs": [_document(one, rounds=False) for one in found]})
        return
    for one in found:
        typer.echo(_line(one))
    if not found:
        console.print("no run yet: submit one with `silhouette run submit PLAN --catalogue FILE`", soft_wrap=True)


@run.command("show")
def show_command(name: RunArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Show a run and each of its rounds: committed, or void with its reason."""
    with _registry(home) as registry:
        found = registry.run(name)
    if output is Format.json:
        emit(_document(found, rounds=True))
        return
    typer.echo(_line(found))
    for number in sorted(found.rounds):
        typer.echo(_round_line(found, number))


@run.command("watch")
def watch_command(
    name: RunArgument,
    home: HomeOption = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.0, help="Seconds after which to give up, with exit code 4.")
    ] = None,
) -> None:
    """Print each round of a run as it ends, until the run does.

    Ends with exit code 4 if the run stopped or failed, or the time is up.
    """
    from silhouette_server.registry import RoundState, RunState
    from silhouette_shared.errors import UnavailableError

    told: set[int] = set()
    until = None if timeout is None else time.monotonic() + timeout
    with _registry(home) as registry:
        while True:
            found = registry.run(name)
            for number in sorted(set(found.rounds) - told):
                if found.rounds[number].state is not RoundState.running:
                    told.add(number)
                    typer.echo(_round_line(found, number))
            if found.state is RunState.completed:
                typer.echo(_line(found))
                return
            if found.state in (RunState.stopped, RunState.failed):
                raise UnavailableError(
                    f"run {name} {found.state.value}: {found.reason}; "
                    f"go on with `silhouette run resume {name}` when that is mended"
                )
            if until is not None and time.monotonic() > until:
                raise UnavailableError(
                    f"expected run {name} to end within {timeout:.0f} s, it is {found.state.value}; watch it again"
                )
            time.sleep(_WATCH_SECONDS)


@run.command("stop")
def stop_command(name: RunArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Ask a run to stop when its round has ended; it can be resumed."""
    with _registry(home, write=True) as registry:
        found = registry.request_stop(name)
    _say(found, output)


@run.command("resume")
def resume_command(name: RunArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Go on with a run that stopped or failed, at its next round."""
    from silhouette_server.registry import RunState

    with _registry(home, write=True) as registry:
        found = registry.set_state(name, RunState.submitted, "resumed")
    _say(found, output)


def _registry(home: Path | None, *, write: bool = False) -> Registry:
    from silhouette_server.enrolment.office import Office
    from silhouette_server.registry.home import open_registry

    return open_registry(Office.of(silhouette_home(home)), write=write)


def _say(found: RunView, output: Format) -> None:
    if output is Format.json:
        emit(_document(found, rounds=False))
    else:
        typer.echo(_line(found))


def _line(found: RunView) -> str:
    counts = f"{len(found.committed)} committed, {len(found.void)} void of {found.submission.rounds} rounds"
    return f"{found.state.value:<10}{found.name:<44}{counts}" + (f"; {found.reason}" if found.reason else "")


def _round_line(found: RunView, number: int) -> str:
    one = found.rounds[number]
    seconds = "" if one.ended is None else f"{one.ended - one.began:>6} s"
    return f"  round {number:<5}{one.state.value:<11}{seconds:<9}{one.reason}".rstrip()


def _document(found: RunView, *, rounds: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "run": found.name,
        "state": found.state.value,
        "reason": found.reason or None,
        "plan": found.plan_digest,
        "rounds": found.submission.rounds,
        "committed": len(found.committed),
        "void": len(found.void),
        "partners": dict(found.submission.partners),
        "submitted": _time(found.submitted),
    }
    if rounds:
        document["history"] = [
            {
                "round": number,
                "state": one.state.value,
                "began": _time(one.began),
                "ended": None if one.ended is None else _time(one.ended),
                "reason": one.reason or None,
                "card": one.card or None,
            }
            for number, one in sorted(found.rounds.items())
        ]
    return document


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
