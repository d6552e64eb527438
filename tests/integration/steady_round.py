"""What a round costs beside its training: seconds by where they go, bytes, and the memory of every process.

    python -m tests.integration.steady_round --out FOLDER [--width 208] [--rounds 9]

A deployment of three partners on this machine, with 20 invented people each, secure aggregation and no noise. 208 gives
a model of a million parameters, 672 one of ten million. FOLDER is made and left, with all homes, logs and the registry
in it. The machine has to be quiet for the figures to mean anything.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.deployment import Deployment
from tests.integration.desk import PLAN
from tests.integration.kills import deal

from silhouette_server.coordination.checkpoints import read_checkpoint

_ANSWERED = re.compile(r"train\.(\w+) answered: fetched in [\d.]+ s, worked for ([\d.]+) s, sent in ([\d.]+) s")
_EXCHANGED = re.compile(r"train\.(\w+): .* answered after ([\d.]+) s,")
_SUPERNODE = (
    re.compile(r"Receiving: train\.(\w+) message"),
    re.compile(r"Received successfully"),
    re.compile(r"Sending: train\.(\w+) message"),
    re.compile(r"Sent successfully"),
)

STRETCHES = ("handed over", "down", "to the agent", "agent", "half-second loop", "up", "back")
"""Handed over: from the coordinator to the SuperLink, and until the gate's question, every 0.2 s, has the message for
the SuperNode that is the last to answer. Down: to that SuperNode. To the agent: its next question, at most 0.2 s, and
its fetching. Half-second loop: until the SuperNode, which looks every 0.5 s, finds the answer. Up: the answer to the
SuperLink. Back: the coordinator's question, every 0.2 s, and its fetching."""


def plan_text(width: int, rounds: int) -> str:
    """A run of rounds in which next to nothing is trained."""
    return (
        PLAN.replace('name = "tiny"', f'name = "width-{width}"')
        .replace("width = 16", f"width = {width}")
        .replace("rounds = 3", f"rounds = {rounds}")
        .replace("[privacy]\n", '[privacy]\nmode = "none"\n')
        + '\n[aggregation]\nprotocol = "sa-1"\n\n[replies]\ntimeout_seconds = 120.0\n'
    )


def main() -> int:
    """Run it; 0 if every round was committed and the registry verifies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=208)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    dealt, plan, people = deal(given.out, plan_text(given.width, given.rounds))
    with Deployment(given.out / "homes", dealt, people) as deployment:
        started = time.monotonic()
        deployment.start_all()
        for who in ("coordinator", *deployment.people):
            deployment.await_healthy(who)
        say(f"healthy after {time.monotonic() - started:.0f} s")
        run = deployment.submit(plan)
        found = deployment.await_run(run, ("completed", "stopped", "failed"), 3600.0)
        memory = {
            (who if who == "coordinator" else "node", one.name): one.memory
            for who in ("coordinator", *deployment.people)
            if (status := deployment.status(who)) is not None
            for one in status.services
        }
    with deployment.registry() as registry:
        faults = registry.verify()
    say(f"the registry verifies: {not faults}")
    states = [found.rounds[number].state.value for number in sorted(found.rounds)]
    say(f"{run} {found.state.value} {found.reason}: {states}")
    costs(deployment, run)
    for (side, name), resident in memory.items():
        say(f"  {side:<12}{name:<12}{resident / 1e6:>8.0f} MB")
    return 0 if states == ["committed"] * given.rounds and not faults else 1


def costs(deployment: Deployment, run: str) -> None:
    """Seconds and bytes of a steady round, by step, and where they went."""
    checkpoint = read_checkpoint(deployment.work("coordinator") / "runs" / run / "checkpoint.safetensors")
    if checkpoint is None:
        return
    history: list[dict[str, Any]] = [dict(record) for record in checkpoint.history]
    steady = [record for record in history if len(record["steps"]) == 3]
    if not steady:
        return
    parts, partners = stretches(deployment), len(deployment.people)
    whole = [float(record["seconds"]) for record in steady]
    mean = statistics.fmean(whole)
    say(
        f"steady round, median of {len(steady)}: {statistics.median(whole):.2f} s, {min(whole):.2f} to {max(whole):.2f}"
    )
    say(f"where the {mean:.2f} s of the mean went at the node that answered last:")
    say(f"{'':>10}{'seconds':>8}  {'  '.join(STRETCHES)}   MB down, up a partner")
    between = mean
    for index in range(3):
        steps = [record["steps"][index] for record in steady]
        seconds, sent, received = (
            statistics.fmean(float(step[what]) for step in steps) for what in ("seconds", "sent", "received")
        )
        name = str(steps[0]["step"])
        between -= seconds
        columns = "  ".join(f"{parts[name][stretch]:>{len(stretch)}.2f}" for stretch in STRETCHES)
        say(f"{name:>10}{seconds:>8.2f}  {columns}   {sent / partners / 1e6:.2f}, {received / partners / 1e6:.2f}")
    say(f"{'between':>10}{between:>8.2f}  the sum, the model, checkpoint and registry")


@dataclass(frozen=True)
class Passage:
    """A message's way at one node, seconds of the wall clock."""

    step: str
    times: tuple[float, float, float, float]  # it begins to come, is there, its answer begins to go, is gone
    answered: float  # by the agent, whose answer the SuperNode has then
    worked: float  # by the agent


def stretches(deployment: Deployment) -> dict[str, dict[str, float]]:
    """Mean seconds by step and stretch over the steady rounds; they add up to the exchange."""
    passages = [one for who in deployment.people for one in passages_of(deployment, who)]
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for line in deployment.logged("coordinator", "serverapp"):
        match = _EXCHANGED.search(str(line["message"]))
        if match is None:
            continue
        ends = when(line)
        begins = ends - float(match[2])
        own = [one for one in passages if one.step == match[1] and begins <= one.times[0] <= ends]
        last = max(own, key=lambda one: one.times[3])
        comes, there, goes, gone = last.times
        works = min(
            last.answered, max(there, last.answered - last.worked)
        )  # the SuperNode says a moment late that all of it is there
        marks = [begins, comes, there, works, last.answered, goes, gone, ends]
        found[match[1]].append(tuple(later - earlier for earlier, later in pairwise(marks)))
    return {
        step: dict(zip(STRETCHES, map(statistics.fmean, zip(*rows[1:], strict=True)), strict=True))
        for step, rows in found.items()
        if len(rows) > 1  # the first one belongs to the round of five steps
    }


def passages_of(deployment: Deployment, who: str) -> Iterator[Passage]:
    """Every message that a node answered, in order."""
    answered = [
        (when(line), float(match[2]), float(match[3]))
        for line in deployment.logged(who, "agent")
        if (match := _ANSWERED.search(str(line["message"])))
    ]
    step, times = "", list[float]()
    for line in deployment.logged(who, "supernode"):
        text = str(line["message"])
        stage, match = next(
            ((number, found) for number, one in enumerate(_SUPERNODE) if (found := one.search(text))), (-1, None)
        )
        if match is None or (stage and stage != len(times)):
            continue
        if stage == 0:
            step, times = match[1], []
        times.append(when(line))
        if stage < 3:
            continue
        begins, there, sending, sent = times
        ended, worked, handed = next(one for one in answered if begins < one[0] < sent)
        yield Passage(step, (begins, there, sending, sent), ended - handed, worked)


def when(line: dict[str, Any]) -> float:
    """Seconds of the wall clock at which a line was logged."""
    return datetime.fromisoformat(str(line["time"])).timestamp()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
