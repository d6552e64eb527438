"""Every command explains itself, and README.md names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from silhouette_shared.cli import app

ROOT = Path(__file__).parents[2]


def _walk(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _walk(child, click.Context(child, info_name=name, parent=context))


def _contexts() -> list[click.Context]:
    root = typer.main.get_command(app)
    return list(_walk(root, click.Context(root, info_name="silhouette")))


CONTEXTS = {context.command_path: context for context in _contexts()}
VERBS = [path for path, context in CONTEXTS.items() if not isinstance(context.command, click.Group)]


@pytest.mark.parametrize("path", CONTEXTS)
def test_a_command_has_help_that_starts_with_a_sentence(path: str) -> None:
    text = (CONTEXTS[path].command.help or "").strip()
    first = text.split("\n\n")[0].replace("\n", " ")
    assert first[:1].isupper(), f"`{path}` has no help"
    assert first.endswith("."), f"the help of `{path}` starts with {first!r}, not a sentence"
    assert not first.startswith("Not available"), f"`{path}` could not be loaded"


@pytest.mark.parametrize("path", CONTEXTS)
def test_every_option_and_argument_of_a_command_is_explained(path: str) -> None:
    context = CONTEXTS[path]
    bare = [
        parameter.name
        for parameter in context.command.get_params(context)
        if not (getattr(parameter, "help", None) or "").strip()
    ]
    assert bare == []


@pytest.mark.parametrize("path", VERBS)
def test_a_verb_is_named_in_the_readme(path: str) -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert path in text, f"README.md does not name `{path}`"
