"""A coordinator's registry whose process is killed at random moments: `python kill_loop.py FOLDER KILLS SEED`.

One process imports everything once and forks a child for each life. A child opens the registry, gives the rounds that
the life before left without an end their end, and begins and commits rounds until it is killed. What it was told is
committed it appends to a file.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.server.registry.house import committed, opened, started

RUN = "open-1"


def live(folder: Path, told: int) -> None:
    with opened(folder) as registry:
        for number in registry.unfinished(RUN):
            registry.void_round(RUN, number, "interrupted")
        while True:
            number = registry.last_begun(RUN) + 1
            committed(registry, RUN, number)
            os.write(told, f"{number}\n".encode())


def main(folder: Path, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    with opened(folder) as registry:
        started(registry)
    told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for life in range(kills):
        child = os.fork()
        if child == 0:
            try:
                live(folder, told)
            finally:
                os._exit(1)
        before, seconds = os.fstat(told).st_size, draw.uniform(0.02, 0.4)
        while life % 2 and os.fstat(told).st_size == before and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.01)  # every other life commits a round, however slow the machine is
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"life {life} ended by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
