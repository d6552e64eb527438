"""`silhouette coordinator`: a consortium's authority, its members and its certificates."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_server.enrolment.office import Office

coordinator = typer.Typer(
    name="coordinator",
    help="Set up a consortium, enrol partners, and see how it stands.",
    no_args_is_help=True,
    add_completion=False,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The partner's name on the roster.")]
HostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        help="Name or address under which partners reach the gate; may be repeated. The first is told to them.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


@coordinator.command("init")
def init_command(
    name: Annotated[str, typer.Option("--name", help="What the consortium is called.")],
    host: HostOption = None,
    port: Annotated[int, typer.Option("--port", help="Of the gate, the one port that partners need.")] = 9443,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Make the authority, the server's certificate, the signing key and an empty roster.

    Prints the fingerprint that partners have to be told by another channel than the one their kits travel by.
    Overwrites nothing.
    """
    from silhouette_shared.enrolment import grouped
    from silhouette_shared.errors import UsageError

    if not host:
        raise UsageError(
            "--host: expected the name or address under which partners reach this machine, got none; add it"
        )
    office = _office(home)
    fingerprint = office.init(name, host, port)
    if output is Format.json:
        emit({"consortium": name, "folder": str(office.folder), "fingerprint": fingerprint})
        return
    console.print(
        f"made {office.folder}: keep authority.key and signing.key safe, there is no other copy", soft_wrap=True
    )
    typer.echo(f"fingerprint: {grouped(fingerprint)}")


@coordinator.command("invite")
def invite_command(name: NameArgument, home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Print what a partner needs to begin: the commands for its machine, the gate and the fingerprint.

    Nothing is written and nothing here is secret. Tell the fingerprint by telephone or in person.
    """
    from silhouette_shared.enrolment import grouped
    from silhouette_shared.enrolment.refusals import NameTakenError
    from silhouette_shared.enrolment.signed import NAME_RULE, is_name
    from silhouette_shared.errors import UsageError

    office = _office(home)
    settings, roster = office.settings, office.roster()
    if not is_name(name):
        raise UsageError(f"NAME: expected {NAME_RULE}, got {name!r}")
    if name in roster.members:
        raise NameTakenError(
            f"expected a new name, got {name}, which roster {roster.version} has already; take another"
        )
    fingerprint = office.fingerprint
    if output is Format.json:
        gate = {"host": settings.gate.host, "port": settings.gate.port, "names": list(settings.gate.names)}
        emit({"name": name, "consortium": settings.consortium, "gate": gate, "fingerprint": fingerprint})
        return
    typer.echo(
        f"{name} is invited to {settings.consortium} at {settings.gate.host}:{settings.gate.port}.\n\n"
        f"1. On your machine:      silhouette node init {name} --people NUMBER\n"
        "2. Send the coordinator: request.json, which that command names\n"
        f"3. With the kit back:    silhouette node install {name}.kit.json --fingerprint FINGERPRINT\n\n"
        "The fingerprint, to be told by another channel than the kit's:\n"
        f"{grouped(fingerprint)}"
    )


@coordinator.command("sign")
def sign_command(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The file that `silhouette node init` made.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where the kit goes. Default: NAME.kit.json in this folder."),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="The partner is on the roster and has made new keys.")] = False,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Enrol the partner of a request: certificate, place on the roster, kit.

    Compare name and number of people with what the partner told you. The kit holds no secret, and the partner checks it
    against the fingerprint.
    """
    from silhouette_shared.enrolment import grouped
    from silhouette_shared.enrolment.documents import NodeRequest
    from silhouette_shared.private_files import PUBLIC, read_public, replace

    office = _office(home)
    data = read_public(request, "a request of a partner", "check the path")
    path = out or Path(f"{NodeRequest.decode(data).name}.kit.json")
    kit, kit_bytes = office.sign(data, renew=renew)
    replace(path, kit_bytes, PUBLIC)
    roster = office.roster()
    if output is Format.json:
        emit({"name": kit.name, "kit": str(path), "fingerprint": kit.fingerprint, "roster": roster.version})
        return
    console.print(f"{kit.name} is on roster {roster.version}, with {roster.members[kit.name].people} people declared")
    typer.echo(f"kit: {path}\nfingerprint: {grouped(kit.fingerprint)}")


@coordinator.command("revoke")
def revoke_command(
    name: NameArgument, yes: YesOption = False, home: HomeOption = None, output: FormatOption = Format.text
) -> None:
    """Take a partner off the roster for good: the gate refuses it, and the others learn it from the next roster."""
    office = _office(home)
    office.roster().member(name)
    _confirm(f"revoke {name}? The name is not given again", yes)
    roster = office.revoke(name)
    if output is Format.json:
        emit({"name": name, "roster": roster.version, "active": list(roster.active)})
    else:
        typer.echo(f"{name} is revoked on roster {roster.version}; active: {', '.join(roster.active) or 'nobody'}")


@coordinator.command("rotate")
def rotate_command(
    server: Annotated[bool, typer.Option("--server", help="New key and certificate for the gate and inside.")] = False,
    signing: Annotated[
        bool, typer.Option("--signing", help="A new signing key, which the old one vouches for in the roster.")
    ] = False,
    host: HostOption = None,
    yes: YesOption = False,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Replace keys: those of the server, the one that signs, or both.

    Partners take over a new signing key from the next roster, without a new kit. Runs that were offered under the old
    one end, because their partners have it pinned: rotate between runs. Restart the coordinator afterwards.
    """
    from silhouette_shared.enrolment import grouped
    from silhouette_shared.errors import UsageError

    if not (server or signing or host):
        raise UsageError("expected --server, --signing or both, got none of them; say what is to be replaced")
    office = _office(home)
    _confirm("replace keys? Running rounds fail until the coordinator is restarted", yes)
    if server or host:
        office.rotate_server(host)
    if signing:
        office.rotate_signing()
    if output is Format.json:
        emit({"server": server or bool(host), "signing": signing, "fingerprint": office.fingerprint})
    else:
        typer.echo(f"fingerprint for kits from now on: {grouped(office.fingerprint)}")


@coordinator.command("status")
def status_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Show members, certificates and what expires soon, and the processes that `coordinator start` keeps alive.

    Ends with exit code 3 if a certificate has expired.
    """
    from silhouette_shared.enrolment import State, grouped
    from silhouette_shared.errors import RefusedError
    from silhouette_shared.supervision import read_status
    from silhouette_shared.supervision.status import document, lines

    office, now = _office(home), datetime.now(UTC)
    processes = read_status(office.folder / "processes")
    roster, validities = office.roster(), office.validities()
    states = {name: validity.state(now) for name, validity in validities.items()}
    if output is Format.json:
        emit(
            {
                "consortium": roster.consortium,
                "fingerprint": office.fingerprint,
                "roster": roster.version,
                "members": {
                    name: {"state": member.state, "people": member.people} for name, member in roster.members.items()
                },
                "certificates": {
                    name: {"state": states[name], "ends": validity.ends.isoformat(), "days": validity.days_left(now)}
                    for name, validity in validities.items()
                },
                "processes": document(processes),
            }
        )
    else:
        typer.echo(f"{roster.consortium}, roster {roster.version}, fingerprint {grouped(office.fingerprint)}")
        for name, member in sorted(roster.members.items()):
            typer.echo(f"  {member.state:<10}{name:<24}{member.people} people declared")
        for name, validity in validities.items():
            typer.echo(f"  {states[name]:<14}{name}.pem, until {validity.ends:%Y-%m-%d}")
        typer.echo("\n".join(lines(processes)))
    if State.soon in states.values():
        console.print(
            "a certificate expires soon: run `silhouette coordinator rotate --server` (an authority is not renewed)"
        )
    if State.expired in states.values():
        raise typer.Exit(RefusedError.exit_code)


@coordinator.command("start")
def start_command(home: HomeOption = None) -> None:
    """Run gate, SuperLink and ServerApp until ended with Ctrl-C or SIGTERM.

    What dies or hangs is started again. Logs are JSON lines in `coordinator/logs`. Runs that were going when the
    coordinator ended go on at their next round.
    """
    import logging

    from silhouette_server.processes.services import places_of, prepare, services_of
    from silhouette_shared.supervision import Supervisor, call_on_signals, log_to_standard_error

    office = _office(home)
    places = places_of(office)
    supervisor = Supervisor(
        "coordinator",
        places.work,
        places.logs,
        services_of(silhouette_home(home), places),
        partial(prepare, office, places),
    )
    log_to_standard_error()
    call_on_signals(supervisor.request_stop)
    logging.getLogger(__name__).info("the gate is on %s:%d; logs are in %s", places.listen, places.port, places.logs)
    supervisor.run()


def _office(home: Path | None) -> Office:
    from silhouette_server.enrolment.office import Office

    return Office.of(silhouette_home(home))


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)
