"""`silhouette subject`: what a person may ask for, and the proof that it was done."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from silhouette_client.cli.opening import PassphraseOption, UserArgument, open_vault, who
from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_shared.errors import UsageError

subject = typer.Typer(
    name="subject",
    help="Show, suppress or erase a person at this node, with proof.",
    no_args_is_help=True,
    add_completion=False,
)

YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
SinceOption = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        formats=["%Y-%m-%d"],
        help="Day of the person's first event; runs that ended before are left out. Default: every run counts.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write here instead of standard output.", show_default=False),
]


@subject.command("export")
def export_command(
    user: UserArgument, out: OutOption = None, home: HomeOption = None, passphrase_file: PassphraseOption = None
) -> None:
    """Write everything this node holds about a person, as JSON: profile and records; also of a suppressed one."""
    import json

    from silhouette_client.audit.signing import write_result
    from silhouette_client.ingest.subject import rows_of
    from silhouette_client.profiles.answers import document

    place = silhouette_home(home)
    with open_vault(place, passphrase_file) as vault:
        record, exclusion = vault.export(user, who())
        segments = vault.segments_of(user, who())
        rows = rows_of(place, user)
    found: dict[str, Any] = {
        "user": user,
        "profile": None if record is None else document(record),
        "segments": segments,
        "records": rows,
        "excluded": None if exclusion is None else str(exclusion),
    }
    if out is None:
        emit(found)
    else:
        write_result(out, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        out.chmod(0o600)
        console.print(f"written to {out}")


@subject.command("suppress")
def suppress_command(
    user: UserArgument,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Answer nothing about a person from now on and leave them out of imports and training; nothing is removed."""
    with open_vault(silhouette_home(home), passphrase_file) as vault:
        vault.suppress(user, who())
    _say(output, {"done": "suppressed"}, "suppressed: no answer, no import, no training until `subject unsuppress`")


@subject.command("unsuppress")
def unsuppress_command(
    user: UserArgument,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Lift a suppression, or the block that an erasure left; what was erased stays erased."""
    with open_vault(silhouette_home(home), passphrase_file) as vault:
        lifted = vault.unsuppress(user, who())
    if lifted is None:
        raise UsageError("expected a person on the exclusion list, got one who is not; nothing was changed")
    _say(output, {"done": "lifted", "was": str(lifted)}, f"lifted: the person was {lifted}")


@subject.command("erase")
def erase_command(
    user: UserArgument,
    yes: YesOption = False,
    since: SinceOption = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Remove a person's records, profile, segment memberships and data key for good, keep them out, write a receipt.

    It can be run again: a second time removes what the first could not, and the receipt says both.
    """
    from silhouette_client.ingest.removal import remove_people
    from silhouette_client.ingest.subject import first_day, rows_of
    from silhouette_client.profiles.receipts import write_receipt
    from silhouette_client.profiles.store import Erased

    if not yes:
        typer.confirm("Erase this person for good?", abort=True, err=True)
    place = silhouette_home(home)
    day = None if since is None else since.date()
    with open_vault(place, passphrase_file) as vault:
        person = vault.pseudonym(user)
        if day is None:
            day = first_day(rows_of(place, user))
        erased = vault.erase(user, who())  # from now on nothing brings the person back
        document = write_receipt(place, person, erased, since=day, rows={})
        rows = remove_people(place, {user}) if _has_records(place) else {}
        if any(rows.values()):
            document = write_receipt(place, person, Erased((), None, data_key=False), since=day, rows=rows)
    _receipt(output, document)


@subject.command("receipt")
def receipt_command(
    user: UserArgument,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show the receipt of an erasure again, and check its signature."""
    from silhouette_client.profiles.receipts import read_receipt

    place = silhouette_home(home)
    with open_vault(place, passphrase_file) as vault:
        person = vault.pseudonym(user)
    _receipt(output, read_receipt(place, person))


def _has_records(home: Path) -> bool:
    """Whether anything was ever taken in or pushed; looking makes nothing."""
    from silhouette_client.ingest.folder import FOLDER, manifest_of
    from silhouette_client.ingest.pushed import JOURNAL_NAME

    return manifest_of(home / FOLDER).exists() or (home / FOLDER / JOURNAL_NAME).exists()


def _receipt(output: Format, document: dict[str, Any]) -> None:
    if output is Format.json:
        emit(document)
        return
    removed = document["removed"]
    typer.echo(f"erased   {document['time']}, person {document['person'][:16]}")
    typer.echo(f"removed  {', '.join(removed['fields']) or 'no profile was there'}")
    typer.echo(f"key      {'shredded' if removed['data_key'] else 'none was there'}")
    rows = ", ".join(f"{count} {table}" for table, count in removed["rows"].items())
    typer.echo(f"records  {rows or 'none were here'}; out of {removed['segments']} segments")
    for run in document["took_part_in"]:
        typer.echo(
            f"in       {run['run']}: {run['releases']} releases, epsilon {run['epsilon']:.3f} at {run['delta']:g}"
        )
    typer.echo(f"means    {document['meaning']}")
    typer.echo(f"signed   {document.get('signer', 'not: this node has no signing key')}")


def _say(output: Format, document: dict[str, Any], line: str) -> None:
    if output is Format.json:
        emit(document)
    else:
        typer.echo(line)
