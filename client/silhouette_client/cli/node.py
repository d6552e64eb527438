"""`silhouette node`: a partner's place in a consortium."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_client.enrolment.home import NodeHome

node = typer.Typer(
    name="node",
    help="Set up this partner's node and see whether it has what it needs.",
    no_args_is_help=True,
    add_completion=False,
)


@node.command("init")
def init_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What this partner is called on the roster.")],
    people: Annotated[
        int,
        typer.Option("--people", help="How many people this partner declares: public, rounded, no count of records."),
    ],
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Make this node's keys and the request that goes to the coordinator.

    The keys never leave this machine; the request holds none. Overwrites nothing.
    """
    from silhouette_client.enrolment.making import make_node

    found = _home(home)
    request = make_node(found, name, people)
    path = found.folder / "request.json"
    if output is Format.json:
        emit({"name": request.name, "people": request.people, "folder": str(found.folder), "request": str(path)})
        return
    console.print(f"made keys in {found.folder}: they stay on this machine", soft_wrap=True)
    typer.echo(f"request: {path}")


@node.command("install")
def install_command(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The file that the coordinator sent.")],
    fingerprint: Annotated[
        str,
        typer.Option("--fingerprint", help="As the coordinator told it by another channel, with or without spaces."),
    ],
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Check a kit against its fingerprint and pin who is who.

    Nothing is written unless every check holds. A newer kit of the same consortium replaces an older one.
    """
    from silhouette_client.enrolment.installing import install_kit, own_validity, read_kit
    from silhouette_shared.enrolment import State

    found = _home(home)
    installed, state = install_kit(found, read_kit(kit), fingerprint, datetime.now(UTC))
    roster, ends = found.roster(), own_validity(found).ends
    if state is State.soon:
        console.print(f"this certificate ends on {ends:%Y-%m-%d}: ask the coordinator for a new kit")
    if output is Format.json:
        emit(
            {
                "name": installed.name,
                "consortium": roster.consortium,
                "roster": roster.version,
                "partners": list(roster.active),
                "certificate_ends": ends.isoformat(),
            }
        )
        return
    typer.echo(
        f"{installed.name} belongs to {roster.consortium}, roster {roster.version}: {', '.join(roster.active)}; the "
        "gate is "
        f"{installed.gate.host}:{installed.gate.port}, the certificate ends on {ends:%Y-%m-%d}"
    )


def _home(home: Path | None) -> NodeHome:
    from silhouette_client.enrolment.home import NodeHome

    return NodeHome.of(silhouette_home(home))
