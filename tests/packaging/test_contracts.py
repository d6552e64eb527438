"""The import contracts hold, and each of them would notice a wrong import."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("shared", "client", "server", "simulations")

CALCULATING = (
    "silhouette_shared.model",
    "silhouette_shared.privacy",
    "silhouette_shared.secagg",
    "silhouette_shared.enrolment",
    "silhouette_shared.cards",
    "silhouette_client.ingest.columns",
    "silhouette_client.ingest.consent",
    "silhouette_client.policy.budget",
    "silhouette_client.policy.hostile",
    "silhouette_client.policy.overview",
    "silhouette_client.policy.participation",
    "silhouette_client.policy.receipt",
    "silhouette_client.training",
    "silhouette_client.profiles.continuation",
    "silhouette_client.profiles.explain",
    "silhouette_client.profiles.heads",
    "silhouette_client.profiles.local_parts",
    "silhouette_client.profiles.risk",
    "silhouette_client.profiles.social",
    "silhouette_client.profiles.tags",
    "silhouette_client.profiles.tastes",
    "silhouette_client.profiles.traits",
    "silhouette_client.profiles.transitions",
    "silhouette_client.profiles.update",
    "silhouette_client.audit.measures",
    "silhouette_client.audit.people",
    "silhouette_server.enrolment.issuing",
    "silhouette_server.gate_rules",
    "silhouette_server.registry.entries",
    "silhouette_server.registry.promotion",
    "silhouette_server.registry.spending",
    "silhouette_server.registry.state",
    "silhouette_client.profiles.answers",
    "silhouette_client.profiles.details",
    "silhouette_client.profiles.record",
    "silhouette_client.profiles.sealing",
    "silhouette_client.segments.finding",
    "silhouette_client.segments.index",
    "silhouette_client.segments.lookalike",
    "silhouette_client.segments.making",
    "silhouette_client.segments.map",
    "silhouette_client.segments.people",
    "silhouette_client.segments.rules",
    "silhouette_client.segments.segment",
    "silhouette_server.statistics",
    "silhouette_server.strategy.aggregation",
    "silhouette_server.strategy.optimisers",
    "silhouette_server.strategy.validation",
    "silhouette_simulations.baselines",
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts over the packages that lie in `folder`, not the installed ones."""
    paths = os.pathsep.join(str(folder / part) for part in PARTS)
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
            "--config",
            str(folder / "pyproject.toml"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the house in which a wrong import can be planted."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for part in PARTS:
        package = f"silhouette_{part}"
        shutil.copytree(
            ROOT / part / package,
            tmp_path / part / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path


def test_every_import_contract_is_kept() -> None:
    finished = lint(ROOT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " 0 broken" in finished.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("shared/silhouette_shared/errors.py", "import silhouette_client", "nobody the other way"),
        (
            "client/silhouette_client/__init__.py",
            "import silhouette_server",
            "nobody the other way",
        ),
        (
            "server/silhouette_server/__init__.py",
            "import silhouette_client",
            "nobody the other way",
        ),
        (
            "server/silhouette_server/__init__.py",
            "import silhouette_simulations",
            "nobody the other way",
        ),
        (
            "shared/silhouette_shared/errors.py",
            "import silhouette_shared.randomness",
            "shared has layers",
        ),
        (
            "shared/silhouette_shared/model/__init__.py",
            "import silhouette_shared.privacy",
            "shared has layers",
        ),
        ("shared/silhouette_shared/unheard_of.py", "", "shared has layers"),
        ("shared/silhouette_shared/model/__init__.py", "import flwr", "calculating modules"),
        ("shared/silhouette_shared/model/__init__.py", "import socket", "calculating modules"),
        ("simulations/silhouette_simulations/baselines.py", "import pandas", "calculating modules"),
        # Reached by way of another module of the house, it is found as well.
        ("shared/silhouette_shared/errors.py", "import sqlite3", "calculating modules"),
    ],
)
def test_a_wrong_import_is_caught(copied: Path, module: str, line: str, contract: str) -> None:
    path = copied / module
    before = path.read_text() if path.exists() else ""
    path.write_text(before + f"\n{line}\n")
    finished = lint(copied)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    broken = [text for text in finished.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(contract in text for text in broken), finished.stdout


def test_the_calculation_contract_lists_every_calculating_module_that_exists() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (listed,) = (contract["source_modules"] for contract in contracts["contracts"] if contract["id"] == "calculation")
    assert set(listed) == {name for name in CALCULATING if exists(name)}


def exists(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None
