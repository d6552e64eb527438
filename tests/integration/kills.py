"""`kill -9` of every process of a deployment in every phase of a run, once each, and what became of the run.

    python -m tests.integration.kills --out FOLDER [--table FILE] [--part 0/2] [--process NAME] [--phase NAME]

Each case is a run of its own on a real deployment of three partners, with privacy and secure aggregation. One line of
JSON a case goes to the table; a case that has a good line there is not done again, so a script that was stopped goes
on where it was. Several parts may run side by side, each with a deployment of its own; they share the table. Executor
and agent are one process here, `agent`. FOLDER is made and left, with all homes and logs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deployment import Deployment, silhouette
from tests.integration.desk import PLAN, write_films

from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain
from silhouette_server.registry import RoundState, RunView
from silhouette_shared.cli import main as command
from silhouette_shared.privacy.ledger import Charge

TABLE = Path(__file__).with_name("kills.jsonl")

AT_COORDINATOR = ("superlink", "serverapp", "gate")
AT_PARTNER = ("connector", "agent", "supernode")
PROCESSES = AT_COORDINATOR + AT_PARTNER

STEPS = ("advertise", "share", "mask", "agree", "unmask")
PHASES = ("idle", "offer", *STEPS, "commit")
"""Idle: before the run is submitted. Offer: the nodes are asked. Then the steps of a secure round; in commit the last
answer has left, and the coordinator sums, keeps and commits."""

ROUNDS = 3
LATEST_SECONDS = {"mask": 1.5}
_LATEST_SECONDS = 0.6  # after the sign of a phase
SIGN_SECONDS, RUN_SECONDS = 600.0, 1500.0  # of a machine that others share
ENDED = ("completed", "stopped", "failed")


@dataclass(frozen=True)
class Case:
    """One kill: of what, at whom, when."""

    process: str
    phase: str
    seed: int
    partner: str  # whose process it is, or whose log tells the phase
    round: int
    delay: float  # seconds after the sign of the phase

    @classmethod
    def of(cls, process: str, phase: str, seed: int, partners: Sequence[str]) -> Case:
        """Everything but process and phase is drawn."""
        draw = random.Random(f"{seed} {process} {phase}")
        early = phase in ("idle", "offer", "advertise", "share")  # keys go ahead after the first round
        return cls(
            process=process,
            phase=phase,
            seed=seed,
            partner=draw.choice(list(partners)),
            round=1 if early else draw.choice((1, 2)),
            delay=round(draw.uniform(0.0, LATEST_SECONDS.get(phase, _LATEST_SECONDS)), 2),
        )

    @property
    def name(self) -> str:
        """Process and phase."""
        return f"{self.process} in {self.phase}"

    @property
    def who(self) -> str:
        """Whose process it is."""
        return "coordinator" if self.process in AT_COORDINATOR else self.partner


def all_cases(seed: int, partners: Sequence[str]) -> list[Case]:
    """Every process in every phase."""
    return [Case.of(process, phase, seed, partners) for phase in PHASES for process in PROCESSES]


def sample(seed: int, count: int, partners: Sequence[str]) -> list[Case]:
    """So many of all cases, every process equally often."""
    draw = random.Random(seed)
    order = [(process, phase) for process in PROCESSES for phase in draw.sample(PHASES, count // len(PROCESSES))]
    draw.shuffle(order)
    return [Case.of(process, phase, seed, partners) for process, phase in order]


@dataclass
class Log:
    """The lines that a process of somebody's adds from now on."""

    path: Path
    begins: int = field(init=False)

    def __post_init__(self) -> None:
        self.begins = self.path.stat().st_size if self.path.exists() else 0

    def count(self, pattern: re.Pattern[str]) -> int:
        """How many of them match."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            file.seek(self.begins if self.begins <= os.fstat(file.fileno()).st_size else 0)
            return sum(bool(pattern.search(line.decode("utf-8", "replace"))) for line in file)


def sign_of(phase: str) -> re.Pattern[str]:
    """What a SuperNode logs when a phase begins."""
    if phase == "offer":
        return re.compile(r"Receiving: query\.offer ")
    if phase == "commit":
        return re.compile(r"Sending: train\.unmask ")
    return re.compile(rf"Receiving: train\.{phase} ")


@dataclass
class Stage:
    """A deployment on which one case is played after the other.

    Args:
        deployment: Healthy.
        plan: Of every run.
    """

    deployment: Deployment
    plan: Path

    def play(self, case: Case) -> dict[str, Any]:
        """Kill, wait for the end of the run, and check everything; the line for the table."""
        deployment = self.deployment
        began = time.monotonic()
        log = Log(deployment.work(case.partner) / "logs" / "supernode.jsonl")
        if case.phase == "idle":
            time.sleep(case.delay)
            pid = deployment.kill(case.who, case.process)
            run = submit(deployment, self.plan)
        else:
            run = submit(deployment, self.plan)
            wanted, sign = case.round, sign_of(case.phase)
            wait(lambda: log.count(sign) >= wanted, SIGN_SECONDS, f"{case.phase} of round {wanted} is not seen")
            time.sleep(case.delay)
            pid = deployment.kill(case.who, case.process)
        killed = time.monotonic()
        # It is there again before the next case, whatever became of the run.
        wait(lambda: deployment.pid(case.who, case.process) not in (None, pid), 240.0, "it is not started again")
        found = end_of(deployment, run)
        deployment.await_healthy(case.who, 600.0)
        return {
            "run": run,
            "state": found.state.value,
            "rounds": {str(number): told(found, number) for number in sorted(found.rounds)},
            "seconds": round(time.monotonic() - began, 1),
            "seconds_after_the_kill": round(time.monotonic() - killed, 1),
            "faults": run_faults(deployment, found, ROUNDS),
        }


def submit(deployment: Deployment, plan: Path) -> str:
    """`silhouette run submit`, in this process: torch is imported once."""
    printed = io.StringIO()
    catalogue, home = deployment.dealt / "catalogue.safetensors", deployment.homes.coordinator
    arguments = ["run", "submit", plan, "--catalogue", catalogue, "--home", home, "--format", "json"]
    with redirect_stdout(printed):
        code = command([str(one) for one in arguments])
    if code:
        raise RuntimeError(f"`silhouette run submit` ended with {code}")
    return str(json.loads(printed.getvalue())["run"])


def end_of(deployment: Deployment, run: str, seconds: float = RUN_SECONDS) -> RunView:
    """The run when it has ended, however."""
    wait(lambda: deployment.run(run).state.value in ENDED, seconds, f"{run} does not end")
    return deployment.run(run)


def run_faults(deployment: Deployment, found: RunView, rounds: int) -> list[str]:
    """What is wrong with a run that has ended, with the registry, and with what was charged for it."""
    faults = [] if found.state.value == "completed" else [f"the run {found.state.value}: {found.reason}"]
    if sorted(found.rounds) != list(range(1, rounds + 1)):
        faults.append(f"rounds {sorted(found.rounds)}")
    faults += [f"round {number} has no end" for number in found.unfinished]
    faults += [f"round {one.number} is void without a reason" for one in found.void if not one.reason]
    with deployment.registry() as registry:
        faults += [f"registry: {fault}" for fault in registry.verify()]
    return [*faults, *ledger_faults(deployment, found)]


def told(found: RunView, number: int) -> str:
    """What became of a round, in words without numbers of nodes."""
    one = found.rounds[number]
    if one.state is not RoundState.void:
        return one.state.value
    return "void: " + re.sub(r"\b\d{9,}\b", "N", one.reason)[:240]


def ledger_faults(deployment: Deployment, found: RunView) -> list[str]:
    """Charges that are missing, or there twice, or of rounds that never were; every ledger is verified on the way."""
    faults = []
    for name in deployment.people:
        chain = read_chain(deployment.homes.node(name).folder / LEDGER_NAME)
        charged = [
            entry.content.round
            for entry in chain.entries
            if isinstance(entry.content, Charge) and entry.content.run == found.name
        ]
        faults += [f"{name}: round {number} is charged twice" for number in set(charged) if charged.count(number) > 1]
        faults += [f"{name}: round {number} was never begun" for number in set(charged) - set(found.rounds)]
        for one in found.committed:
            in_sum = one.commitment is None or name in (one.commitment.survivors or tuple(deployment.people))
            if in_sum and one.number not in charged:
                faults.append(f"{name}: round {one.number} is committed and not charged")
    return faults


def wait(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{otherwise} after {seconds:.0f} s")
        time.sleep(0.05)


def plan_text(rounds: int = ROUNDS, partners: int = 3, timeout_seconds: float = 300.0) -> str:
    """A run of small rounds with privacy and secure aggregation, and nothing beside the training."""
    return (
        PLAN.replace('name = "tiny"', 'name = "kills"')
        .replace("rounds = 3", f"rounds = {rounds}")
        .replace("partners = 3", f"partners = {partners}")
        .replace("[privacy]\n", "[privacy]\nepsilon = 2.0\n")
        + "\n[statistics]\npopularity_share = 0.0\ntransition_share = 0.0\n"
        + f'\n[aggregation]\nprotocol = "sa-1"\n\n[replies]\ntimeout_seconds = {timeout_seconds}\n'
    )


# The table


def read_table(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The newest line of each case."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line]
    return {(line["process"], line["phase"], line["seed"]): line for line in found}


def add_line(path: Path, line: dict[str, Any]) -> None:
    """One line, whole: several scripts may write."""
    data = (json.dumps(line, ensure_ascii=True) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def commit() -> str:
    """Of the code that runs."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return asked.stdout.strip()


def deal(folder: Path, text: str) -> tuple[Path, Path, dict[str, int]]:
    """Invented people for the partners of a plan: where they are dealt to, the plan's file, and how many each has."""
    home = folder / "films" / "home"
    if not home.exists():
        source = write_films(home.parent / "source")
        done = silhouette("data", "get", "ml-1m", "--from", source, home=home)
        if done.returncode:
            raise RuntimeError(done.stderr)
    plan = folder / "plan.toml"
    plan.write_text(text)
    dealt = folder / f"dealt-{os.getpid()}"  # a script that goes on in the same folder deals again
    done = silhouette("sim", "deal", plan, "--out", dealt, "--format", "json", home=home)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dealt, plan, json.loads(done.stdout)["people"]


def main() -> int:
    """Play what has no good line yet; 0 if everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1", help="which of how many")
    parser.add_argument("--process", choices=PROCESSES)
    parser.add_argument("--phase", choices=PHASES)
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    given.out.mkdir(parents=True, exist_ok=True)
    dealt, plan, people = deal(given.out, plan_text())
    done = {case for case, line in read_table(given.table).items() if not line["faults"]}
    left = [
        case
        for case in all_cases(given.seed, list(people))[part::parts]
        if (case.process, case.phase, case.seed) not in done
        and given.process in (None, case.process)
        and given.phase in (None, case.phase)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the deployment is stopped on the way out
    code, failed = commit(), 0
    while left:
        with Deployment(given.out / f"homes-{os.getpid()}-{len(left)}", dealt, people) as deployment:
            deployment.start_all()
            for who in ("coordinator", *people):
                deployment.await_healthy(who, 300.0)
            stage = Stage(deployment, plan)
            whole = True
            while left and whole:
                case = left.pop(0)
                line = {"process": case.process, "phase": case.phase, "seed": case.seed, "commit": code}
                line |= {"partner": case.partner, "round": case.round, "delay": case.delay}
                try:
                    line |= stage.play(case)
                except (TimeoutError, AssertionError) as error:
                    line |= {"state": "", "rounds": {}, "seconds": 0.0, "faults": [f"not played to its end: {error}"]}
                    whole = False  # a deployment that does not come back is left for a look, and another one made
                add_line(given.table, line)
                failed += bool(line["faults"])
                say(f"{case.name}: {line['state']} {line['rounds']} {line['seconds']} s {line['faults']}")
    return int(failed > 0)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
