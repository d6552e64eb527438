"""`silhouette plan`: write a plan, check it, and see what it costs before anybody runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, console, emit
from silhouette_shared.errors import UsageError

if TYPE_CHECKING:
    from silhouette_shared.config import Plan
    from silhouette_shared.privacy.modes import View
    from silhouette_shared.privacy.price import Price

plan = typer.Typer(
    name="plan",
    help="Write and check a plan, and see its privacy cost before anybody runs it.",
    no_args_is_help=True,
    add_completion=False,
)

PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file (TOML).", show_default=False)]
PeopleOption = Annotated[
    int | None,
    typer.Option(
        "--people",
        min=1,
        help="A public bound on the partner's people; gives the batch cap and the noise against the signal.",
        show_default=False,
    ),
]
ParametersOption = Annotated[
    int | None,
    typer.Option(
        "--parameters",
        min=1,
        help="Coordinates of the model; gives what the integer grid and its arithmetic cost.",
        show_default=False,
    ),
]
PartnersOption = Annotated[
    int | None, typer.Option("--partners", min=1, help="Partners. Default: the plan's.", show_default=False)
]


@plan.callback()
def _noun() -> None:
    """Keep `plan` a group however many verbs it has."""


@plan.command("new")
def new_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the plan; it is written to NAME.toml.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the file is made.")] = Path(),
    output: FormatOption = Format.text,
) -> None:
    """Write a plan with every setting at its default and a line on what it means.

    A file that is there already is left alone (exit code 2).
    """
    from silhouette_shared.config import commented_toml, parse_plan

    text = commented_toml(parse_plan({"name": name}, source="NAME"))
    path = out / f"{name}.toml"
    out.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path}: expected a new file, found one; take another name or remove it") from None
    if output is Format.json:
        emit({"file": str(path)})
        return
    typer.echo(str(path))
    console.print(f"Next: silhouette plan price {path} --people N", highlight=False)


@plan.command("check")
def check_command(
    plan_file: PlanArgument,
    people: PeopleOption = None,
    partners: PartnersOption = None,
    parameters: ParametersOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Check that a plan can be run as it stands: its settings, its noise, and the sums of secure aggregation.

    A plan that cannot ends with exit code 2 and what to change; accountants that disagree end with 5.
    """
    from silhouette_shared.config import read_plan

    read = read_plan(plan_file)
    done = ["settings"]
    if read.privacy.mode != "none":
        done += _checked_noise(read, people, partners, parameters)
    if output is Format.json:
        emit({"plan": read.name, "digest": read.digest, "mode": read.privacy.mode, "checked": done})
        return
    typer.echo(f"{read.name} ({read.digest[:12]}) can be run: {', '.join(done)} checked")
    if read.privacy.mode == "none":
        typer.echo("mode none: no privacy, for a simulation on public data only; a partner's policy refuses it")


def _checked_noise(read: Plan, people: int | None, partners: int | None, parameters: int | None) -> list[str]:
    from silhouette_shared.privacy.grid import Grid, check_ring
    from silhouette_shared.privacy.price import training_and_beside

    mechanism, _ = training_and_beside(read, people_bound=people, size=parameters)
    done = [f"noise for epsilon {read.privacy.epsilon:g} at delta {read.privacy.delta:g}"]
    if people is not None and parameters is not None:
        check_ring(
            Grid.of(read.privacy.clip_norm, read.privacy.grid_bits),
            clip_norm=read.privacy.clip_norm,
            people_cap=mechanism.batch_cap or people,
            parties=partners or read.partition.partners,
            noise_std=mechanism.noise_std,
            size=parameters,
        )
        done.append("sums of 32 bits")
    return done


@plan.command("price")
def price_command(
    plan_file: PlanArgument,
    people: PeopleOption = None,
    partners: PartnersOption = None,
    persons_partners: Annotated[
        int, typer.Option("--persons-partners", min=1, help="At how many partners one person may be.")
    ] = 1,
    runs: Annotated[
        int,
        typer.Option("--runs", min=1, help="Whole runs on the same people: to choose settings by, or begun anew."),
    ] = 1,
    parameters: ParametersOption = None,
    round_seconds: Annotated[
        float | None,
        typer.Option("--round-seconds", min=0.0, help="Seconds of a round, as `silhouette run show` tells them."),
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Say what a plan costs each person, before anybody runs it.

    Epsilon by every accountant and by who looks, where delta goes, what a round costs, and how the noise stands
    against the signal; with --parameters the bytes, with --round-seconds the time. Nothing is read but the plan.
    """
    from silhouette_shared.config import read_plan
    from silhouette_shared.privacy.price import price_document, price_plan

    read = read_plan(plan_file)
    price = price_plan(
        read, partners=partners, people=people, size=parameters, persons_partners=persons_partners, runs=runs
    )
    effort = _effort(read, parameters, round_seconds)
    if output is Format.json:
        emit({**price_document(read, price), "effort": effort})
        return
    typer.echo("\n".join([*_lines(read, price, partners or read.partition.partners), *_effort_lines(effort)]))


_BYTES_A_COORDINATE = 4  # a masked word up, a float32 down; all else of a round is some kilobytes


def _effort(read: Plan, parameters: int | None, round_seconds: float | None) -> dict[str, float | int | None]:
    """Bytes each way at a partner, and seconds, of a run's training; None where what they follow from is not given."""
    rounds = read.privacy.rounds
    each_way = None if parameters is None else _BYTES_A_COORDINATE * parameters
    return {
        "rounds": rounds,
        "bytes_a_round": each_way,
        "bytes": None if each_way is None else rounds * each_way,
        "seconds": None if round_seconds is None else rounds * round_seconds,
    }


def _effort_lines(effort: dict[str, float | int | None]) -> list[str]:
    rounds, each_way, total, seconds = (effort[name] for name in ("rounds", "bytes_a_round", "bytes", "seconds"))
    traffic = (
        "--parameters D gives the bytes"
        if each_way is None or total is None
        else f"{each_way / 1e6:.2f} MB up and as many down at a partner in a round, {total / 1e6:.1f} MB each way"
    )
    time = "--round-seconds S gives the time" if seconds is None else f"{rounds} rounds, {seconds / 60:.1f} minutes"
    return [f"traffic           {traffic}", f"time              {time}"]


def _lines(read: Plan, price: Price, partners: int) -> list[str]:
    from silhouette_shared.privacy.budget import released_once

    mechanism, parts = price.mechanism, price.parts
    found = price.accountants
    lines = [
        f"{read.name}: epsilon {found['pld']:.3f} at delta {price.delta:g} for one person's whole record at a partner, "
        f"added or removed; mode {read.privacy.mode}",
        f"accountants       PLD {found['pld']:.3f}, PRV {found['prv']:.3f}, RDP {found['rdp']:.3f}",
        f"noise             multiplier {mechanism.noise_multiplier:.4f}, standard deviation {mechanism.noise_std:.4g}, "
        f"clip norm {mechanism.clip_norm:g} + {mechanism.rounding:.3g} for the grid",
        f"sampling          rate {mechanism.sampling_rate:g}, {mechanism.steps} steps in {read.privacy.rounds} rounds",
        f"delta             {parts.formula:.3g} accountants, {parts.overflow:.2g} batch cap, {parts.sampler:.2g} "
        f"arithmetic (and {parts.epsilon:.2g} of epsilon)",
    ]
    for name, once in zip(released_once(read), price.beside, strict=True):
        lines.append(
            f"released once     {name}: noise of {once.noise_std:.3g} on sums in which a person counts at most 1"
        )
    if price.expected_batch is not None:
        lines.append(
            f"batch             {price.expected_batch:.1f} people expected, at most {mechanism.batch_cap} "
            f"(passed with probability {mechanism.overflow:.1g} a step)"
        )
    else:
        lines.append("batch             --people N gives its cap and the noise against the signal")
    if mechanism.size == 0:
        lines.append("grid              --parameters D gives what rounding and arithmetic cost")
    lines.append(f"one round alone   {price.one_round:.3f}")
    lines.append("over rounds       " + "  ".join(f"{n}: {value:.2f}" for n, value in _few(price.curve)))
    if price.persons_partners > 1:
        lines.append(f"a person at {price.persons_partners} partners: {_stated(price.person)}")
    if price.runs > 1:
        lines.append(f"{price.runs} runs on the same people: {_stated(price.all_runs)}")
    lines += [
        f"who looks, {partners} partners     release alone | sum, fewest honest survivors | sum, everybody honest",
        f"  local           {_seen(price.local)}",
        f"  distributed     {_seen(price.distributed)}"
        + ("" if price.distributed is None else "   (release alone: only if secure aggregation failed)"),
    ]
    if price.noise_per_coordinate is not None:
        line = f"noise             {price.noise_per_coordinate:.3g} clip norms on a coordinate of the mean gradient"
        if price.noise_to_signal is not None:
            line += f"; its norm is {price.noise_to_signal:.3g} times the largest that the signal can have"
        lines.append(line)
    if price.float32_summing is not None:
        lines.append(
            f"not charged       sums in float32 may lie {price.float32_summing:.2g} clip norms further apart; with "
            f"that epsilon would be {_stated(price.with_summing)}"
        )
    return lines


def _stated(value: float | None) -> str:
    return "too large to be stated at this delta" if value is None else f"{value:.3f}"


def _few(curve: tuple[tuple[int, float], ...]) -> list[tuple[int, float]]:
    every = max(1, len(curve) // 6)
    return [point for number, point in enumerate(curve) if number % every == 0 or number == len(curve) - 1]


def _seen(view: View | None) -> str:
    if view is None:
        return "not offered: three partners and one step a round are needed"
    return " | ".join(
        "not claimed" if value is None else f"{value:.3f}" for value in (view.release, view.honest, view.everybody)
    )
