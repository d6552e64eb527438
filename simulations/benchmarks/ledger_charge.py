"""What a charge costs: `python simulations/benchmarks/ledger_charge.py [--folder FOLDER] [--charges 300]`.

Charges of one run, each with its receipt redeemed, on a ledger on this disk (and its witness in another folder), and on
one in memory, with the mechanism of a plan: capped, on a grid of a million coordinates, statistics beside. Interleaved;
medians. The last lines are opening and checking what was written, and SQLite's journals beside each other.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from silhouette_client.policy.ledger_store import Ledger, read_chain
from silhouette_client.policy.witness import FileWitness
from silhouette_shared.privacy import SampledGaussian, calibrate
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.ledger import Charge, Limits

LIMITS = Limits(epsilon_per_run=8.0, epsilon_per_year=12.0, delta=1e-6)
JOURNALS = (("WAL", "FULL"), ("TRUNCATE", "FULL"), ("DELETE", "EXTRA"))


def _charge(number: int, mechanism: SampledGaussian, purpose: str = "training") -> Charge:
    return Charge(
        run="benchmark",
        round=number,
        purpose=purpose,
        mechanism=mechanism,
        delta=LIMITS.delta,
        plan_digest="0" * 64,
        model_digest="1" * 64,
    )


def _milliseconds(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    middle, most = statistics.median(ordered), ordered[int(0.99 * len(ordered))]
    return f"median {1e3 * middle:.2f} ms, 99 % within {1e3 * most:.2f} ms"


def _journal(folder: Path, mode: str, synchronous: str, rounds: int) -> list[float]:
    connection = sqlite3.connect(folder / f"{mode}.sqlite", isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, body BLOB)")
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO entries (body) VALUES (?)", (os.urandom(700),))
        connection.execute("COMMIT")
        seconds.append(time.perf_counter() - begun)
    connection.close()
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--charges", type=int, default=300)
    arguments = parser.parse_args()
    beside = SampledGaussian(noise_multiplier=4.0, sampling_rate=1.0, steps=1, clip_norm=1.0)
    plan = calibrate(
        epsilon=8.0,
        delta=LIMITS.delta,
        sampling_rate=0.02,
        steps=2 * arguments.charges,  # the first half of a run: RDP is enough
        clip_norm=1.0,
        beside=[beside],
        people_bound=10_000,
        grid=Grid.of(1.0, 20),
        size=1_000_000,
    )
    step = replace(plan, steps=1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        home, other = Path(name) / "home", Path(name) / "witness"
        home.mkdir()
        other.mkdir()
        path = home / "ledger.sqlite"
        disk = Ledger.open(path, node="benchmark", limits=LIMITS, witness=FileWitness(other))
        memory = Ledger.in_memory(LIMITS)
        seconds: dict[str, list[float]] = {"on the disk": [], "in memory": []}
        for ledger in (disk, memory):
            ledger.charge(_charge(0, beside, "statistics")).redeem(beside)
        for number in range(1, arguments.charges + 1):
            for label, ledger in (("on the disk", disk), ("in memory", memory)):
                begun = time.perf_counter()
                ledger.charge(_charge(number, step)).redeem(step)
                seconds[label].append(time.perf_counter() - begun)
        for label, found in seconds.items():
            print(f"charge and redeem {label}: {_milliseconds(found)}, {1 / statistics.median(found):.0f} a second")
        disk.close()
        begun = time.perf_counter()
        entries = len(read_chain(path))
        print(f"reading and checking {entries} entries: {1e3 * (time.perf_counter() - begun):.0f} ms")
        print(f"bytes an entry: {path.stat().st_size / entries:.0f}")
        near = Ledger.in_memory(LIMITS)
        near.charge(_charge(0, beside, "statistics"))
        near.charge(_charge(1, plan.after(plan.steps - 3)))
        last = []
        for number in range(2, 5):
            begun = time.perf_counter()
            near.charge(_charge(number, step))
            last.append(time.perf_counter() - begun)
        print(f"near the limit of a run, where PLD is asked unless the run was foreseen: {_milliseconds(last)}")
        for mode, synchronous in JOURNALS:
            found = _journal(Path(name), mode, synchronous, arguments.charges)
            print(f"a bare commit, journal {mode}, synchronous {synchronous}: {_milliseconds(found)}")


if __name__ == "__main__":
    main()
