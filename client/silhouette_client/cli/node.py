"""`silhouette node`: a partner's place in a consortium."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silhouette_client.cli import ingest
from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_client.enrolment.home import NodeHome
    from silhouette_shared.privacy.ledger import Chain

node = typer.Typer(
    name="node",
    help="Set up this partner's node and see whether it has what it needs.",
    no_args_is_help=True,
    add_completion=False,
)
ingest.register(node)


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


@node.command("start")
def start_command(home: HomeOption = None) -> None:
    """Run connector, agent and SuperNode until ended with Ctrl-C or SIGTERM.

    What dies or hangs is started again. Logs are JSON lines in `node/logs`. The node connects outwards and listens on
    loopback alone.
    """
    import logging

    from silhouette_client.processes.services import gateway_of, places_of, prepare, services_of
    from silhouette_shared.supervision import Supervisor, call_on_signals, log_to_standard_error

    found = _home(home)
    places, gate = places_of(found), gateway_of(found)
    services = services_of(silhouette_home(home), places, found.supernode_path)
    supervisor = Supervisor("node", places.work, places.logs, services, partial(prepare, found, places))
    log_to_standard_error()
    call_on_signals(supervisor.request_stop)
    logging.getLogger(__name__).info("the gate is %s:%d; logs are in %s", gate.host, gate.port, places.logs)
    supervisor.run()


@node.command("supernode")
def supernode_command(
    link: Annotated[Path, typer.Option("--link", metavar="FOLDER", help="As `link` in the node's processes.toml.")],
    home: HomeOption = None,
) -> None:
    """Run the SuperNode alone, under a user of its own that can read nothing of the node.

    Its key is `supernode.key` in the home, a copy of the node's. Connector and agent are started by `silhouette node
    start` with `link` in its processes.toml.
    """
    from silhouette_client.processes.services import read_link, supernode_of
    from silhouette_shared.private_files import read_private
    from silhouette_shared.supervision import Supervisor, call_on_signals, log_to_standard_error

    folder = silhouette_home(home)
    key = folder / "supernode.key"
    read_private(key)
    work = folder / "processes"
    service = supernode_of(link, read_link(link), key, work)
    supervisor = Supervisor("supernode", work, folder / "logs", [service], lambda: None)
    log_to_standard_error()
    call_on_signals(supervisor.request_stop)
    supervisor.run()


@node.command("status")
def status_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Show who this node is, when its certificate ends, and the processes that `node start` keeps alive.

    Ends with exit code 3 if the certificate has expired or the node is revoked.
    """
    from silhouette_client.enrolment.installing import own_validity
    from silhouette_client.promoted import held_number
    from silhouette_shared.enrolment import State
    from silhouette_shared.errors import RefusedError
    from silhouette_shared.supervision import read_status
    from silhouette_shared.supervision.status import document, lines

    found, now = _home(home), datetime.now(UTC)
    roster, validity, gate = found.roster(), own_validity(found), found.kit().gate
    state, processes = validity.state(now), read_status(found.folder / "processes")
    place = roster.members.get(found.name)
    standing = "not on the roster" if place is None else place.state
    if output is Format.json:
        emit(
            {
                "name": found.name,
                "consortium": roster.consortium,
                "roster": roster.version,
                "state": standing,
                "gate": f"{gate.host}:{gate.port}",
                "certificate": {"state": state, "ends": validity.ends.isoformat(), "days": validity.days_left(now)},
                "model": held_number(found) or None,
                "processes": document(processes),
            }
        )
    else:
        typer.echo(f"{found.name} of {roster.consortium}, roster {roster.version}: {standing}")
        typer.echo(f"  {state:<14}client.pem, until {validity.ends:%Y-%m-%d}; gate {gate.host}:{gate.port}")
        number = held_number(found)
        typer.echo(f"  {'model':<14}{f'promoted number {number}' if number else 'none taken yet'}")
        typer.echo("\n".join(lines(processes)))
    if state is State.soon:
        console.print("the certificate expires soon: ask the coordinator for a new kit")
    if state is State.expired or standing != "active":
        raise typer.Exit(RefusedError.exit_code)


@node.command("declare")
def declare_command(
    people: Annotated[int, typer.Argument(metavar="NUMBER", help="How many people this partner declares from now on.")],
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Declare another number of people: a new request with the same keys, for `coordinator sign --renew`.

    Until the kit for it is installed, this node takes part in nothing.
    """
    from silhouette_client.enrolment.making import declare_again

    found = _home(home)
    request = declare_again(found, people)
    path = found.folder / "request.json"
    if output is Format.json:
        emit({"name": request.name, "people": request.people, "request": str(path)})
    else:
        typer.echo(f"request: {path}")


@node.command("check")
def check_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Look at all this node needs: keys and who may read them, certificate, roster, policy, people, ledger, clock.

    Changes nothing. Ends with the exit code of the worst thing found: 2 something is missing, 3 expired or revoked,
    4 not valid yet, 5 damaged or another's.
    """
    from silhouette_client.enrolment.checking import examine

    findings = examine(_home(home), datetime.now(UTC))
    worst = max(found.exit_code for found in findings)
    if output is Format.json:
        emit(
            {
                "ready": worst == 0,
                "checks": [{"name": one.name, "outcome": one.outcome, "finding": one.text} for one in findings],
            }
        )
    else:
        for one in findings:
            typer.echo(f"{one.outcome:<9}{one.name:<13}{one.text}")
    if worst:
        raise typer.Exit(worst)


@node.command("take")
def take_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="As `silhouette model export promoted` wrote it."),
    ],
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Take the promoted model from a folder, if the coordinator signed all of it and no later one was taken here.

    A node that runs gets it from the coordinator by itself; this is for one that does not.

    Ends with exit code 3 if an older one is shown, 5 if anything was changed.
    """
    from silhouette_client.promoted import take_promoted

    found = take_promoted(_home(home), folder)
    if output is Format.json:
        emit({"model": found.card.reference, "number": found.alias.number, "sha256": found.card.model})
    else:
        typer.echo(f"{found.card.reference} is the model of this node now (number {found.alias.number})")


def _home(home: Path | None) -> NodeHome:
    from silhouette_client.enrolment.home import NodeHome

    return NodeHome.of(silhouette_home(home))


@node.command("outbox")
def outbox_command(
    run: Annotated[str | None, typer.Option("--run", help="Only what left in this run.", show_default=False)] = None,
    home: HomeOption = None,
    output: FormatOption = Format.text,
) -> None:
    """List everything that ever left this node: when, to whom, what, bytes, SHA-256, and the run's epsilon then.

    Every line is checked against the one before it; exit code 5 names the first that is wrong.
    """
    from silhouette_client.outbox import OUTBOX_NAME, read_outbox
    from silhouette_client.policy.overview import epsilon_at

    found = _home(home)
    sent = [one for one in read_outbox(found.folder / OUTBOX_NAME) if run is None or one.run == run]
    spent = epsilon_at(_chain(found), [(one.run, datetime.fromisoformat(one.time)) for one in sent])
    if output is Format.json:
        emit({"sent": [{**vars(one), "epsilon": paid} for one, paid in zip(sent, spent, strict=True)]})
        return
    for one, paid in zip(sent, spent, strict=True):
        what = " ".join(part for part in (one.kind, one.purpose, f"round {one.round}" if one.round else "") if part)
        cost = "" if paid is None else f"  epsilon {paid:.3f}"
        typer.echo(f"{one.time}  to {one.to}  {one.size:>10} B  {one.sha256[:16]}  {one.run or '-'}  {what}{cost}")
    typer.echo(f"{len(sent)} messages, {sum(one.size for one in sent)} bytes")


def _chain(home: NodeHome) -> Chain | None:
    from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain

    path = home.folder / LEDGER_NAME
    return read_chain(path) if path.exists() else None
