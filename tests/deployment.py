"""A whole deployment on loopback: real processes, started as an operator starts them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deployed import Homes, enrol

from silhouette_client.policy.terms import Policy, write_policy
from silhouette_server.registry import Registry, RunView
from silhouette_shared.supervision import Status, read_status

PERMISSIVE = Policy(modes=("local", "none"), epsilon_per_run=1000.0, epsilon_per_year=1000.0, rounds_a_day=10_000)


def silhouette(*arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    code = "import sys; from silhouette_shared.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SILHOUETTE_HOME": str(home), "COLUMNS": "200"},
        check=False,
    )


@dataclass
class Deployment:
    """A coordinator and its partners, each under its own supervisor.

    Args:
        folder: For all homes; made if missing.
        dealt: As `silhouette sim deal` wrote it: a catalogue, and tables by partner.
        people: What each partner declares.
        policy: Of every node.
        enrolled: Homes that are ready to be started; None enrols, writes the policy and brings the people.
        hosts: Names of the gate, the first of which nodes connect to.
        within: Begins the command of a supervisor, by whose it is.
    """

    folder: Path
    dealt: Path
    people: dict[str, int]
    policy: Policy = PERMISSIVE
    enrolled: Homes | None = None
    hosts: Sequence[str] = ("localhost",)
    within: Callable[[str], list[str]] = lambda who: []  # what a supervisor's command is started by
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.homes: Homes = self.enrolled or enrol(self.folder, self.people, self.hosts)
        if self.enrolled is not None:
            return
        for name in self.people:
            node = self.homes.node(name)
            shutil.copytree(self.dealt / name / "people", node.folder / "people")
            node.policy_path.write_text(write_policy(self.policy), encoding="utf-8")

    # Processes

    def home(self, who: str) -> Path:
        return self.homes.coordinator if who == "coordinator" else self.homes.nodes[who]

    def start(self, who: str) -> None:
        """`silhouette coordinator start` or `silhouette node start`."""
        role = "coordinator" if who == "coordinator" else "node"
        code = "import sys; from silhouette_shared.cli import main; sys.exit(main(sys.argv[1:]))"
        with (self.folder / f"{who}.log").open("ab") as log:
            self.processes[who] = subprocess.Popen(
                [*self.within(who), sys.executable, "-c", code, role, "start", "--home", str(self.home(who))],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def start_all(self) -> None:
        for who in ("coordinator", *self.people):
            self.start(who)

    def stop(self, who: str) -> int:
        """Ask a supervisor to end; its exit code."""
        process = self.processes.pop(who)
        process.terminate()
        try:
            return process.wait(180)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def close(self) -> None:
        for process in self.processes.values():  # all at once: each takes its time
            process.terminate()
        for who in list(self.processes):
            process = self.processes.pop(who)
            try:
                process.wait(180)
            except subprocess.TimeoutExpired:
                process.kill()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def work(self, who: str) -> Path:
        return self.home(who) / ("coordinator" if who == "coordinator" else "node")

    def status(self, who: str) -> Status | None:
        return read_status(self.work(who) / "processes")

    def pid(self, who: str, service: str) -> int | None:
        status = self.status(who)
        return None if status is None else next(one.pid for one in status.services if one.name == service)

    def await_healthy(self, who: str, seconds: float = 400.0) -> None:
        wait_for(lambda: (status := self.status(who)) is not None and status.healthy, seconds, f"{who} is not healthy")

    def kill(self, who: str, service: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to one process, once it runs; its number."""
        found: list[int] = []

        def sent() -> bool:
            if (pid := self.pid(who, service)) is None:  # it is about to be started again, by its supervisor
                return False
            with suppress(ProcessLookupError):  # it has ended, and its supervisor has not said so yet
                os.kill(pid, number)
                found.append(pid)
            return bool(found)

        wait_for(sent, 240.0, f"{service} of {who} does not run")
        return found[0]

    def logged(self, who: str, service: str) -> list[dict[str, Any]]:
        path = self.work(who) / "logs" / f"{service}.jsonl"
        whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # and after these maybe one that is being written
        return [json.loads(line) for line in whole]

    # Runs

    def submit(self, plan: Path, *options: str) -> str:
        done = silhouette(
            "run",
            "submit",
            plan,
            "--catalogue",
            self.dealt / "catalogue.safetensors",
            *options,
            "--format",
            "json",
            home=self.homes.coordinator,
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["run"])

    def registry(self) -> Registry:
        office = self.homes.office
        return Registry.open(office.folder / "registry.sqlite", office.identity())

    def run(self, name: str) -> RunView:
        with self.registry() as registry:
            return registry.run(name)

    def await_run(self, name: str, states: tuple[str, ...] = ("completed",), seconds: float = 600.0) -> RunView:
        wait_for(lambda: self.run(name).state.value in states, seconds, f"{name} is not {states}")
        return self.run(name)

    def await_round(self, name: str, number: int, seconds: float = 600.0) -> None:
        """Until a round has begun."""
        wait_for(lambda: number in self.run(name).rounds, seconds, f"round {number} of {name} has not begun")


def wait_for(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{otherwise} after {seconds:.0f} s")
        time.sleep(0.2)
