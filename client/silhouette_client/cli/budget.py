"""`silhouette budget`: what privacy was spent at this node, what still fits, and whether the record is whole."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_client.policy.witness import FileWitness
    from silhouette_shared.privacy.ledger import Chain

budget = typer.Typer(
    name="budget",
    help="Show what privacy this node has spent on its people, what still fits, and check the record.",
    no_args_is_help=True,
    add_completion=False,
)

WitnessOption = Annotated[
    Path | None,
    typer.Option(
        "--witness",
        metavar="FOLDER",
        envvar="SILHOUETTE_WITNESS",
        help="Compare with the witness in this folder: it notices an older copy put back.",
        show_default=False,
    ),
]
PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="The plan of a training run, a TOML file.")]


@budget.command("show")
def show_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Show what was spent by run, by purpose and in the year, and what is left.

    The limit of a run is compared with the tightest accountant, because its plan was fixed beforehand; the limit of
    a year with a Renyi filter, which also holds for plans chosen after seeing what earlier ones released.
    """
    from silhouette_client.policy.overview import overview

    chain = _read(home)
    document = overview(chain, _today(chain))
    if output is Format.json:
        emit(document)
    else:
        _print(document)


@budget.command("forecast")
def forecast_command(plan: PlanArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Say how many rounds and whole runs of a plan still fit the limits today.

    The plan's noise is the one its epsilon and delta ask for. Ends with exit code 3 if not even one run fits.
    """
    from silhouette_client.policy.budget import Budget
    from silhouette_client.policy.overview import describe_limits
    from silhouette_shared.config import read_plan
    from silhouette_shared.errors import RefusedError, UsageError
    from silhouette_shared.privacy.accounting import calibrate

    read = read_plan(plan)
    privacy = read.privacy
    if privacy.mode == "none":
        raise UsageError(f"{plan}: expected a plan with privacy, got the mode none; a node does not train without")
    chain = _read(home)
    limits = chain.limits
    if limits is None:
        raise UsageError("expected a ledger with limits, got one that was never opened by a node; start the node")
    mechanism = calibrate(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sampling_rate=privacy.sampling_rate,
        steps=privacy.steps,
        clip_norm=privacy.clip_norm,
    )
    found = Budget(chain.entries).forecast(
        limits,
        mechanism=mechanism.after(privacy.local_steps),
        rounds=privacy.rounds,
        delta=privacy.delta,
        today=_today(chain),
    )
    if output is Format.json:
        emit(
            {
                "plan": read.name,
                "plan_rounds": privacy.rounds,
                "plan_epsilon": privacy.epsilon,
                "epsilon": found.epsilon,
                "rounds": found.rounds,
                "runs": found.runs,
                "limited_by": None if found.limited_by is None else str(found.limited_by),
                "limits": describe_limits(limits),
            }
        )
    else:
        typer.echo(f"plan    {read.name}: {privacy.rounds} rounds, epsilon {privacy.epsilon:g} at {privacy.delta:g}")
        typer.echo(f"rounds  {_many(found.rounds)} of a new run fit today" + (_by(found.limited_by)))
        typer.echo(f"runs    {_many(found.runs)} whole ones fit today")
    if found.runs == 0:
        raise typer.Exit(RefusedError.exit_code)


@budget.command("verify")
def verify_command(witness: WitnessOption = None, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Check every entry of the ledger: its seal, the chain, and what a witness has seen.

    Ends with exit code 5 and names the first entry that is wrong. Without a witness a ledger that was cut at its end
    passes.
    """
    from silhouette_client.policy.witness import FileWitness

    chain = _read(home)
    head = chain.head
    if witness is None:
        console.print("no witness was asked, so an older copy would pass: add --witness FOLDER", style="yellow")
        seen = None
    else:
        seen = _compare(chain, FileWitness(witness))
    if output is Format.json:
        emit(
            {
                "node": chain.node,
                "entries": len(chain),
                "head": None if head is None else {"sequence": head.sequence, "hash": head.hash.hex()},
                "witness": None if witness is None else {"folder": str(witness), "sequence": seen},
                "whole": True,
            }
        )
        return
    typer.echo(f"whole   {len(chain)} entries of {chain.node}, head {head.hash.hex()[:16] if head else ''}")
    if seen is not None:
        typer.echo(f"seen    up to entry {seen} by the witness {witness}")


def _read(home: Path | None) -> Chain:
    from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain

    folder = silhouette_home(home)
    of_node = folder / "node" / LEDGER_NAME  # an enrolled node's own
    return read_chain(of_node if of_node.exists() else folder / LEDGER_NAME)


def _compare(chain: Chain, witness: FileWitness) -> int:
    from silhouette_shared.errors import IntegrityError

    node = chain.node or ""
    seen = witness.head(node)
    if seen is None:
        raise IntegrityError(f"expected {witness.name} to have seen the ledger of {node}, got one that never has")
    chain.check_head(seen, witness.name)
    return seen.sequence


def _today(chain: Chain) -> date:
    return chain.next_time(datetime.now(UTC)).date()


def _print(document: dict[str, object]) -> None:
    parts = cast(dict[str, Any], document)
    limits, year = parts["limits"], parts["year"]
    typer.echo(f"ledger  {parts['entries']} entries of {parts['node']}")
    typer.echo(
        f"limits  epsilon {_figure(limits['epsilon_per_run'])} a run, {_figure(limits['epsilon_per_year'])} a year, "
        f"at delta {limits['delta']:g}"
    )
    relief = f", less from {year['less_from']}" if year["less_from"] else ""
    typer.echo(
        f"year    {year['charges']} charges in 365 days, epsilon {year['epsilon']:.3f} by the filter, "
        f"{_figure(year['left'])} left{relief}"
    )
    for run in parts["runs"]:
        typer.echo(f"run     {run['run']}: {_spent(run)}, {_figure(run['left'])} left")
        for purpose in run["purposes"]:
            typer.echo(f"        {purpose['purpose']}: {_spent(purpose)}")
    for purpose in parts["purposes"]:
        typer.echo(f"for     {purpose['purpose']}: {_spent(purpose)}")
    for one in parts["years"]:
        typer.echo(f"in      {one['year']}: {_spent(one)}")


def _spent(group: dict[str, Any]) -> str:
    figures = ", ".join(f"{_figure(value, 'unknown')} by {name}" for name, value in group["epsilon"].items())
    return f"{group['charges']} charges, epsilon {figures}"


def _figure(value: float | None, missing: str = "any") -> str:
    return missing if value is None else f"{value:.3f}"


def _many(count: int | None) -> str:
    from silhouette_client.policy.budget import MOST

    if count is None:
        return "any number"
    return f"more than {MOST}" if count >= MOST else str(count)


def _by(reason: object) -> str:
    return "" if reason is None else f", then the {str(reason).replace('_', ' ')} stops it"
