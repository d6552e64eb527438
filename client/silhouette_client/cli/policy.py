"""`silhouette policy`: what this node agrees to, and how it holds against hostile offers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from silhouette_shared.cli import Format, FormatOption, HomeOption, console, emit, silhouette_home

if TYPE_CHECKING:
    from silhouette_client.enrolment.home import NodeHome

policy = typer.Typer(
    name="policy",
    help="Show what this node agrees to, and test it.",
    no_args_is_help=True,
    add_completion=False,
)


@policy.command("show")
def show_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Print the policy in force, every default written out.

    What it prints is a policy file: change it and save it as policy.toml in the node's folder. A running node takes
    it over when it is started again.
    """
    from dataclasses import asdict

    from silhouette_client.policy.terms import read_policy, write_policy

    path = _home(home).policy_path
    found = read_policy(path)
    if not path.exists():
        console.print(f"no {path}: these are the defaults", soft_wrap=True)
    if output is Format.json:
        emit({"file": str(path) if path.exists() else None, "policy": {**asdict(found)}})
    else:
        typer.echo(write_policy(found), nl=False)


@policy.command("test")
def play_command(home: HomeOption = None, output: FormatOption = Format.text) -> None:
    """Play a fair offer and hostile ones, each a step beyond one limit, and show how each is answered.

    Ends with exit code 5 if a hostile one was accepted or the fair one refused.
    """
    from silhouette_client.policy.hostile import play
    from silhouette_client.policy.participation import Standing
    from silhouette_client.policy.terms import read_policy
    from silhouette_shared.errors import IntegrityError

    node = _home(home)
    standing = Standing(name="this-node", consortium="consortium", declared_people=100)
    if node.installed:
        standing = Standing(name=node.name, consortium=node.roster().consortium, declared_people=node.declared_people)
    played = play(read_policy(node.policy_path), standing)
    if output is Format.json:
        emit(
            {
                "offers": [
                    {
                        "offer": one.offer,
                        "expected": one.expected,
                        "code": one.code,
                        "reason": one.reason,
                        "passed": one.passed,
                    }
                    for one in played
                ]
            }
        )
    else:
        for one in played:
            verdict = f"refused: {one.code}" if one.code else "accepted"
            typer.echo(f"{'ok' if one.passed else 'WRONG':<7}{one.offer:<44}{verdict}")
            if one.code:
                typer.echo(f"{'':<7}  {one.reason}")
    wrong = [one.offer for one in played if not one.passed]
    if wrong:
        raise IntegrityError(
            "expected this policy to refuse what is beyond it and nothing else, got another answer to: "
            f"{', '.join(wrong)}; "
            "report this as a fault"
        )


def _home(home: Path | None) -> NodeHome:
    from silhouette_client.enrolment.home import NodeHome

    return NodeHome.of(silhouette_home(home))
