"""A deployment on this machine by hand: enrols, starts, runs, compares with the simulation, and shows what it took.

    python -m tests.integration.deployment_by_hand --home HOME --plan PLAN --out FOLDER [--compare] [--kill]

HOME holds the plan's data set (`silhouette data get`). The plan needs mode "none" for `--compare`: without noise the
deployment's model is the simulation's. With `--kill` each process is killed once, in a round of its own. FOLDER is made
and left, with all homes, logs and the registry in it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tests.deployment import Deployment, silhouette, wait_for

from silhouette_server.coordination.checkpoints import read_checkpoint
from silhouette_shared.cards.content import unpack_model
from silhouette_shared.config import read_plan
from silhouette_shared.model.vector import Layout
from silhouette_simulations import datasets
from silhouette_simulations.training import Machine, new_encoder, train_together
from silhouette_simulations.world import build_world

_ANSWERED = re.compile(r"train\.(\w+) answered: fetched in ([\d.]+) s, worked for ([\d.]+) s, sent in ([\d.]+) s")


def main() -> int:
    """Run it; 0 if the run completed, and the models are equal where they are compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--seconds", type=float, default=3600.0)
    given = parser.parse_args()
    done = silhouette("sim", "deal", given.plan, "--out", given.out / "dealt", "--format", "json", home=given.home)
    if done.returncode:
        sys.stderr.write(done.stderr)
        return done.returncode
    with Deployment(given.out / "homes", given.out / "dealt", json.loads(done.stdout)["people"]) as deployment:
        started = time.monotonic()
        deployment.start_all()
        for who in ("coordinator", *deployment.people):
            deployment.await_healthy(who)
        say(f"healthy after {time.monotonic() - started:.0f} s")
        run = deployment.submit(given.plan)
        if given.kill:
            kill_each(deployment, run)
        found = deployment.await_run(run, ("completed", "stopped", "failed"), given.seconds)
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
    equal = not given.compare or same(given.home, given.plan, given.out, deployment, run, len(states))
    return 0 if found.state.value == "completed" and equal and not faults else 1


VICTIMS = (
    ("coordinator", "superlink"),
    ("coordinator", "serverapp"),
    ("coordinator", "gate"),
    ("partner-0", "connector"),
    ("partner-1", "agent"),
    ("partner-2", "supernode"),
)


def kill_each(deployment: Deployment, run: str) -> None:
    """Kill every kind of process once, and show what becomes of the round in which it was."""
    for who, service in VICTIMS:
        wait_for(lambda: bool(deployment.run(run).unfinished), 600, "no round begins")
        time.sleep(1.0)
        number = deployment.run(run).last_begun
        deployment.kill(who, service)
        killed = time.monotonic()
        wait_for(lambda number=number: deployment.run(run).last_begun > number, 600, "it does not go on")  # type: ignore[misc]
        one = deployment.run(run).rounds[number]
        say(f"  {service:<12}round {number} {one.state.value}, the next begins after {time.monotonic() - killed:.0f} s")
        if one.reason:
            say(f"              {one.reason}")


def costs(deployment: Deployment, run: str) -> None:
    """Median seconds and bytes of a steady round, by step, and where in a partner's node they went."""
    checkpoint = read_checkpoint(deployment.work("coordinator") / "runs" / run / "checkpoint.safetensors")
    if checkpoint is None:
        return
    history: list[dict[str, Any]] = [dict(record) for record in checkpoint.history]
    steady = [record for record in history if len(record["steps"]) == 3]
    if not steady:
        return
    parts, partners = stretches(deployment), len(deployment.people)
    whole = statistics.median(float(record["seconds"]) for record in steady)
    say(f"steady round, median of {len(steady)}: {whole:.2f} s; the rest of a step is at the coordinator and the gate")
    say(f"{'':>10}{'seconds':>8}  {'  '.join(STRETCHES)}  the rest   MB down, up a partner")
    total = 0.0
    for index in range(3):
        steps = [record["steps"][index] for record in steady]
        seconds, sent, received = (
            statistics.median(float(step[what]) for step in steps) for what in ("seconds", "sent", "received")
        )
        name = str(steps[0]["step"])
        total += seconds
        own = parts[name]
        columns = "  ".join(f"{own[stretch]:>{len(stretch)}.2f}" for stretch in STRETCHES)
        say(
            f"{name:>10}{seconds:>8.2f}  {columns}  {seconds - sum(own.values()):>8.2f}   "
            f"{sent / partners / 1e6:.2f}, {received / partners / 1e6:.2f}"
        )
    say(f"{'between':>10}{whole - total:>8.2f}  the sum, the model, checkpoint and registry")


STRETCHES = ("down", "to the agent", "agent", "half-second loop", "up")
"""Down: from the head of a message to its last part at the SuperNode. To the agent: its next question, at most 0.2 s,
and its fetching. Half-second loop: until the SuperNode, which looks every 0.5 s, finds the answer. Up: it is sent."""

_LINES = (
    re.compile(r"Receiving: train\.(\w+) message"),
    re.compile(r"Received successfully"),
    re.compile(r"Sending: train\.(\w+) message"),
    re.compile(r"Sent successfully"),
)


def stretches(deployment: Deployment) -> dict[str, dict[str, float]]:
    """Seconds by step of the node that was last, median over the messages: where they went."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for who in deployment.people:
        answered = [
            (when(line), match[1], float(match[3]), float(match[4]))
            for line in deployment.logged(who, "agent")
            if (match := _ANSWERED.search(str(line["message"])))
        ]
        open_message: list[float] = []
        for line in deployment.logged(who, "supernode"):
            text = str(line["message"])
            stage = next((number for number, pattern in enumerate(_LINES) if pattern.search(text)), None)
            if stage is None or (stage and stage != len(open_message)):
                continue
            open_message = [when(line)] if stage == 0 else [*open_message, when(line)]
            if stage != 3:
                continue
            begins, there, sending, sent = open_message
            done = next((one for one in answered if begins < one[0] < sent), None)
            if done is None:
                continue
            ended, step, worked, handed = done
            own = found[step]
            own["down"].append(there - begins)
            own["agent"].append(worked)
            own["to the agent"].append(max(0.0, ended - handed - worked - there))
            own["half-second loop"].append(max(0.0, sending - ended + handed))
            own["up"].append(sent - sending)
    return {step: {stretch: statistics.median(own[stretch]) for stretch in STRETCHES} for step, own in found.items()}


def when(line: dict[str, Any]) -> float:
    """Seconds of the wall clock at which a line was logged."""
    return datetime.fromisoformat(str(line["time"])).timestamp()


def same(home: Path, plan: Path, out: Path, deployment: Deployment, run: str, number: int) -> bool:
    """Whether the deployment's last model is the simulation's, to 1e-6."""
    read = read_plan(plan)
    world = build_world(read, datasets.load(read.data.dataset, home=home))
    layout = Layout.of(new_encoder(read, world.vocabulary, torch.device("cpu")))
    with deployment.registry() as registry:
        model = unpack_model(registry.model(f"{run}:{number}").read(), layout)
    expected = train_together(
        read,
        world,
        world.partners,
        name="federated",
        budget=None,
        folder=out / "simulated",
        machine=Machine("process", torch.device("cpu"), 1),
        on_round=lambda record, parameters: None,
    ).parameters
    difference = float((model - expected).abs().max())
    say(f"{len(model)} parameters, largest difference from the simulation {difference:.3g}")
    return difference <= 1e-6


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
