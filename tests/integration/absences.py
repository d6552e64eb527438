"""Partners that do not come back, or late, or hang, and a coordinator that is lost for a while, with real processes.

    python -m tests.integration.absences --out FOLDER [--table FILE] [--scenario NAME]

A machine is lost by `kill -9` of its supervisor, which the kernel follows with everything that it had started. One line
of JSON a scenario goes to the table; one that has a good line there is not played again. FOLDER is made and left.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.deployment import Deployment, silhouette
from tests.integration.kills import (
    RUN_SECONDS,
    SIGN_SECONDS,
    Log,
    add_line,
    commit,
    deal,
    end_of,
    ledger_faults,
    plan_text,
    run_faults,
    say,
    sign_of,
    submit,
    told,
    wait,
)

TABLE = Path(__file__).with_name("absences.jsonl")

ROUNDS = 6

TIMEOUT_SECONDS = 90.0  # for a step, and between two rounds for partners who are missing


def lose(deployment: Deployment, who: str) -> None:
    """A whole machine: the supervisor is killed and takes everything with it."""
    process = deployment.processes.pop(who)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def await_step(deployment: Deployment, log: Log, step: str, number: int) -> None:
    """Until so many messages of a step have arrived at the partner whose log it is."""
    sign = sign_of(step)
    wait(lambda: log.count(sign) >= number, SIGN_SECONDS, f"{step} of round {number} is not seen")


def supernode_log(deployment: Deployment, who: str) -> Log:
    """Of a partner, from now on."""
    return Log(deployment.work(who) / "logs" / "supernode.jsonl")


def one_of_five_never_comes_back(deployment: Deployment, plan: Path) -> dict[str, Any]:
    """Lost in the second round: every round but that one is committed, without it."""
    log = supernode_log(deployment, "partner-0")
    run = submit(deployment, plan)
    await_step(deployment, log, "mask", 2)
    lose(deployment, "partner-4")
    found = end_of(deployment, run)
    faults = run_faults(deployment, found, ROUNDS)
    left = [name for name in deployment.people if name != "partner-4"]
    sums = {one.number: sorted(one.commitment.survivors) for one in found.committed if one.commitment is not None}
    if [one.number for one in found.void] not in ([], [2]):
        faults.append("more than its own round is void")
    faults += [f"round {number}: {who} are in the sum" for number, who in sums.items() if number > 2 and who != left]
    deployment.start("partner-4")
    deployment.await_healthy("partner-4", 300.0)
    return outcome(found, faults)


def one_of_five_comes_back_late(deployment: Deployment, plan: Path) -> dict[str, Any]:
    """Lost in the second round, back two rounds later: it is in the last sum."""
    log = supernode_log(deployment, "partner-0")
    run = submit(deployment, plan)
    await_step(deployment, log, "mask", 2)
    lose(deployment, "partner-3")
    wait(lambda: deployment.run(run).last_committed >= 3, RUN_SECONDS, "the others do not go on")
    deployment.start("partner-3")
    found = end_of(deployment, run)
    faults = run_faults(deployment, found, ROUNDS)
    last = found.rounds[max(found.rounds)].commitment
    if last is None or sorted(last.survivors) != sorted(deployment.people):
        faults.append("who came back late is not in the last sum")
    deployment.await_healthy("partner-3", 300.0)
    return outcome(found, faults)


def the_coordinator_is_lost_and_started_again(deployment: Deployment, plan: Path) -> dict[str, Any]:
    """In the second round; the run goes on by itself at the next."""
    log = supernode_log(deployment, "partner-0")
    run = submit(deployment, plan)
    await_step(deployment, log, "agree", 2)
    lose(deployment, "coordinator")
    time.sleep(5.0)
    deployment.start("coordinator")
    found = end_of(deployment, run)
    deployment.await_healthy("coordinator", 300.0)
    return outcome(found, run_faults(deployment, found, ROUNDS))


def one_of_three_never_comes_back(deployment: Deployment, plan: Path) -> dict[str, Any]:
    """Every round is void with its reason, the run stops at its limit, and goes on when the partner is back."""
    log = supernode_log(deployment, "partner-0")
    run = submit(deployment, plan)
    await_step(deployment, log, "mask", 2)
    lose(deployment, "partner-2")
    stopped = end_of(deployment, run, 2 * RUN_SECONDS)
    faults = [] if stopped.state.value == "stopped" else [f"the run {stopped.state.value}, expected it to stop"]
    if [one.number for one in stopped.void] != [2, 3, 4]:
        faults.append(f"void rounds {[one.number for one in stopped.void]}, expected the three after the first")
    faults += [
        f"round {one.number} is void for {one.reason!r}" for one in stopped.void if "partner-2" not in one.reason
    ]
    faults += ledger_faults(deployment, stopped)
    deployment.start("partner-2")
    deployment.await_healthy("partner-2", 300.0)
    resumed = silhouette("run", "resume", run, home=deployment.homes.coordinator)
    if resumed.returncode:
        faults.append(f"`run resume` ended with {resumed.returncode}: {resumed.stderr}")
    wait(lambda: deployment.run(run).state.value not in ("stopped", "submitted"), SIGN_SECONDS, "it is not resumed")
    found = end_of(deployment, run)
    return {**outcome(found, faults + run_faults(deployment, found, ROUNDS)), "stopped": stopped.reason}


def an_agent_that_hangs_is_noticed(deployment: Deployment, plan: Path) -> dict[str, Any]:
    """Stopped over a message, as a machine does that is out of memory: it is killed, and its round void."""
    log = supernode_log(deployment, "partner-1")
    run = submit(deployment, plan)
    await_step(deployment, log, "mask", 2)
    deployment.kill("partner-1", "agent", signal.SIGSTOP)
    found = end_of(deployment, run)
    faults = run_faults(deployment, found, ROUNDS)
    status = deployment.status("partner-1")
    reasons = [] if status is None else [one.reason for one in status.services if one.name == "agent"]
    if not any(reason.startswith("hung: a sign of life was expected") for reason in reasons):
        faults.append(f"the supervisor says {reasons}")
    deployment.await_healthy("partner-1", 300.0)
    return outcome(found, faults)


def outcome(found: Any, faults: list[str]) -> dict[str, Any]:
    """For the table."""
    return {
        "run": found.name,
        "state": found.state.value,
        "rounds": {str(number): told(found, number) for number in sorted(found.rounds)},
        "survivors": {
            str(one.number): len(one.commitment.survivors) for one in found.committed if one.commitment is not None
        },
        "faults": faults,
    }


SCENARIOS: dict[str, tuple[int, Callable[[Deployment, Path], dict[str, Any]]]] = {
    "one of five comes back late": (5, one_of_five_comes_back_late),
    "one of five never comes back": (5, one_of_five_never_comes_back),
    "the coordinator is lost and started again": (5, the_coordinator_is_lost_and_started_again),
    "one of three never comes back": (3, one_of_three_never_comes_back),
    "an agent that hangs": (3, an_agent_that_hangs_is_noticed),
}


def main() -> int:
    """Play what has no good line yet; 0 if everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--scenario", choices=SCENARIOS)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the deployment is stopped on the way out
    lines = given.table.read_text(encoding="utf-8").splitlines() if given.table.exists() else []
    done = {line["scenario"] for line in map(json.loads, lines) if not line["faults"]}
    code, failed = commit(), 0
    for partners in (5, 3):
        left = [name for name, (number, _) in SCENARIOS.items() if number == partners and name not in done]
        left = [name for name in left if given.scenario in (None, name)]
        if not left:
            continue
        folder = given.out / f"{partners}-{os.getpid()}"
        folder.mkdir(parents=True)
        dealt, plan, people = deal(folder, plan_text(ROUNDS, partners, TIMEOUT_SECONDS))
        with Deployment(folder / "homes", dealt, people) as deployment:
            deployment.start_all()
            for who in ("coordinator", *people):
                deployment.await_healthy(who, 400.0)
            for name in left:
                began = time.monotonic()
                line: dict[str, Any] = {"scenario": name, "partners": partners, "commit": code}
                line |= SCENARIOS[name][1](deployment, plan)
                line["seconds"] = round(time.monotonic() - began, 1)
                add_line(given.table, line)
                failed += bool(line["faults"])
                say(f"{name}: {line['state']} {line['rounds']} {line['seconds']} s {line['faults']}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
