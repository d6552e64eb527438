"""`silhouette segment`: groups of this node's people, by rule, preset, clustering or likeness."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silhouette_client.cli.lines import lines_of
from silhouette_client.cli.opening import PassphraseOption, open_vault, who
from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home
from silhouette_shared.errors import UsageError

if TYPE_CHECKING:
    from silhouette_client.profiles.vault import Vault
    from silhouette_client.segments.people import PeopleTable
    from silhouette_client.segments.segment import Segment

segment = typer.Typer(
    name="segment",
    help="Group this node's people by a rule, a preset, clustering or likeness.",
    no_args_is_help=True,
    add_completion=False,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and -.")]
LeastOption = Annotated[
    int, typer.Option("--least", help="k: a group of fewer people is refused; 5 or more.", show_default=True)
]
AsOfOption = Annotated[
    datetime | None,
    typer.Option(
        "--as-of",
        formats=["%Y-%m-%d"],
        help="Count days from this day on, not from today: for old data.",
        show_default=False,
    ),
]


@segment.command("create")
def create_command(
    name: NameArgument,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="Such as 'events >= 10 and \"Drama\" in tags'.", show_default=False),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="high-value, at-risk or unusual-behaviour.", show_default=False)
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option("--clusters", help="So many groups of like people: NAME-1, NAME-2, …", show_default=False),
    ] = None,
    least: LeastOption = 20,
    as_of: AsOfOption = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Make a segment and keep it; one of the same name is replaced.

    A rule compares `events`, `count.<behaviour>`, `recency_days`, `days_active`, `spent`, `trait.<name>`,
    `weight.<dimension>`, `guess.<attribute>`, `sure.<attribute>`, `rfm.recency`, `rfm.frequency`, `rfm.monetary`
    (fifths, 5 the best), `tags` and `items` with numbers and texts. Groups below k are refused with exit code 3.
    """
    from silhouette_client.segments.making import by_preset, by_rule, segment_of

    if sum(one is not None for one in (rule, preset, clusters)) != 1:
        raise UsageError("expected one of --rule, --preset and --clusters, got none or several; give one")
    with open_vault(silhouette_home(home), passphrase_file) as vault:
        table, now = _table(vault, as_of)
        if clusters is not None:
            made = _clusters(table, name, clusters, least, now)
        else:
            words, rows = by_preset(table, preset) if preset else (str(rule), by_rule(table, str(rule)))
            made = [
                segment_of(
                    table,
                    rows,
                    name=name,
                    made_by="preset" if preset else "rule",
                    rule=f"{preset}: {words}" if preset else words,
                    least=least,
                    now=now,
                )
            ]
        for one in made:
            vault.put_segment(one, who())
    _list(made, output, len(table))


def _clusters(table: PeopleTable, name: str, count: int, least: int, now: int) -> list[Segment]:
    from silhouette_client.segments.making import by_clusters, segment_of
    from silhouette_client.segments.segment import SmallSegmentError

    found = []
    for number, cluster in enumerate(by_clusters(table, count), start=1):
        words = f"cluster {number} of {count}; more than others: {', '.join(cluster.more) or 'nothing'}"
        try:
            found.append(
                segment_of(
                    table,
                    cluster.rows,
                    name=f"{name}-{number}",
                    made_by="cluster",
                    rule=words,
                    least=least,
                    now=now,
                )
            )
        except SmallSegmentError:
            console.print(f"cluster {number} is below {least} people and is not kept", highlight=False)
    if not found:
        raise SmallSegmentError(
            f"expected a cluster of at least {least} people, got none; ask for fewer clusters than {count}"
        )
    return found


@segment.command("list")
def list_command(
    home: HomeOption = None, passphrase_file: PassphraseOption = None, output: FormatOption = Format.text
) -> None:
    """Show every segment with its size and what made it."""
    with open_vault(silhouette_home(home), passphrase_file) as vault:
        found = vault.segments(who())
    _list(found, output)


@segment.command("show")
def show_command(
    name: NameArgument,
    users: Annotated[bool, typer.Option("--users", help="Also who is in it, one a line.")] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show one segment: what made it, how many are in it, and with --users who."""
    with open_vault(silhouette_home(home), passphrase_file) as vault:
        found = _find(vault, name)
        members = vault.users_of(found.members, who(), "segment") if users else None
    if output is Format.json:
        emit({**_document(found), **({} if members is None else {"users": members})})
        return
    for key, value in _document(found).items():
        typer.echo(f"{key:<9}{value}")
    for user in members or ():
        typer.echo(user)


@segment.command("delete")
def delete_command(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Remove a segment; its people stay."""
    if not yes:
        typer.confirm(f"Delete the segment {name}?", abort=True, err=True)
    with open_vault(silhouette_home(home), passphrase_file) as vault:
        if not vault.drop_segment(name, who()):
            raise _absent(name)
    if output is Format.json:
        emit({"deleted": name})
    else:
        typer.echo(f"deleted  {name}")


@segment.command("lookalike")
def lookalike_command(
    seeds: Annotated[
        Path, typer.Argument(metavar="SEEDS", help="File with the partner's identifiers, one a line, 10 or more.")
    ],
    share: Annotated[float, typer.Option("--share", min=0.001, max=1.0, help="Of the people to take.")] = 0.1,
    scoring: Annotated[str, typer.Option("--scoring", help="blend, profile, tastes or items.")] = "blend",
    save: Annotated[
        str | None, typer.Option("--save", metavar="NAME", help="Keep them as a segment.", show_default=False)
    ] = None,
    users: Annotated[bool, typer.Option("--users", help="Also who they are, one a line.")] = False,
    least: LeastOption = 20,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Find the people who are most like some others, and say how well: the lift of seeds that were held out.

    A lift of 3 at 10 % says that of seeds the score had not seen, three times as many are among the first tenth as
    by chance. Only profiles are compared, nothing that people declared: vector, shares of categories and behaviour
    (profile), how the shares stand to one another (tastes), which items were touched (items), or all (blend).
    """
    from silhouette_client.segments.finding import find_lookalikes
    from silhouette_client.segments.making import segment_of

    with open_vault(silhouette_home(home), passphrase_file) as vault:
        table, now = _table(vault, None)
        given = [vault.pseudonym(user) for user in lines_of(seeds, "a file of identifiers")]
        found = find_lookalikes(table, given, scoring, share)
        if save is not None:
            vault.put_segment(
                segment_of(
                    table,
                    found.rows,
                    name=save,
                    made_by="lookalike",
                    rule=f"like {found.seeds} people, {scoring}, the first {share:.1%}",
                    least=least,
                    now=now,
                ),
                who(),
            )
        members = vault.users_of([table.people[row] for row in found.rows], who(), "lookalike") if users else None
    document = {
        "seeds": found.seeds,
        "without_profile": len(given) - found.seeds,
        "people": len(found.rows),
        "of": len(table),
        "lift": found.lift.value,
        "share": share,
        "scoring": scoring,
        "segment": save,
    }
    if output is Format.json:
        emit({**document, **({} if members is None else {"users": members})})
        return
    typer.echo(f"like     {found.seeds} people; {document['without_profile']} of the seeds have no profile here")
    typer.echo(f"found    {len(found.rows)} of {len(table)} people" + (f", kept as {save}" if save else ""))
    typer.echo(f"lift     {found.lift.value:.2f} at {share:.1%}: {found.lift.found} of {found.lift.of} held-out seeds")
    for user in members or ():
        typer.echo(user)


@segment.command("map")
def map_command(
    page: Annotated[Path, typer.Option("--html", metavar="FILE", help="Where to write the page.")],
    least: LeastOption = 20,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Write a map of the people as a page that opens without a network; every point is at least k of them."""
    from silhouette_client.audit.signing import write_result
    from silhouette_client.segments.map import projections
    from silhouette_client.segments.page import page as drawn

    with open_vault(silhouette_home(home), passphrase_file) as vault:
        table, _ = _table(vault, None)
        segments = vault.segments(who())
    with console.status("laying the people out"):
        maps = projections(table, segments, least)
    write_result(page, drawn(maps, segments, table.model, least))
    page.chmod(0o600)
    console.print(f"written to {page}")


def _table(vault: Vault, as_of: datetime | None) -> tuple[PeopleTable, int]:
    from silhouette_client.segments.people import FIELDS, table_of

    now = int(time.time() if as_of is None else as_of.replace(tzinfo=UTC).timestamp())
    table = table_of(vault.everybody(who(), "segment", FIELDS), now)
    if table.others:
        console.print(f"{table.others} profiles of other models are left out: build the profiles again")
    return table, now


def _find(vault: Vault, name: str) -> Segment:
    for one in vault.segments(who()):
        if one.name == name:
            return one
    raise _absent(name)


def _absent(name: str) -> UsageError:
    return UsageError(f"expected a segment of this node, got {name[:64]!r}; `silhouette segment list` shows them")


def _document(one: Segment) -> dict[str, Any]:
    return {
        "name": one.name,
        "people": one.size,
        "made_by": one.made_by,
        "rule": one.rule,
        "model": one.model,
        "created": datetime.fromtimestamp(one.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "least": one.least,
    }


def _list(found: list[Segment], output: Format, among: int | None = None) -> None:
    if output is Format.json:
        emit({"segments": [_document(one) for one in found], **({} if among is None else {"among": among})})
        return
    for one in found:
        part = "" if among is None else f" of {among}"
        typer.echo(f"{one.name:<20}{one.size:>8}{part} people  {one.made_by}: {one.rule}")
    if not found:
        typer.echo("no segments; `silhouette segment create` makes them")
