"""`silhouette profile` and `silhouette recommend`: the profiles of this node's people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silhouette_client.cli.live import response_command
from silhouette_client.cli.opening import PassphraseOption, UserArgument, open_vault, passphrase, who
from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_shared.errors import UsageError

if TYPE_CHECKING:
    from silhouette_client.profiles.choices import Choices
    from silhouette_client.profiles.record import ProfileRecord
    from silhouette_client.profiles.vault import Vault
    from silhouette_client.serving.access import Access
    from silhouette_client.serving.grpc_server import Tls

profile = typer.Typer(
    name="profile",
    help="Build, show and serve the encrypted profiles of this node's people.",
    no_args_is_help=True,
    add_completion=False,
)

_DAY = 86_400

profile.command("response")(response_command)

ProtectorOption = Annotated[
    str | None,
    typer.Option(
        "--protector",
        metavar="NAME",
        help="Protect the keys by keyring (the operating system's), or by a key management service that is installed.",
        show_default=False,
    ),
]


@profile.command("build")
def build_command(
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Take the profiles of a finished run of `silhouette sim run` instead of building them here.",
            show_default=False,
        ),
    ] = None,
    partner: Annotated[
        str | None, typer.Option("--partner", help="Which partner's people; needed if the run has several.")
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="Build everybody anew, not only who or whose model changed.")
    ] = False,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Recommendations a person.")] = 50,
    purpose: Annotated[
        str, typer.Option("--purpose", help="What people have to have consented to, as in the consent table.")
    ] = "profiling",
    protect: Annotated[
        bool, typer.Option("--protect", help="Protect new keys with a passphrase (Argon2id), not by their mode alone.")
    ] = False,
    protector: ProtectorOption = None,
    keep_days: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="FIELD=DAYS", help="Remove a field after so many days, e.g. vector=30."),
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Build the profiles of this node's people with its promoted model; only who or whose model changed.

    The first time it makes store and keys. Left out are people without consent to the purpose and those on the
    exclusion list. Killed, run it again: it goes on. Profiles of older models go at the end. Beside a service, whoever
    it wrote meanwhile stays as it wrote them; another build is waited for. A node that runs builds
    by itself after each promoted model, with purpose, count and times to keep as they were chosen last.
    """
    from silhouette_client.profiles.choices import Choices
    from silhouette_client.profiles.one_build import one_build
    from silhouette_client.profiles.store import Retention
    from silhouette_client.profiles.vault import Vault, new_protector

    place, kept = silhouette_home(home), Retention(seconds=_days(keep_days or []))
    if run is None and partner is not None:
        raise UsageError("expected --partner with --run alone, got no run; leave it out, or name the run")
    choices = Choices(purpose=purpose, count=count, keep=kept.seconds)
    source = _of_node(place, choices, everybody) if run is None else _of_run(run, partner)
    with (
        one_build(place, lambda: console.print("another build runs; this one goes on when it has ended")),
        Vault.open(
            place,
            passphrase=lambda: passphrase(passphrase_file),
            make=None
            if (place / "profiles.key").exists()
            else new_protector(
                passphrase(passphrase_file, confirm=passphrase_file is None) if protect else None, protector
            ),
            retention=kept,
        ) as vault,
    ):
        document = source(vault)
    if output is Format.json:
        emit(document)
    else:
        typer.echo(f"model    {document['model']}")
        typer.echo(
            f"written  {document['written']} profiles, {document['unchanged']} unchanged, {document['left_out']} left "
            f"out, {document['removed']} removed, {document['expired']} expired with older models"
        )


def _of_run(run: Path, partner: str | None) -> Callable[[Vault], dict[str, Any]]:
    from silhouette_client.profiles.from_run import model_of_run, records_of_run

    model, records = model_of_run(run), list(records_of_run(run, partner))

    def build(vault: Vault) -> dict[str, Any]:
        written, left_out = vault.put_many(records, who(), "build")
        vault.retire(model)
        expired = vault.purge(who())
        return {
            "model": model,
            "written": written,
            "unchanged": 0,
            "left_out": left_out,
            "removed": 0,
            "expired": expired,
        }

    return build


def _of_node(home: Path, choices: Choices, everybody: bool) -> Callable[[Vault], dict[str, Any]]:
    import torch

    from silhouette_client.profiles.building import build_node
    from silhouette_client.profiles.choices import write_choices
    from silhouette_client.profiles.node_model import HeldModel

    models = HeldModel(home, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    models.newest()  # before keys are made

    def build(vault: Vault) -> dict[str, Any]:
        write_choices(home, choices)  # first: a build that is killed is ended in the same way, by whomever
        model, done = build_node(
            home,
            vault,
            models,
            choices,
            who(),
            everybody=everybody,
            progress=lambda part, whole: console.print(f"{part} of {whole} profiles", highlight=False),
        )
        return {"model": model.name, "left_out": len(vault.excluded()), **vars(done)}

    return build


@profile.command("show")
def show_command(
    user: UserArgument,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that opens without a network.", show_default=False),
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show a person's profile: dimension weights, traits, tags and recommendations."""
    from silhouette_client.profiles import answers

    record = _record(silhouette_home(home), user, "show", passphrase_file)
    if page is not None:
        from silhouette_client.audit.signing import write_result
        from silhouette_client.profiles.page import page as drawn

        write_result(page, drawn(user, record))
        page.chmod(0o600)
        console.print(f"written to {page}")
    elif output is Format.json:
        emit({"user": user, **answers.document(record)})
    else:
        typer.echo("\n".join(answers.lines(record)))


@profile.command("explain")
def explain_command(
    user: UserArgument,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Say what a person's profile rests on.

    The weight of every dimension, heaviest first; why each tag is there; and the attention that the latest events take.
    """
    from silhouette_client.profiles.answers import because, document, reasons, when

    record = _record(silhouette_home(home), user, "explain", passphrase_file)
    parts = reasons(record)
    if output is Format.json:
        shown = document(record)
        emit(
            {
                "user": user,
                "model": record.model,
                "parts": parts,
                "tags": list(record.tags or ()),
                "evidence": shown.get("evidence"),
            }
        )
        return
    for part in parts:
        typer.echo(f"{part['share']:6.1%}  {part['dimension']:<13}{part['meaning']}")
    typer.echo(f"tags    {', '.join(record.tags or ()) or 'none'}")
    if record.evidence is not None:
        for tag in record.evidence.tags:
            typer.echo(f"        {because(tag)}")
        for event in record.evidence.events:
            typer.echo(f"{event.attention:6.1%}  {when(event):<11}{event.behaviour:<10}{event.title}")


@profile.command("verify")
def verify_command(
    witness: Annotated[
        Path | None,
        typer.Option(
            "--witness",
            metavar="FOLDER",
            help="Compare the log with what this folder has seen, and show it the newest entry.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Open every row of the store and check every entry of the audit log; exit code 5 names the first that is wrong."""
    from silhouette_client.policy.witness import FileWitness
    from silhouette_client.profiles.audit_log import LOG_NAME
    from silhouette_shared.privacy.ledger import Head

    place = silhouette_home(home)
    watcher = None if witness is None else FileWitness(witness)
    with open_vault(place, passphrase_file) as vault:
        counts, head = vault.verify(place / LOG_NAME, None if watcher is None else watcher.head("profiles"))
    if watcher is not None and head is not None:
        watcher.publish("profiles", Head(*head))
    entries = 0 if head is None else head.sequence
    if output is Format.json:
        emit({"people": counts.people, "fields": counts.fields, "excluded": counts.exclusions, "entries": entries})
    else:
        typer.echo(
            f"whole    {counts.people} profiles with {counts.fields} fields, {counts.exclusions} people excluded"
        )
        typer.echo(
            f"log      {entries} entries" + ("" if watcher else "; a log cut at its end passes without --witness")
        )


@profile.command("log")
def log_command(
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Only what touched this person.", show_default=False)
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show who read or wrote whom and when, each entry checked."""
    from silhouette_client.profiles.audit_log import LOG_NAME, read_log
    from silhouette_client.profiles.keys import KEYS_NAME, read_keyring

    place = silhouette_home(home)
    keyring, _ = read_keyring(place / KEYS_NAME, lambda: passphrase(passphrase_file))
    person = None if user is None else keyring.pseudonym(user)
    found = [e for e in read_log(place / LOG_NAME, keyring.audit) if person is None or e.access.person == person]
    if output is Format.json:
        emit(
            {
                "entries": [
                    {
                        "number": entry.number,
                        "time": entry.moment.isoformat(timespec="milliseconds"),
                        "who": entry.access.who,
                        "method": entry.access.method,
                        "outcome": entry.access.outcome,
                        "person": entry.access.person.hex() or None,
                    }
                    for entry in found
                ]
            }
        )
        return
    for entry in found:
        access = entry.access
        typer.echo(
            f"{entry.number:>8}  {entry.moment:%Y-%m-%d %H:%M:%S}  {access.who:<20} {access.method:<18} "
            f"{access.outcome:<8} {access.person.hex()[:16]}"
        )


@profile.command("rotate")
def rotate_command(
    protect: Annotated[
        bool, typer.Option("--protect", help="Protect the keys with a new passphrase from now on; it is asked for.")
    ] = False,
    protector: ProtectorOption = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Wrap every person's data key by a new key-encryption key and forget the old one.

    Stop the service first. Killed at any point, run it again: it goes on.
    """
    from silhouette_client.profiles.vault import new_protector, rotate

    chosen = None
    if protect or protector is not None:
        chosen = new_protector(passphrase(None, confirm=True) if protect else None, protector)
    done = rotate(silhouette_home(home), who(), lambda: passphrase(passphrase_file), chosen)
    if output is Format.json:
        emit({"rewrapped": done})
    else:
        typer.echo(f"rotated  {done} data keys; back up the new key file, and destroy the old one's backups")


@profile.command("serve")
def serve_command(
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="HOST:PORT", help="Also answer over TCP with client certificates.", show_default=False
        ),
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls",
            metavar="FOLDER",
            help="With server.pem, server.key and clients.pem, the authority of client certificates.",
            show_default=False,
        ),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option("--socket", help="Unix socket. Default: profiles.sock in the home.", show_default=False),
    ] = None,
    reflection: Annotated[bool, typer.Option("--reflection", help="Let callers list the methods.")] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Answer profiles, recommendations and explanations over gRPC until stopped, and take events.

    A Unix socket for this user alone answers what `[clients.local]` of serving.toml grants; without that file traits,
    tags and recommendations. Over TCP a certificate's common name is looked up there. Where the node holds a promoted
    model, pushed events change histories and profiles at once, and it is noted what was recommended.
    """
    import torch

    from silhouette_client.hardening import protect_process
    from silhouette_client.live.keeper import Keeper
    from silhouette_client.profiles.audit_log import LOG_NAME
    from silhouette_client.profiles.node_model import HeldModel
    from silhouette_client.serving.grpc_server import SOCKET_NAME, serving
    from silhouette_shared.supervision import end_on_signals

    place = silhouette_home(home)
    access, credentials = _access(place), _tls(tls)
    protect_process()
    path = socket or place / SOCKET_NAME
    models = HeldModel(place, torch.device("cpu"))
    with open_vault(place, passphrase_file) as vault, Keeper(place, vault, models) as keeper:
        stop = end_on_signals()
        with serving(
            keeper.service,
            vault,
            log=place / LOG_NAME,
            access=access,
            socket=path,
            address=address,
            tls=credentials,
            reflection=reflection,
        ) as port:
            where = f"{path}" + (f" and port {port}" if port else "")
            live = "" if keeper.takes_events else "; no promoted model here yet, so no events are taken"
            console.print(f"answering on {where}{live}", highlight=False, soft_wrap=True)
            stop.wait()
    console.print("stopped")


recommend = typer.Typer(name="recommend", add_completion=False, rich_markup_mode=None)


@recommend.command("recommend")
def recommend_command(
    user: UserArgument,
    count: Annotated[int, typer.Option("--count", min=1, help="How many at most.")] = 10,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show the best items that a person has not seen, best first."""
    from silhouette_client.profiles.answers import called

    record = _record(silhouette_home(home), user, "recommend", passphrase_file)
    items = (record.recommendations or ())[:count]
    if output is Format.json:
        emit({"user": user, "model": record.model, "items": [vars(one) for one in items]})
        return
    for place, one in enumerate(items, 1):
        typer.echo(f"{place:>3} {one.score:8.3f}  {called(one)}")


def _record(home: Path, user: str, method: str, file: Path | None) -> ProfileRecord:
    from silhouette_client.serving.service import NoProfileError

    with open_vault(home, file) as vault:
        record = vault.get(user, who(), method)
    if record is None:
        raise NoProfileError
    return record


def _days(given: list[str]) -> dict[str, int]:
    found = {}
    for text in given:
        name, _, days = text.partition("=")
        if not days.isdigit():
            raise UsageError(f"expected --keep FIELD=DAYS with whole days, got {text!r}; change it")
        found[name] = int(days) * _DAY
    return found


def _access(home: Path) -> Access:
    from silhouette_client.serving.access import ACCESS_NAME, LOCAL, Access, Grant, read_access
    from silhouette_client.serving.service import Role

    path = home / ACCESS_NAME
    if path.exists():
        return read_access(path)
    return Access({LOCAL: Grant(roles=frozenset({Role.tags}))})


def _tls(folder: Path | None) -> Tls | None:
    from silhouette_client.serving.grpc_server import Tls

    if folder is None:
        return None
    try:
        parts = [(folder / name).read_bytes() for name in ("server.pem", "server.key", "clients.pem")]
    except OSError as error:
        raise UsageError(
            f"{folder}: expected server.pem, server.key and clients.pem, got {error.strerror} for {error.filename}"
        ) from None
    return Tls(*parts)
