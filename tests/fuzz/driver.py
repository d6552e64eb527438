"""Drive a fuzz target: guided by coverage with atheris, or by random changes of honest inputs without it."""

from __future__ import annotations

import gc
import importlib
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

Target = Callable[[bytes], None]


class Bounded:
    """Notes the memory taken inside a `with` block, and refuses more than `limit` bytes of it."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit, self.what = limit, what

    def __enter__(self) -> None:
        tracemalloc.reset_peak()
        self.before = tracemalloc.get_traced_memory()[0]

    def __exit__(self, *_: object) -> None:
        taken = tracemalloc.get_traced_memory()[1] - self.before
        if taken > self.limit:
            raise AssertionError(f"{self.what}: {taken} bytes allocated, at most {self.limit} are allowed")


def changed(drawn: random.Random, honest: Sequence[bytes]) -> bytes:
    """An honest input with one to four changes."""
    data = bytearray(drawn.choice(honest))
    for _ in range(drawn.randint(1, 4)):
        at = drawn.randrange(len(data) + 1)
        how = drawn.randrange(5)
        if how == 0 and at < len(data):
            data[at] = drawn.randrange(256)
        elif how == 1:
            del data[at : at + drawn.choice((1, 4, 36, 68, drawn.randint(1, 200)))]
        elif how == 2:
            data[at:at] = drawn.randbytes(drawn.choice((1, 4, 36, drawn.randint(1, 200))))
        elif how == 3:
            data[at : at + 4] = drawn.choice((0, 1, 32, 64, 2**31 - 1, 2**32 - 1)).to_bytes(4, "big")
        else:
            other = drawn.choice(honest)
            start = drawn.randrange(len(other))
            data[at : at + 40] = other[start : start + drawn.randint(1, 200)]
    return bytes(data)


def plain(target: Target, honest: Sequence[bytes], seconds: float, seed: int) -> int:
    """Change honest inputs at random for so long; how many inputs that were."""
    drawn = random.Random(seed)
    inputs = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        target(changed(drawn, honest))
        inputs += 1
    return inputs


def main(target: Target, honest: Sequence[bytes]) -> None:
    """Fuzz for ever, or for as long as was asked for."""
    tracemalloc.start()
    if "--plain" in sys.argv:
        seconds = float(sys.argv[sys.argv.index("--plain") + 1])
        sys.stdout.write(f"{plain(target, honest, seconds, seed=0)} inputs, nothing found\n")
        return
    try:
        atheris: Any = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("expected atheris, which is not installed; `pip install atheris`, or use `--plain SECONDS`")
    for found in gc.get_objects():  # methods too; `instrument_all` would take minutes for torch
        if isinstance(found, FunctionType) and str(found.__module__).startswith("silhouette_shared."):
            atheris.instrument_func(found)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))  # stays: `Fuzz` ends the process and looks into it until then
    for number, data in enumerate(honest):
        (folder / f"honest-{number:03d}").write_bytes(data)
    atheris.Setup([*sys.argv, f"-artifact_prefix={folder}/", str(folder)], target)
    atheris.Fuzz()
