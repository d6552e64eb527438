"""Killed with SIGKILL at any moment and run again, an ingest gives what it gives unkilled."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.client.ingest.shop_files import state

from silhouette_shared.errors import UnavailableError
from silhouette_simulations.shop import MAPPING, write_shops

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys, pathlib, os
from silhouette_client.ingest.mapping import read_mapping
from silhouette_client.ingest.take_in import take_in
home, mapping, tables = map(pathlib.Path, sys.argv[1:4])
rules = read_mapping(mapping)
# One process imports everything once and forks a child for each life.
while (line := sys.stdin.readline()):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            take_in(home, rules, [str(tables)], now=1_800_000_000)
            code = 0
        finally:
            os._exit(code)
    print(child, flush=True)
    sys.stdin.readline()  # until then the child is not waited for, and its number is its own
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""

HOLDER = """
import sys, pathlib, time
from silhouette_client.ingest.records import writing
with writing(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


class Lives:
    """Starts ingest after ingest, and kills them."""

    def __init__(self, home: Path, folder: Path) -> None:
        paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(home), str(folder / "mapping.toml"), str(folder / "tables")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def live(self, seconds: float | None) -> tuple[bool, float]:
        """Run once, killed after so many seconds; whether it was killed, and how long it ran."""
        self._to.write("\n")
        self._to.flush()
        child = int(self._from.readline())
        begun = time.monotonic()
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        self._to.write("\n")
        self._to.flush()
        status = int(self._from.readline())
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
        return os.WIFSIGNALED(status), time.monotonic() - begun

    def end(self) -> None:
        self._to.close()
        self._process.wait()
        self._from.close()


def kill_again_and_again(tmp_path: Path, events: int, kills: int) -> None:
    write_shops(tmp_path / "tables", events, seed=1)
    (tmp_path / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    home, draw = tmp_path / "home", random.Random(5)
    unkilled = Lives(home, tmp_path)
    # The key is the same in all lives, so that equal rows are equal bytes.
    _, whole = unkilled.live(None)
    expected = state(home)
    key = expected["key"]
    met: set[int] = set()
    killed = 0
    for _ in range(20 * kills):
        if killed >= kills and len(met) > 1:
            break
        was_killed, _ = unkilled.live(draw.uniform(0, 1.1 * whole))
        killed += was_killed
        met.add(len(list((home / "node/people/parts").glob("[!.]*"))))
        if not was_killed or draw.random() < 0.3:  # at times from the beginning, at times from where the last one fell
            again, whole = unkilled.live(None)  # the machine may be slower by now
            assert not again
            assert state(home) == expected
            shutil.rmtree(home)
            (home / "node/people").mkdir(parents=True)
            (home / "node/people/key").write_bytes(key)
    assert killed >= kills
    assert unkilled.live(None)[0] is False
    unkilled.end()
    assert state(home) == expected
    assert len(met) > 1, "every kill fell before the first or after the last part"


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 20_000, kills=10)


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    from silhouette_client.ingest.records import writing

    home = tmp_path / "home"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(home)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with pytest.raises(UnavailableError), writing(home, patience=0.0):
            pass
        process.kill()
        process.wait()
        with writing(home):
            pass
