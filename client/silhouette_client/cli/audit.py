"""`silhouette audit`: check that the code on this machine keeps the privacy that a plan claims."""

from __future__ import annotations

import secrets
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_shared.errors import IntegrityError

if TYPE_CHECKING:
    from silhouette_shared.privacy.audit.result import AuditResult

audit = typer.Typer(
    name="audit",
    help="Check the training on this machine against the privacy that a plan claims, and check such results.",
    no_args_is_help=True,
    add_completion=False,
)


@audit.callback()
def _noun() -> None:
    """Keep `audit` a group however many verbs it has."""


class EngineChoice(StrEnum):
    """What sums the clipped gradients."""

    bookkeeping = "bookkeeping"
    opacus = "opacus"


PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="The plan of a training run, a TOML file.")]


@audit.command("run")
def run_command(
    plan: PlanArgument,
    steps: Annotated[int, typer.Option("--steps", min=20, help="Steps of each training.")] = 60,
    canaries: Annotated[
        int, typer.Option("--canaries", min=100, help="Canaries; fewer than 2000 do not pass, they show too little.")
    ] = 2000,
    people: Annotated[
        int, typer.Option("--people", min=20, help="Made-up people who train beside the canaries.")
    ] = 300,
    engine: Annotated[
        EngineChoice, typer.Option("--engine", help="What sums the clipped gradients.")
    ] = EngineChoice.bookkeeping,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            help="Chooses the included canaries. Default: drawn now; the result names it.",
            show_default=False,
        ),
    ] = None,
    written: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="The signed result. Default: audit-<plan>.json.", show_default=False
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Ed25519 key (PEM) to sign with. Default: audit-key.pem in the home folder, made if missing.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Run canaries and made-up people through the training of a plan and judge what comes out.

    No real record is read and nothing is spent. The plan's model, clipping, sampling, grid and noise are the ones that
    train; its data set is not opened. Eight gates look at clipping, neighbours, noise, independence, sampling,
    accounting, the canaries' shift and lower bounds on epsilon.

    The result is signed, and holds the evidence from which anybody can compute the verdict again. Ends with exit code
    5 if a gate fails; the result is written all the same.
    """
    from silhouette_client.audit.signing import KEY_NAME, signing_key, write_result
    from silhouette_shared.config import read_plan

    asked = read_plan(plan)
    place = written or Path(f"audit-{asked.name}.json")
    signer = signing_key(key or silhouette_home(home) / KEY_NAME, make=key is None)
    import torch

    from silhouette_client.audit.run import Settings
    from silhouette_client.audit.run import audit as run_audit
    from silhouette_shared.privacy.audit.result import fingerprint, sign

    torch.set_num_threads(1)  # one person at a time: more threads wait for one another
    settings = Settings(
        steps=steps, canaries=canaries, people=people, seed=secrets.randbits(62) if seed is None else seed
    )
    with _Stages() as stages:
        result = run_audit(asked, settings, engine=engine.value, progress=stages.show)
    write_result(place, sign(result, signer))
    public = fingerprint(signer.public_key())
    if output is Format.json:
        emit({**_summary(result), "file": str(place), "signer": public})
    else:
        _print(result)
        typer.echo(f"signed   {place} by {public}")
    if not result.passed:
        raise typer.Exit(IntegrityError.exit_code)


@audit.command("verify")
def verify_command(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A signed result of `silhouette audit run`.")],
    signer: Annotated[
        str | None,
        typer.Option("--signer", metavar="HEX", help="Public key that has to have signed it.", show_default=False),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="PLAN", help="Plan that has to be the audited one.", show_default=False),
    ] = None,
    other_code: Annotated[
        bool, typer.Option("--other-code", help="Accept an audit of other code than is installed here.")
    ] = False,
    output: FormatOption = Format.text,
) -> None:
    """Check a result: its signature, the digests of code and plan, and every verdict, computed again.

    Ends with exit code 5 if anything does not hold, or if the audit itself failed. Without --signer anybody may have
    signed it.
    """
    from silhouette_client.audit.code import require_audited
    from silhouette_client.audit.signing import read_result
    from silhouette_shared.config import read_plan
    from silhouette_shared.privacy.audit.result import verify

    text = read_result(result)
    if signer is None:
        console.print("no signer was named, so anybody's signature passes: add --signer HEX", style="yellow")
    found = verify(text, signer=signer)
    wanted = None if plan is None else read_plan(plan).digest
    require_audited(found.subject, place=result, plan_digest=wanted, other_code=other_code)
    if output is Format.json:
        emit(_summary(found))
    else:
        _print(found)
    if not found.passed:
        raise typer.Exit(IntegrityError.exit_code)


@audit.command("rounds")
def rounds_command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A run's folder, or the records of one training in it.")
    ],
    pins: Annotated[
        Path | None,
        typer.Option(
            "--pins",
            metavar="FILE",
            help="JSON with the public keys that you trust: coordinator, and partners by name.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="PLAN",
            help="Plan whose privacy terms the rounds have to be under. Default: plan.toml of the run's folder.",
            show_default=False,
        ),
    ] = None,
    resumed: Annotated[
        bool, typer.Option("--resumed-simulation", help="Accept ledgers that began anew when a simulation was resumed.")
    ] = False,
    output: FormatOption = Format.text,
) -> None:
    """Check the records of a run's secure rounds without trusting the coordinator that made them.

    Every signature, the chain from the first round on, the threshold, who survived, that no ledger went back, that the
    rounds were under the plan's privacy terms, and that the sums that were kept are the signed ones. Ends with exit
    code 5 if anything does not hold. Without --pins anybody's keys pass.
    """
    from silhouette_client.audit.rounds import chains, read_pins, verify_rounds
    from silhouette_shared.config import read_plan

    trusted = None if pins is None else read_pins(pins)
    if trusted is None:
        console.print("no keys were named, so anybody's pass: add --pins FILE", style="yellow")
    place = plan or (folder / "plan.toml" if (folder / "plan.toml").is_file() else None)
    named = None if place is None else read_plan(place)
    if named is None:
        console.print("no plan was named, so the privacy terms were not compared: add --plan PLAN", style="yellow")
    found = [verify_rounds(one, trusted, named, ledgers=not resumed) for one in chains(folder)]
    if output is Format.json:
        emit({"trainings": [vars(one) for one in found]})
        return
    for one in found:
        noise = {True: "with the plan's noise", False: "without noise", None: "privacy terms not compared"}[one.private]
        typer.echo(
            f"whole    {one.run}: {one.rounds} rounds, at least {one.fewest} of {one.partners} partners in a sum, "
            f"{one.sums} sums kept, {noise}"
        )


def _summary(result: AuditResult) -> dict[str, object]:
    subject = result.subject
    return {
        "plan": subject.plan,
        "plan_digest": subject.plan_digest,
        "engine": subject.engine,
        "code": subject.code,
        "finished": subject.finished,
        "passed": result.passed,
        "delta": result.evidence.declared.delta,
        "claimed_epsilon": result.claimed_epsilon,
        "one_run_epsilon": result.one_run_epsilon,
        "gaussian_epsilon": result.gaussian_epsilon,
        "gates": list(result.gates),
    }


def _print(result: AuditResult) -> None:
    from silhouette_shared.privacy.audit.gates import judge

    verdict = judge(result.evidence)
    for gate in verdict.gates:
        typer.echo(f"{'passed' if gate.passed else 'FAILED':<9}{gate.name:<14}{gate.question}")
        for check in gate.checks:
            if not check.passed:
                limits = " to ".join("" if limit is None else f"{limit:.6g}" for limit in (check.least, check.most))
                typer.echo(f"{'':<9}{'':<14}{check.name}: {check.value:.6g}, expected {limits}")
    declared = result.evidence.declared
    typer.echo(
        f"epsilon  claimed {result.claimed_epsilon:.2f} at delta {declared.delta:g} for these {declared.steps} steps; "
        f"at least {result.one_run_epsilon:.2f} (one run), {result.gaussian_epsilon:.2f} (Gaussian)"
    )
    typer.echo(f"{'passed' if result.passed else 'FAILED':<9}{result.subject.plan}, engine {result.subject.engine}")


class _Stages:
    """A bar for each stage, on standard error."""

    def __init__(self) -> None:
        from rich.progress import Progress, TaskID

        self._progress = Progress(console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Stages:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, stage: str, done: float) -> None:
        """Move the bar of a stage to `done`, 0 to 1."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=1.0)
        self._progress.update(self._tasks[stage], completed=done)
