"""`silhouette node`: what a partner does at its own installation."""

from __future__ import annotations

import typer

from silhouette_client.cli import ingest

node = typer.Typer(
    name="node",
    help="Run a partner's installation: take in its own data and see what is there.",
    no_args_is_help=True,
    add_completion=False,
)
ingest.register(node)
