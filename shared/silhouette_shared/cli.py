"""The root of the `silhouette` command.

Every installed distribution adds its nouns through the entry-point group
`silhouette.commands` (name -> a `typer.Typer`). A noun is loaded when it is named
or when help lists it; one that cannot be loaded is reported and spoils no other.
Data goes to standard output, everything else to standard error. Nothing heavy is
imported here: a command imports torch, pandas and Flower inside its function.
"""

from __future__ import annotations

import errno
import importlib.metadata
import inspect
import json
import os
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from silhouette_shared.errors import SilhouetteError, UnavailableError

COMMAND_GROUP = "silhouette.commands"

console = Console(stderr=True)
"""Progress, warnings and everything else that is not the data asked for."""


class Format(StrEnum):
    """How a command writes its result on standard output."""

    text = "text"
    json = "json"


FormatOption = Annotated[
    Format,
    typer.Option("--format", help="How to print the result: text to read, json for programs."),
]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Folder of data, keys and settings. Default: SILHOUETTE_HOME, else ~/.silhouette.",
        show_default=False,
    ),
]


def silhouette_home(given: Path | None = None) -> Path:
    """Say which folder holds data, keys and settings; it need not exist yet.

    Args:
        given: The value of `--home`, which goes before the variable `SILHOUETTE_HOME`;
            without both it is `~/.silhouette`.
    """
    if given is not None:
        return given.expanduser()
    configured = os.environ.get("SILHOUETTE_HOME", "")
    return Path(configured).expanduser() if configured else Path.home() / ".silhouette"


def emit(document: Mapping[str, object]) -> None:
    """Print one JSON document on standard output.

    Raises:
        ValueError: If it holds a NaN or an infinity, which JSON does not know; use None.
        TypeError: If it holds something that is not plain JSON.
    """
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


class _Verbs(TyperGroup):
    """The root group: its own verbs, then one noun for each entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *sorted(_entry_points().keys() - set(own))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = self.commands.get(cmd_name)
        if command is None and (entry_point := _entry_points().get(cmd_name)) is not None:
            command = self.commands[cmd_name] = _load(entry_point)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{error.message} There are: {known}.", ctx) from None


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=COMMAND_GROUP)}


def _load(entry_point: importlib.metadata.EntryPoint) -> click.Command:
    """Turn an entry point into a command, or into one that says why there is none."""
    try:
        noun = entry_point.load()
        if not isinstance(noun, typer.Typer):
            raise TypeError(f"expected a typer.Typer, got {type(noun).__name__}")
        command = typer.main.get_command(noun)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the others still work
        distribution = entry_point.dist.name if entry_point.dist else "an unknown distribution"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        message = (
            f"cannot load `{entry_point.name}` ({entry_point.value}) of {distribution}: "
            f"{reason}; reinstall {distribution}"
        )
        sys.stderr.write(f"warning: {message}\n")
        return _unavailable(entry_point.name, message)
    command.name = entry_point.name
    _fill_paragraphs(command)
    return command


def _fill_paragraphs(command: click.Command) -> None:
    """Join the lines of each paragraph of help: the terminal is as wide as it is, not as wide as our source."""
    if command.help:
        command.help = "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(command.help).split("\n\n"))
    if isinstance(command, click.Group):
        for verb in command.commands.values():
            _fill_paragraphs(verb)


def _unavailable(name: str, message: str) -> click.Command:
    def fail() -> None:
        raise UnavailableError(message)

    return click.Command(
        name,
        callback=fail,
        help="Not available: it could not be loaded, see the warning.",
        # Whatever was asked of it, the reason comes first, and `--help` is no exception.
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )


app = typer.Typer(
    name="silhouette",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    suggest_commands=False,  # click suggests already, and the names follow
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of whatever goes wrong.")] = False,
) -> None:
    """Train one profile encoder across organisations that show nobody a single user.

    Results go to standard output, everything else to standard error.

    Exit codes: 0 done, 1 unexpected, 2 usage, 3 refused by policy or budget,
    4 unavailable or timed out, 5 integrity check failed.
    """
    del debug  # `main` looks for it itself: the parser may be what fails


@app.command()
def version(output: FormatOption = Format.text) -> None:
    """Print the versions of Silhouette and of the libraries it rests on."""
    distributions = _versions("silhouette-shared", "silhouette-client", "silhouette-server", "silhouette-simulations")
    libraries = _versions("torch", "flwr", "opacus", "cryptography")
    python = platform.python_version()
    if output is Format.json:
        emit({"distributions": distributions, "libraries": libraries, "python": python})
        return
    for name, number in {**distributions, "python": python, **libraries}.items():
        typer.echo(f"{name:<24}{number or 'not installed'}")


@app.command()
def doctor(output: FormatOption = Format.text, home: HomeOption = None) -> None:
    """Check this machine and say what is missing and how to get it.

    Ends with exit code 4 if something that is needed is missing.
    """
    from silhouette_shared.doctor import State, examine

    checks = examine(silhouette_home(home))
    healthy = all(check.state is not State.missing for check in checks)
    if output is Format.json:
        emit(
            {
                "healthy": healthy,
                "checks": [
                    {
                        "name": check.name,
                        "state": check.state,
                        "finding": check.finding,
                        "remedy": check.remedy or None,
                    }
                    for check in checks
                ],
            }
        )
    else:
        for check in checks:
            typer.echo(f"{check.state:<10}{check.name:<14}{check.finding}")
            if check.remedy:
                typer.echo(f"{'':<24}-> {check.remedy}")
    if not healthy:
        raise typer.Exit(UnavailableError.exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a failure is one line on standard error.

    Args:
        arguments: What follows `silhouette`; None takes it from the process.
    """
    command = typer.main.get_command(app)
    _fill_paragraphs(command)
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in list(arguments)[:1]
    try:
        result = command.main(list(arguments), prog_name="silhouette", standalone_mode=False)
        sys.stdout.flush()  # a full disk or a closed pipe shows itself here at the latest
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain again while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except click.exceptions.Abort:
        sys.stderr.write("error: ended before an answer was given\n")
        return 1
    except click.ClickException as error:
        _show_usage(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the edge: everything becomes a line and a code
        if debug:
            traceback.print_exc()
        code, message = _explain(error)
        sys.stderr.write(f"error: {message}\n")
        unexpected = code == SilhouetteError.exit_code and not isinstance(error, SilhouetteError)
        if unexpected and not debug:
            sys.stderr.write("       for the traceback: silhouette --debug ...\n")
        return code
    if result == 130:  # how typer reports an interrupt inside a command
        sys.stderr.write("interrupted\n")
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> tuple[int, str]:
    """Choose exit code and line for an error that reached the edge."""
    if isinstance(error, SilhouetteError):
        return error.exit_code, str(error)
    if is_full_disk(error):
        named = getattr(error, "filename", None)
        place = f"writing {named}" if named else "the disk in use"
        return (
            UnavailableError.exit_code,
            f"no space left on the device ({place}); free some and run the same command again",
        )
    reason = " ".join(str(error).split()) or "no further message"
    return SilhouetteError.exit_code, f"unexpected {type(error).__name__}: {reason}"


def is_full_disk(error: BaseException | None) -> bool:
    """Say whether an error, or one behind it, is a disk without room or a quota that is used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # safetensors and other parts written in Rust say it in words only.
        if f"(os error {errno.ENOSPC})" in str(error):
            return True
        error = error.__cause__
    return False


def _show_usage(error: click.ClickException) -> None:
    """Print a mistake on the command line, in the look of the help pages."""
    from typer.rich_utils import rich_format_error

    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    else:
        rich_format_error(error)


def _versions(*names: str) -> dict[str, str | None]:
    """Look up what is installed; None for what is not."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
