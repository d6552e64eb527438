"""What every test may rely on: a home of its own, and no settings of the person who runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shared machine is slow at times, which says nothing about the code; and a run in CI, or of tox, is the same each
# time, while a developer's keeps looking for new examples.
settings.register_profile(
    "silhouette",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not {"CI", "TOX_ENV_NAME"}.isdisjoint(os.environ),
)
settings.load_profile("silhouette")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SILHOUETTE_HOME, so that no test reads or writes the person's own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SILHOUETTE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _no_slower_afterwards() -> Iterator[None]:
    """A test that lowers the priority of this process, which nothing raises again, starves all that come after it."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    yield
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how a first try failed, also where the second passed: a fault must not hide behind a busy machine."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"first try of {report.nodeid}")
        terminalreporter.line(report.longreprtext)
