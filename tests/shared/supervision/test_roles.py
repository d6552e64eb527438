"""A process of a role: its exit code says how it ended, and being asked to end is no failure."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
from silhouette_shared.errors import RefusedError
from silhouette_shared.supervision import end_on_signals, run_role, run_until_asked

def works(home):
    print("home", home.name, flush=True)

def refuses(home):
    raise RefusedError("expected a roster, got none; install a kit")

def waits(home):
    stop = end_on_signals()
    print("ready", flush=True)
    assert stop.wait(60)
    print("in order", flush=True)

def loops(home):
    async def forever():
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        finally:
            print("in order", flush=True)
    run_until_asked(forever())

sys.exit(run_role("planted.processes", {"works": works, "refuses": refuses, "waits": waits, "loops": loops}))
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


def test_a_role_gets_its_home_and_a_refusal_is_one_line_and_its_code(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*program, "works", "--home", str(tmp_path / "there")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "home there\n")
    refused = subprocess.run([*program, "refuses", "--home", str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode == 3
    (line,) = refused.stderr.splitlines()
    assert '"logger": "planted.processes"' in line
    assert "expected a roster, got none; install a kit" in line


def test_a_role_that_there_is_not_is_refused_with_those_that_there_are(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*program, "sleeps", "--home", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "works, refuses, waits, loops" in done.stderr.replace("'", "")


IN_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
"""How a script's shell starts what it does not wait for: with SIGINT ignored."""


@pytest.mark.parametrize("shell", [[], IN_BACKGROUND], ids=["in front", "in the background"])
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("role", ["waits", "loops"])
def test_a_role_that_is_asked_to_end_ends_in_order(
    program: list[str], tmp_path: Path, role: str, asked: signal.Signals, shell: list[str]
) -> None:
    process = subprocess.Popen(
        [*shell, *program, role, "--home", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(asked)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (0, "in order\n", "")
