"""How long a federated round takes in this process, and on Flower's Ray engine.

    python simulations/benchmarks/in_process_vs_ray.py

100 partners, a model of a million parameters, and the real path of a round: the coordinator's roster, strategy and
checks, Flower's messages, the codec and the partner's ClientApp. What a partner does with the model is cut down to
nothing, so that the engine is measured and not the training: behind the ClientApp stands an agent that answers with a
constant update. Both engines run in this one process with the same server app and client app, and their rounds take
turns, so that whatever else the machine does falls on both.
"""

import argparse
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from silhouette_client.app import make_client_app
from silhouette_server.app import make_server_app
from silhouette_server.coordination.federation import Job, RoundRecord
from silhouette_server.strategy.optimisers import ServerOptimiser
from silhouette_shared.allocator import keep_freed_memory
from silhouette_shared.config import Replies, Training
from silhouette_shared.model.vector import Layout
from silhouette_shared.wire import DescribeRequest, Description, TrainReply, TrainRequest
from silhouette_simulations.backend import Backend, run_in_process, run_on_ray

_PLAN_DIGEST = "0" * 64


class ConstantAgent:
    """Answers as a partner's agent does, with the same small update every time."""

    def __init__(self, index: int, layout: Layout, update: NDArray[np.float32]) -> None:
        self._name, self._layout, self._update = f"partner-{index:03d}", layout, update

    def describe(self, request: DescribeRequest) -> Description:
        """Who this is."""
        return Description(
            run=request.run,
            partner=self._name,
            people=10,
            plan_digest=request.plan_digest,
            layout_digest=self._layout.digest,
        )

    def train(self, request: TrainRequest) -> TrainReply:
        """The constant update, after the check of the model that a real agent makes."""
        if not np.isfinite(request.parameters).all():
            raise ValueError("expected a finite model")
        return TrainReply(run=request.run, round=request.round, plan_digest=request.plan_digest, update=self._update)


def constant_client_app(layout: Layout) -> ClientApp:
    """The real ClientApp over constant agents, made once in each process that answers."""
    agents: dict[int, ConstantAgent] = {}
    updates: list[NDArray[np.float32]] = []  # one for all agents of a process; 100 of them would be 400 MB

    def agent_of(context: Context) -> ConstantAgent:
        index = int(str(context.node_config["partition-id"]))
        if not updates:
            updates.append(np.full(layout.size, 1e-3, dtype=np.float32))
        if index not in agents:
            agents[index] = ConstantAgent(index, layout, updates[0])
        return agents[index]

    return make_client_app(agent_of)  # type: ignore[arg-type]


@dataclass
class Measured:
    """One engine's times."""

    start: float = 0.0  # seconds from the call to the first round: nodes, processes, the roster
    rounds: list[float] = field(default_factory=list)  # seconds of each round


def measure(
    backend: Backend, partners: int, parameters: int, rounds: int, workers: int, after_round: Callable[[int], None]
) -> Measured:
    """Run so many rounds on an engine; `after_round` may wait, its time counts for nothing."""
    layout = Layout(names=("model",), shapes=((parameters,),))
    measured = Measured()
    started = time.perf_counter()

    def on_round(record: RoundRecord, model: torch.Tensor) -> None:
        if record.replies != partners:
            raise RuntimeError(f"expected {partners} answers, got {record.replies}")
        if not measured.rounds:
            measured.start = time.perf_counter() - started - record.seconds
        measured.rounds.append(record.seconds)
        after_round(record.round)

    job = Job(
        run="benchmark",
        plan_digest=_PLAN_DIGEST,
        layout=layout,
        schedule=Training(rounds=rounds),
        replies=Replies(minimum=partners),
        partners=partners,
        initial=torch.zeros(parameters),
        on_round=on_round,
    )
    run = run_in_process if backend == "process" else run_on_ray
    run(make_server_app(job), constant_client_app(layout), nodes=partners, workers=workers)
    return measured


def measure_in_turns(partners: int, parameters: int, rounds: int, workers: int) -> tuple[Measured, Measured]:
    """In process and on Ray, one round each by turns; the engine in process begins, so that it starts undisturbed."""
    turns: dict[Backend, threading.Semaphore] = {"process": threading.Semaphore(0), "ray": threading.Semaphore(0)}

    def hand_over(mine: Backend, other: Backend) -> Callable[[int], None]:
        def after_round(number: int) -> None:
            turns[other].release()
            if number < rounds:
                turns[mine].acquire()

        return after_round

    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(measure, "process", partners, parameters, rounds, workers, hand_over("process", "ray"))
        turns["ray"].acquire()
        there = measure("ray", partners, parameters, rounds, workers, hand_over("ray", "process"))
        return here.result(), there


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partners", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=6, help="the first is left out of the median")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=("process", "ray"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    keep_freed_memory()
    torch.set_num_threads(1)
    # torch loads 200 modules when it makes its first optimiser; they are imports, as those above are.
    ServerOptimiser(Training(), torch.zeros(1))
    print(
        f"{arguments.partners} partners, {arguments.parameters:,} parameters, {arguments.workers} workers, "
        f"{arguments.rounds} rounds",
        flush=True,
    )
    print(f"{'engine':<12}{'start-up s':>12}{'first round s':>15}{'later rounds s':>16}", flush=True)
    sizes = (arguments.partners, arguments.parameters, arguments.rounds, arguments.workers)
    if arguments.only:
        measured = {arguments.only: measure(arguments.only, *sizes, lambda number: None)}
    else:
        here, there = measure_in_turns(*sizes)
        measured = {"process": here, "ray": there}
    # The first round is not the usual one: memory is taken, and Ray's processes load their libraries.
    later = {engine: statistics.median(found.rounds[1:] or found.rounds) for engine, found in measured.items()}
    for engine, found in measured.items():
        print(f"{engine:<12}{found.start:>12.2f}{found.rounds[0]:>15.2f}{later[engine]:>16.2f}")
    if len(later) == 2:
        print(f"a round in process takes {later['process'] / later['ray']:.3f} of one on Ray")


if __name__ == "__main__":
    main()
