"""Runs on the real command line: an invented data set in a cache of its own, a plan of seconds, and a place to look."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from silhouette_shared.cli import main

PEOPLE, FILMS, EVENTS_EACH = 60, 50, 14

PLAN = """\
name = "tiny"
seed = 0

[data]
dataset = "ml-1m"
history_length = 10

[partition]
partners = 3

[model]
width = 16
blocks = 1
content_width = 8

[training]
rounds = 3
batch_size = 16

[privacy]
rounds = 3
sampling_rate = 0.5

[evaluation]
every_rounds = 2
"""

WITH_TIMES = ("run.json", "rounds.csv", "secure-steps.csv", "report.html")
"""Files of a run folder with times of the wall clock; everything else repeats byte for byte."""

Tree = dict[str, str]


def tree(folder: Path, *, leave_out: Sequence[str] = ()) -> Tree:
    """Every file below a folder with its SHA-256, and every folder; empty if there is none."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in leave_out:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def write_films(folder: Path) -> Path:
    """An invented MovieLens 1M: people who like one of two halves of the films."""
    folder.mkdir(parents=True)
    draw = random.Random(5)
    lines = ["user_id,movie_id,rating,seq"]
    for user in range(1, PEOPLE + 1):
        half = [film for film in range(1, FILMS + 1) if (film + user) % 2]
        for rank, film in enumerate(draw.sample(half, EVENTS_EACH)):
            lines.append(f"{user},{film},{draw.randint(1, 5)},{rank}")
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    ages = (1, 18, 25, 35, 45, 50, 56)
    (folder / "users.dat").write_text(
        "".join(f"{user}::{'FM'[user % 2]}::{ages[user % 7]}::{user % 21}::0\n" for user in range(1, PEOPLE + 1))
    )
    genres = ("Comedy", "Drama|Crime", "Horror")
    (folder / "movies.dat").write_text(
        "".join(f"{film}::Film {film} ({1990 + film % 9})::{genres[film % 3]}\n" for film in range(1, FILMS + 1))
    )
    return folder


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Its one JSON document."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ[name]
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ[name] = before


@dataclass(frozen=True)
class Desk:
    """A person at a shell: a home with the data, a folder for runs, and the command."""

    home: Path
    out: Path
    plans: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def plan(self, text: str = PLAN, name: str = "plan.toml") -> Path:
        """Write a plan."""
        path = self.plans / name
        path.write_text(text)
        return path

    def start(self, *arguments: object, script: str = "") -> subprocess.Popen[str]:
        """Begin a command; `script` is Python that runs in its process before it."""
        # A shell starts what it runs in the background with interrupts ignored, and that is inherited.
        heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"{heard}\n{script}\nimport sys\nfrom silhouette_shared.cli import main\nsys.exit(main(sys.argv[1:]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "SILHOUETTE_HOME": str(self.home),
                "COLUMNS": "120",
                **self.environment,
            },
        )

    def call(self, *arguments: object, script: str = "") -> Done:
        """Run a command to its end."""
        process = self.start(*arguments, script=script)
        out, err = process.communicate(timeout=900)
        return Done(process.returncode, out, err)

    def here(self, *arguments: object) -> Done:
        """The same command in this process, which has imported everything already."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), _variable("SILHOUETTE_HOME", str(self.home)):
            code = main([str(argument) for argument in arguments])
        return Done(code, out.getvalue(), err.getvalue())

    def run(self, *arguments: object, script: str = "") -> Done:
        """`silhouette sim run` in mode none, unless the arguments name one, with JSON."""
        mode = () if "--mode" in arguments or "--resume" in arguments else ("--mode", "none")
        out = () if "--out" in arguments else ("--out", self.out)
        return self.call("sim", "run", *arguments, *mode, *out, "--format", "json", script=script)

    def killed(self, moment: Callable[[Path], bool], *arguments: object) -> Path | None:
        """Start a run and kill it with signal 9 as soon as `moment` says so of its folder.

        Returns:
            The run's folder; None if the run was over first.
        """
        before = set(self.out.iterdir()) if self.out.exists() else set()
        mode = () if "--resume" in arguments else ("--mode", "none")
        process = self.start("sim", "run", *arguments, *mode, "--out", self.out)
        folder = next((Path(str(after)) for word, after in pairwise(arguments) if word == "--resume"), None)
        deadline = time.monotonic() + 400
        while process.poll() is None and time.monotonic() < deadline:
            if folder is None and self.out.exists():
                folder = next(iter(set(self.out.iterdir()) - before), None)
            if folder is not None and moment(folder):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err
        return folder if process.returncode else None


@dataclass(frozen=True)
class Reference:
    """A run of PLAN in mode none that nobody disturbed."""

    desk: Desk
    done: Done
    folder: Path
