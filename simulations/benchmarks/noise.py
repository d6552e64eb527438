"""What noise from secret bytes costs against torch's own, and what is left of it beside a step.

    python simulations/benchmarks/noise.py

Both sides draw in turns, so what else the machine does falls on both; the ratio is that of the medians. Both write to
memory that is kept, as a trainer does: float32 from torch's Mersenne Twister, int64 from AES-256.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from silhouette_shared.privacy.noise import drawn_beside, rounded_gaussian
from silhouette_shared.randomness import SecureSource

STD = 2.0**17


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of this thread's processor."""
    wall, processor = time.perf_counter(), time.thread_time()
    action()
    return time.perf_counter() - wall, time.thread_time() - processor


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=6_400_000, help="coordinates of a sum")
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, secret = arguments.size, SecureSource()
    weights = torch.randn(768, 768)
    kept, place = torch.empty(size), np.empty(size, dtype=np.int64)

    def step() -> None:
        state = weights
        for _ in range(24):
            state = torch.tanh(state @ weights)

    def after() -> None:
        step()
        rounded_gaussian(size, STD, secret)

    def beside() -> None:
        drawing = drawn_beside(size, STD, secret)
        step()
        drawing.result()

    actions: dict[str, Callable[[], object]] = {
        "torch.normal": lambda: torch.normal(0.0, 1.0, (size,), out=kept),
        "secure noise": lambda: rounded_gaussian(size, STD, secret, out=place),
        "a step": step,
        "a step, then noise": after,
        "noise beside a step": beside,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for turn in range(arguments.turns + 1):
        for name, action in actions.items():
            measured = timed(action)
            if turn:  # the first one makes memory and threads
                found[name].append(measured)
    medians = {
        name: np.array([statistics.median(part) for part in zip(*turns, strict=True)]) for name, turns in found.items()
    }
    print(f"{size:,} coordinates, one thread, {arguments.turns} turns; milliseconds on the wall, of the processor")
    for name, (wall, processor) in medians.items():
        print(f"{name:<22}{1000 * wall:8.1f}{1000 * processor:8.1f}")
    wall, processor = medians["secure noise"] / medians["torch.normal"]
    print(f"secure noise takes {wall:.2f} times torch.normal ({processor:.2f} of the processor's time)")
    added = medians["noise beside a step"][0] - medians["a step"][0]
    print(f"beside a step it adds {100 * added / medians['secure noise'][0]:.0f} % of its own time")


if __name__ == "__main__":
    main()
