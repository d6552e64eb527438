"""A partner's tables in: `python simulations/benchmarks/ingest.py [--events 5000000] [--kills 10] [--folder FOLDER]`.

Writes the tables of three made-up shops (other column names, time zones, formats; 2 % bad rows of ten kinds), runs
`silhouette node ingest` once as a process of its own, compares the quarantine with what was planted, row by row, and
prints events a second and the largest memory. Ends with 1 if a planted row is missing there or another one is in it.
With `--kills` it is run a second time, killed with SIGKILL at random moments and started again each time; the files
must be the same, byte for byte, as those of the run that was not killed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from silhouette_client.ingest.folder import FOLDER, manifest_of
from silhouette_client.ingest.records import open_records
from silhouette_simulations.shop import MAPPING, Planted, write_shops

COMMAND = (sys.executable, "-c", "from silhouette_shared.cli import main; raise SystemExit(main())")


def _run(folder: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak GiB of one ingest."""
    arguments = ["node", "ingest", "--home", str(folder / "home"), "--mapping", str(folder / "mapping.toml")]
    begun = time.perf_counter()
    subprocess.run([*COMMAND, *arguments, str(folder / "tables")], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def _killed(folder: Path, kills: int, wall: float, seed: int) -> bool:
    """Run into another home with the same key, killed so many times; whether it holds the same in the end."""
    other, draw = folder / "killed", random.Random(seed)
    (other / FOLDER).mkdir(parents=True)
    shutil.copy(folder / "home" / FOLDER / "key", other / FOLDER / "key")
    arguments = ["node", "ingest", "--home", str(other), "--mapping", str(folder / "mapping.toml")]
    left, finished = kills, 0
    while left:
        with subprocess.Popen(
            [*COMMAND, *arguments, str(folder / "tables")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(draw.uniform(0, 0.6 * wall))  # a life goes on where the one before fell, and is shorter
                finished += 1
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                left -= 1
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"expected a run or a kill, got exit code {process.returncode}")
        if process.returncode == 0 and left:  # from the beginning again
            for path in (other / FOLDER / "parts", manifest_of(other / FOLDER)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run([*COMMAND, *arguments, str(folder / "tables")], check=True, stdout=subprocess.DEVNULL)
    same = _files(folder / "home" / FOLDER) == _files(other / FOLDER)
    print(
        f"killed {kills} times, {finished} runs in between came to their end: {'the same' if same else 'OTHER'} files"
    )
    return same


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of the manifest and of everything that it names."""
    paths = [manifest_of(folder), *(folder / "parts").iterdir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _compare(folder: Path, planted: Planted) -> bool:
    found = {
        (file, line, column, reason) for file, _, line, column, reason in open_records(folder / "home").quarantine()
    }
    print(f"quarantine: {len(found)} rows, {len(planted - found)} planted ones missing, {len(found - planted)} others")
    return found == planted


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0, help="then run again, killed so many times")
    parser.add_argument("--folder", type=Path, default=None, help="where the tables go; a temporary one by default")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        planted = write_shops(folder / "tables", chosen.events, seed=chosen.seed)
        (folder / "mapping.toml").write_text(MAPPING, encoding="utf-8")
        size = sum(one.stat().st_size for one in (folder / "tables").iterdir())
        print(f"{chosen.events} events in 3 tables, {size / 1e6:.0f} MB, {len(planted)} bad rows of 10 kinds")
        wall, processor, peak = _run(folder)
        print(f"ingest: {wall:.1f} s, {chosen.events / wall:,.0f} events a second; peak memory {peak:.2f} GiB")
        cores = len(os.sched_getaffinity(0))
        print(
            f"processor: {processor:.1f} s, {chosen.events / processor:,.0f} events a processor second, {cores} cores"
        )
        if not _compare(folder, planted):
            sys.exit(1)
        parts = sum(path.stat().st_size for path in folder.glob("home/node/people/parts/*"))
        print(f"records on the disk: {parts / 1e6:.0f} MB")
        if chosen.kills and not _killed(folder, chosen.kills, wall, chosen.seed):
            sys.exit(1)


if __name__ == "__main__":
    main()
