"""How long a partner's people take to be profiled: read from sealed records, through the encoder, into the store.

    python simulations/benchmarks/profile_build.py --people 100000

Made-up people of 40 events each are taken in; then everybody's profile is built as `silhouette profile build` does,
with an encoder of width 64, 50,000 items and 50 recommendations. Printed are wall and processor time of each part, and
what is left to do when it is run again and nothing changed. With random weights it takes as long as with trained ones.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from profile_service import made_up_model

from silhouette_client.ingest.mapping import parse_mapping
from silhouette_client.ingest.take_in import take_in
from silhouette_client.profiles.building import PURPOSE, build_held, held_people
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.store import STORE_NAME
from silhouette_client.profiles.vault import Vault

_EVENTS_A_PERSON = 40
_MAPPING = {
    "consent": "elsewhere",
    "source": [
        {
            "table": "events",
            "columns": {
                "user": {"column": "user"},
                "item": {"column": "item"},
                "behaviour": {"constant": "view"},
                "timestamp": {"column": "at", "unit": "s"},
            },
        }
    ],
}


@contextmanager
def timed(what: str, people: int) -> Iterator[None]:
    """Print how long a part took, in all and a person."""
    wall, used = time.perf_counter(), time.process_time()
    yield
    wall, used = time.perf_counter() - wall, time.process_time() - used
    print(
        f"{what:<26} {wall:8.1f} s  {used:8.1f} s of processor  {1e6 * used / people:8.0f} us of processor a person",
        flush=True,
    )


def fill(home: Path, people: int, items: tuple[str, ...]) -> None:
    """Take in so many people's events."""
    draw = np.random.default_rng(1)
    events = people * _EVENTS_A_PERSON
    table = pa.table(
        {
            "user": [str(user) for user in np.repeat(np.arange(people), _EVENTS_A_PERSON)],
            "item": [items[item] for item in draw.integers(len(items), size=events)],
            "at": draw.integers(1_600_000_000, 1_700_000_000, size=events),
        }
    )
    pyarrow.parquet.write_table(table, home / "events.parquet")
    take_in(home, parse_mapping(_MAPPING), [str(home / "events.parquet")], now=int(time.time()))


def main() -> None:
    """Fill, build, build again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10_000)
    people = parser.parse_args().people
    model = made_up_model()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with timed("taken in", people):
            fill(home, people, model.words.items)
        with Vault.open(home, make=KeyFile()) as vault:
            with timed("read", people):
                held = held_people(home, vault, model, PURPOSE)
            with timed("built and written", people):
                done = build_held(vault, model, held, "benchmark")
            if done.written != people:
                raise SystemExit(f"expected {people} profiles, got {done.written}")
            with timed("again, nothing changed", people):
                again = build_held(vault, model, held, "benchmark")
            if again.written:
                raise SystemExit(f"expected nothing to write again, got {again.written}")
        size = (home / STORE_NAME).stat().st_size / people
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{size:.0f} bytes a profile; largest memory {largest:.0f} MiB")


if __name__ == "__main__":
    main()
