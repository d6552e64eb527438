"""Fuzz every parser of the secure aggregation's wire format.

    pip install atheris && python -m tests.fuzz.secagg_parsers -max_total_time=600  # guided by coverage
    python -m tests.fuzz.secagg_parsers --plain 600                                 # without it, for so many seconds

Whatever comes in is decoded whole, so that encoding gives the same bytes again, or refused with a FramingError; and no
parse allocates more than twice the stated limit of a message. Anything else ends the fuzzer with the input.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
import tracemalloc
from typing import Any

from tests.shared.secagg.house import House, Wire

from silhouette_shared.secagg.framing import MESSAGE_LIMIT, FramingError, Message
from silhouette_shared.secagg.messages import MESSAGES


def one_input(data: bytes) -> None:
    """Give the bytes to every parser, as they are and behind each right header."""
    for kind in MESSAGES:
        for candidate in (data, kind._header() + data):
            check(kind, candidate)


def check(kind: type[Message], data: bytes) -> None:
    """Decode, and say what went wrong if anything did."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        message = kind.decode(data)
    except FramingError:
        return
    finally:
        taken = tracemalloc.get_traced_memory()[1] - before
        if taken > 2 * MESSAGE_LIMIT:
            raise AssertionError(f"{kind.__name__}: {taken} bytes allocated for {data.hex()}")
    if message.encode() != data:
        raise AssertionError(f"{kind.__name__}: another encoding of {data.hex()}")


def corpus() -> list[bytes]:
    """All messages of an honest round."""
    wire = Wire()
    outcome = House(3).round(wire=wire)
    return [*dict.fromkeys(data for _, _, _, data in wire.log), outcome.transcript]


def plain(seconds: float, seed: int) -> int:
    """Mutate honest messages at random for so long; how many inputs that were."""
    drawn = random.Random(seed)
    honest = corpus()
    inputs = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
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
        one_input(bytes(data))
        inputs += 1
    return inputs


def main() -> None:
    """Fuzz for ever, or for as long as was asked for."""
    tracemalloc.start()
    if "--plain" in sys.argv:
        seconds = float(sys.argv[sys.argv.index("--plain") + 1])
        sys.stdout.write(f"{plain(seconds, seed=0)} inputs to {len(MESSAGES)} parsers, nothing found\n")
        return
    try:
        atheris: Any = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("expected atheris, which is not installed; `pip install atheris`, or use `--plain SECONDS`")
    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
