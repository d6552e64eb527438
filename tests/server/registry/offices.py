"""A coordinator's home with three partners on its roster and runs in its registry, for tests of what shows them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.server.registry.house import LAYOUT, OPEN, PRIVATE, Clock, vector

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.making import make_node
from silhouette_server.enrolment.office import Office
from silhouette_server.registry import Registry, RunState, Submission
from silhouette_server.registry.home import open_registry
from silhouette_shared.cards.documents import Evaluation
from silhouette_shared.config import Plan

PARTNERS = {"north": 310, "south": 290, "west": 343}


def enrolled(home: Path) -> Office:
    """A coordinator with three partners."""
    office = Office.of(home)
    office.init("riverside", ["gate.example"])
    for name, people in PARTNERS.items():
        node = NodeHome.of(home / name)
        make_node(node, name, people)
        office.sign((node.folder / "request.json").read_bytes())
    return office


def run_rounds(
    registry: Registry,
    plan: Plan,
    last: int,
    *,
    start: str = "",
    void: tuple[int, ...] = (),
    without: dict[str, int] | None = None,
    evaluation: Evaluation | None = None,
) -> str:
    """A running run with so many rounds; `without` says from which round on a partner is missing."""
    run = registry.submit(plan, Submission(partners=PARTNERS, roster=4, start=start)).name
    registry.set_state(run, RunState.running)
    for number in range(1, last + 1):
        registry.begin_round(run, number)
        if number in void:
            registry.void_round(run, number, "training 5: west, mask: no answer; 2 of 3 answered, the threshold is 3")
            continue
        there = [name for name in PARTNERS if number < (without or {}).get(name, last + 1)]
        registry.commit_round(
            run,
            number,
            vector(number),
            LAYOUT,
            metrics={"update_norm": 2.0 * math.exp(-number / 6) + 0.2 + 0.1 * math.sin(number)},
            transcript=f"{run} {number}".encode(),
            evaluation=evaluation if number == last else None,
            seconds=7.5 + math.sin(2.0 * number),
            sent=12_300_000,
            received=12_100_000 + 9000 * number,
            survivors=there,
        )
    return run


def shown(office: Office) -> str:
    """Runs in every state worth looking at; the name of the one that is under way."""
    long = replace(PRIVATE, name="longer", privacy=replace(PRIVATE.privacy, rounds=40))
    with open_registry(office, write=True, clock=Clock(datetime.now(UTC) - timedelta(minutes=5))) as registry:
        first = run_rounds(registry, PRIVATE, 4)
        registry.set_state(first, "completed")
        registry.promote(first)
        failed = run_rounds(registry, OPEN, 2, void=(2,))
        registry.set_state(failed, "failed", "3 rounds in a row are void: bring the partners back and resume the run")
        running = run_rounds(registry, long, 23, start="promoted", void=(5,), without={"west": 20})
        registry.begin_round(running, 24)
        registry.contact("north", "connected")
    return running
