"""How much faster a training step is when the C library keeps freed memory.

    python simulations/benchmarks/allocator.py

Two processes take steps of the encoder in turns, one of them after `keep_freed_memory`. Turns are interleaved, so what
else the machine does falls on both; the figure is the ratio of the medians of all steps.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import IO

os.environ.setdefault("OMP_NUM_THREADS", "1")


def step_for_ever(keep: bool, arguments: argparse.Namespace) -> None:
    """Take so many steps a line on standard input; answer with the seconds of each."""
    if keep:
        from silhouette_shared.allocator import keep_freed_memory

        if not keep_freed_memory():
            sys.exit("expected glibc, which can be told to keep memory; this C library did not agree")
    import torch

    from silhouette_client.training.local import train_plainly
    from silhouette_shared.config import Model, Training
    from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
    from silhouette_shared.model.histories import Histories
    from silhouette_shared.model.vector import Layout
    from silhouette_shared.randomness import ReproducibleSource

    torch.set_num_threads(1)
    generator = ReproducibleSource(0).torch_generator()
    people, items, length = arguments.batch, arguments.items, arguments.length
    events = people * length
    histories = Histories(
        items=torch.randint(1, items + 1, (events,), generator=generator),
        behaviours=torch.ones(events, dtype=torch.int64),
        values=torch.ones(events, dtype=torch.int64),
        timestamps=torch.arange(events),
        offsets=torch.arange(people + 1) * length,
        attributes=torch.zeros(people, 0, dtype=torch.int64),
        has_times=True,
    )
    vocabulary = Vocabulary(
        categories=torch.rand(items + 1, 18, generator=generator).round(),
        content=torch.rand(items + 1, 32, generator=generator),
        attributes=(),
    )
    encoder = ProfileEncoder(Model(width=arguments.width), vocabulary, length)
    encoder.initialise(generator)
    layout = Layout.of(encoder)
    training = Training(batch_size=people, local_epochs=1)  # one batch, so one step
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            train_plainly(encoder, layout, histories, training, 1, generator)
            seconds.append(time.perf_counter() - started)
        print(*seconds, flush=True)


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--items", type=int, default=1682)
    parser.add_argument("--serve", choices=("kept", "returned"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        step_for_ever(arguments.serve == "kept", arguments)
        return
    settings = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "length", "width", "items")]
    processes = {
        kind: subprocess.Popen(
            [sys.executable, __file__, f"--serve={kind}", *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in ("returned", "kept")
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in processes}
    for process in processes.values():
        if _pipe(process.stdout).readline() != "ready\n":
            sys.exit("expected two processes that take steps, one did not start")
    for turn in range(arguments.turns + 1):
        for kind, process in processes.items():
            _pipe(process.stdin).write(f"{arguments.steps}\n")
            _pipe(process.stdin).flush()
            found = [float(text) for text in _pipe(process.stdout).readline().split()]
            if turn:  # the first turn warms up
                seconds[kind] += found
    for process in processes.values():
        _pipe(process.stdin).close()
        process.wait()
    medians = {kind: statistics.median(found) for kind, found in seconds.items()}
    print(
        f"batch {arguments.batch}, history {arguments.length}, width {arguments.width}, {arguments.items} items, "
        f"{arguments.turns} turns of {arguments.steps} steps"
    )
    print(f"memory returned: {1e3 * medians['returned']:.0f} ms a step")
    print(f"memory kept:     {1e3 * medians['kept']:.0f} ms a step")
    print(f"ratio of medians: {medians['returned'] / medians['kept']:.2f}")


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("expected a process started with pipes")
    return pipe


if __name__ == "__main__":
    main()
