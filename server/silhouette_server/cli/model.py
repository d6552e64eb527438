"""`silhouette model`: what training has given, what is said of it, and which one partners take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_server.registry import Registry
    from silhouette_shared.cards import Alias, Card

model = typer.Typer(
    name="model",
    help="Look at the models of committed rounds, check them, and choose the one that partners take.",
    no_args_is_help=True,
    add_completion=False,
)

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="promoted, previous, RUN:ROUND, or RUN for its last committed round.")
]


@model.command("list")
def list_command(
    run: Annotated[str | None, typer.Option("--run", help="Of this run alone.")] = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """List the models of all committed rounds, the newest last."""
    with _registry(home) as registry:
        contents = registry.contents
    runs = list(contents.runs.values()) if run is None else [contents.run(run)]
    aliases = {"promoted": contents.promoted, "previous": contents.previous}
    names = {(one.run, one.round): name for name, one in aliases.items() if one is not None}
    rows = [(one.name, found, names.get((one.name, found.number), "")) for one in runs for found in one.committed]
    if output is Format.json:
        emit(
            {
                "models": [
                    {
                        "model": f"{name}:{found.number}",
                        "alias": alias or None,
                        "sha256": found.commitment.model if found.commitment else None,
                        "card": found.card,
                        "edition": found.edition,
                        "epsilon": found.commitment.total_epsilon if found.commitment else None,
                    }
                    for name, found, alias in rows
                ]
            }
        )
        return
    for name, found, alias in rows:
        spent = found.commitment.total_epsilon if found.commitment else None
        cost = "without privacy" if spent is None else f"epsilon {spent:.3f}"
        digest = found.commitment.model[:12] if found.commitment else ""
        typer.echo(f"{f'{name}:{found.number}':<44}{digest:<14}{cost:<18}{alias}".rstrip())
    if not rows:
        console.print("no round is committed yet: see `silhouette run list`", soft_wrap=True)


@model.command("card")
def card_command(name: ModelArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Show what is said of a model: where it comes from, what it cost and how good it is."""
    with _registry(home) as registry:
        card = registry.model(name).card
    if output is Format.json:
        emit(_document(card))
        return
    for label, value in _lines(card):
        typer.echo(f"{label:<16}{value}")


@model.command("statement")
def statement_command(name: ModelArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Say what a model promises to whom, over its run and every run that it was started from."""
    from silhouette_server.statements import statement_of
    from silhouette_shared.cards.checks import check_privacy

    with _registry(home) as registry:
        card = registry.model(name).card
        check_privacy(card)
        found = statement_of(card, registry.plan(card.run), len(registry.run(card.run).submission.partners))
    if output is Format.json:
        emit(found.document)
    else:
        typer.echo(found.markdown)


@model.command("verify")
def verify_command(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", help="A folder that `model export` made, or a model of the registry. Default: everything."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", help="Of a folder: the coordinator's public signing key, as 64 hexadecimal digits or in a file."
        ),
    ] = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Check signature, bytes and epsilon of a model, or everything in the registry.

    A folder is checked with nothing but what is in it and the key: no network, no registry. Ends with exit code 5 if
    anything is not as it was signed.
    """
    from silhouette_server.exports import verify_export
    from silhouette_shared.cards.checks import check_privacy

    if target is not None and Path(target).is_dir():
        found = verify_export(Path(target), key)
        if not key:
            console.print(
                "the key was taken from the folder itself: compare it with the one in your kit, or give --key",
                soft_wrap=True,
            )
        _say_verified(found.card, found.alias, output)
        return
    with _registry(home) as registry:
        if target is None:
            _verify_all(registry, output)
            return
        model = registry.model(target)
        model.read()
        check_privacy(model.card)
        _say_verified(model.card, None, output)


@model.command("promote")
def promote_command(
    name: ModelArgument,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="A signed audit result of the plan that trained the model.")
    ] = None,
    auditor: Annotated[
        str | None, typer.Option("--auditor", help="The auditor's public key, as `silhouette audit verify` shows it.")
    ] = None,
    require_audit: Annotated[
        bool, typer.Option("--require-audit", help="Promote nothing that no audit was passed for.")
    ] = False,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Let partners take a model, if its checks pass and it is no worse than the promoted one.

    A coordinator that runs brings it to every node that is connected, and to the others when they are.

    How much worse it may be, and how sure that must be, is in the plan's table [promotion]. Ends with exit code 3 if it
    may not be promoted.
    """
    from silhouette_shared.errors import RefusedError, UsageError

    if require_audit and audit is None:
        raise RefusedError(
            f"{name}: expected an audit that was passed, got none; run `silhouette audit run` with the plan of the "
            "model and give its result with --audit"
        )
    if (audit is None) != (auditor is None):
        raise UsageError("expected --audit with the --auditor whose result is believed, got one of them; give both")
    with _registry(home, write=True) as registry:
        alias, verdict = registry.promote(name, audit=_text(audit), auditor=auditor or "")
    _say_alias(alias, verdict.text, output)


@model.command("rollback")
def rollback_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Let partners take the model again that was promoted before."""
    with _registry(home, write=True) as registry:
        alias = registry.rollback()
    _say_alias(alias, "the promotion before it is taken back", output)


@model.command("export")
def export_command(
    name: ModelArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it must not exist yet.")],
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Write a model with its card into a folder that anybody can check."""
    from silhouette_server.enrolment.office import Office
    from silhouette_server.exports import write_export
    from silhouette_shared.cards import PROMOTED

    office = Office.of(silhouette_home(home))
    with _registry(home) as registry:
        found, alias = registry.model(name), registry.alias()
        if name == PROMOTED and (promoted := registry.promoted()) is not None:
            found = promoted[2]  # with the card that the alias names, whatever was measured since
        write_export(folder, found, alias, office.identity().public)
    if output is Format.json:
        emit({"model": found.reference, "folder": str(folder)})
    else:
        typer.echo(f"{found.reference} is in {folder}: check it with `silhouette model verify {folder} --key KEY`")


def _registry(home: Path | None, *, write: bool = False) -> Registry:
    from silhouette_server.enrolment.office import Office
    from silhouette_server.registry.home import open_registry

    return open_registry(Office.of(silhouette_home(home)), write=write)


def _text(path: Path | None) -> str | None:
    from silhouette_shared.errors import UsageError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a signed audit result, got a file that cannot be read: {error}") from None


def _verify_all(registry: Registry, output: Format) -> None:
    from silhouette_shared.errors import IntegrityError

    faults = registry.verify()
    models = sum(len(run.committed) for run in registry.runs()) if not faults else 0
    if output is Format.json:
        emit({"models": models, "faults": [{"place": fault.place, "what": fault.what} for fault in faults]})
    else:
        for fault in faults:
            typer.echo(f"{fault.place}: {fault.what}")
    if faults:
        raise IntegrityError(
            f"expected a registry as it was signed, got {len(faults)} faults; keep the files and put back the newest "
            "copy of what is named above"
        )
    if output is not Format.json:
        typer.echo(f"the registry and its {models} models are as they were signed")


def _say_verified(card: Card, alias: Alias | None, output: Format) -> None:
    if output is Format.json:
        promoted = None if alias is None else alias.number
        emit({"model": card.reference, "sha256": card.model, "verified": True, "alias": promoted})
        return
    told = "" if alias is None else f", promoted as number {alias.number}"
    typer.echo(f"{card.reference}: signature, bytes and epsilon fit{told}")


def _say_alias(alias: Alias, why: str, output: Format) -> None:
    if output is Format.json:
        emit({"promoted": f"{alias.run}:{alias.round}", "number": alias.number, "reason": alias.reason, "why": why})
    else:
        typer.echo(f"promoted: {alias.run}:{alias.round} (number {alias.number}); {why}")


def _document(card: Card) -> dict[str, object]:
    from silhouette_shared.enrolment.signed import content_of

    return content_of(card)


def _lines(card: Card) -> list[tuple[str, str]]:
    from datetime import UTC, datetime

    found = [
        ("model", f"{card.reference}, edition {card.edition} of the card"),
        ("SHA-256", card.model),
        ("size", f"{card.parameters:,} parameters, {card.size:,} bytes"),
        ("plan", f"{card.plan}, {card.plan_digest}"),
        ("roster", str(card.roster) if card.roster else "none"),
        ("transcript", card.transcript or "none: without secure aggregation"),
        ("issued", f"{datetime.fromtimestamp(card.issued, UTC):%Y-%m-%d %H:%M} UTC"),
    ]
    if card.parent is not None:
        found.append(("started from", f"{card.parent.run}:{card.parent.round}, card {card.parent.card}"))
    if card.spent is None:
        found.append(("privacy", "none: the model may hold traces of single people"))
    else:
        spent = card.spent
        found.append(
            (
                "privacy",
                f"epsilon {spent.epsilon:.3f} at delta {spent.delta:g} ({spent.run_epsilon:.3f} in this run, which "
                f"promises at most {spent.promised:g}); mode {spent.mode}",
            )
        )
    if card.evaluation is not None:
        for where, figure in (("overall", card.evaluation.quality.overall), ("worst", card.evaluation.quality.worst)):
            if figure is not None:
                found.append((where, f"{card.evaluation.metric} {figure.value:.4f} (noise {figure.noise_std:.4f})"))
    if card.audit is not None:
        found.append(("audit", f"passed, SHA-256 {card.audit.reference}"))
    return [*found, *((name, f"{value:g}") for name, value in sorted(card.metrics.items()))]
