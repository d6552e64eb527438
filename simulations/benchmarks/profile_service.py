"""Load on the profile service: real gRPC over a Unix socket, several client processes, an open-loop rate.

    python simulations/benchmarks/profile_service.py --people 100000 --clients 4 --rate 500 --seconds 60

The store is filled with made-up profiles (width 64, 50 recommendations), the service runs as `silhouette profile serve`
in a process of its own, and each client process sends at its share of the rate whatever the answers do: a slow answer
does not slow the load down, and its wait counts. Half of the requests are Recommend, half GetProfile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.record import ProfileRecord, Recommended, Trait
from silhouette_client.profiles.vault import Vault

_WARM_UP_SECONDS = 2.0


def records(people: int) -> Iterator[tuple[str, ProfileRecord]]:
    """Made-up profiles, one after another."""
    draw = np.random.default_rng(0)
    for number in range(people):
        yield (
            str(number),
            ProfileRecord(
                model="benchmark",
                vector=draw.standard_normal(64).astype(np.float32),
                weights={f"dimension-{k}": 0.125 for k in range(8)},
                traits={"gender": Trait("F", 0.7), "age": Trait("25-34", 0.4), "occupation": Trait("other", 0.2)},
                tags=("Drama", "Comedy", "Action"),
                recommendations=tuple(
                    Recommended(f"item-{(number * 37 + k) % 50_000}", f"Title of item {k}", 1 - k / 50)
                    for k in range(50)
                ),
            ),
        )


def ask(
    socket: Path, people: int, rate: float, seconds: float, seed: int, results: Queue[list[tuple[str, float]]]
) -> None:
    """One client process: send at a fixed rate, note each answer's milliseconds from when it was due."""
    import grpc

    from silhouette_client.serving import profile_pb2 as pb
    from silhouette_client.serving import profile_pb2_grpc as pb_grpc

    found: list[tuple[str, float]] = []
    draw = random.Random(seed)
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        stub = pb_grpc.ProfileServiceStub(channel)
        start = time.perf_counter()
        pending = []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            user = str(draw.randrange(people))
            if number % 2:
                kind, call = "Recommend", stub.Recommend.future(pb.RecommendRequest(user=user, count=10), timeout=10)
            else:
                kind, call = "GetProfile", stub.GetProfile.future(pb.GetProfileRequest(user=user), timeout=10)

            def note(done: grpc.Future, kind: str = kind, due: float = due) -> None:
                taken = (time.perf_counter() - due) * 1000
                found.append((kind if done.code() is grpc.StatusCode.OK else f"error {done.code().name}", taken))

            call.add_done_callback(note)
            pending.append(call)
        for call in pending:
            call.exception()
        deadline = time.perf_counter() + 5
        while len(found) < len(pending) and time.perf_counter() < deadline:
            time.sleep(0.01)
    results.put(found)


def memory(process: int) -> float:
    """Resident MiB of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_seconds(process: int) -> float:
    """What a process has used of the processor, in all its threads; a busy machine changes it little."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Fill, serve, load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=4, help="client processes")
    parser.add_argument("--rate", type=float, default=500, help="requests a second of all clients together")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "serving.toml").write_text(
            '[clients.local]\nroles = ["tags", "vectors"]\nrequests_per_second = 100000\n', encoding="utf-8"
        )
        start = time.perf_counter()
        with Vault.open(home, make=KeyFile()) as vault:
            vault.put_many(records(arguments.people), "benchmark", "build")
        taken = time.perf_counter() - start
        size = (home / "profiles.sqlite").stat().st_size / arguments.people
        print(f"{arguments.people} profiles written at {arguments.people / taken:.0f} a second, {size:.0f} bytes each")
        service = subprocess.Popen(
            [str(Path(sys.executable).with_name("silhouette")), "profile", "serve", "--home", folder],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            if service.stderr is None or not service.stderr.readline().startswith("answering"):
                raise SystemExit("the service did not start")
            load(arguments, home / "profiles.sock", _WARM_UP_SECONDS)
            before, used = memory(service.pid), processor_seconds(service.pid)
            found = load(arguments, home / "profiles.sock", arguments.seconds)
            after, used = memory(service.pid), processor_seconds(service.pid) - used
        finally:
            service.terminate()
            service.wait(30)
    for kind in sorted({kind for kind, _ in found}):
        times = np.array([taken for one, taken in found if one == kind])
        p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
        print(f"{kind:<12} {len(times):>7}  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  p99.9 {p999:7.2f} ms")
    print(f"processor time of the service: {1000 * used / len(found):.2f} ms a request")
    print(f"memory of the service: {before:.0f} MiB, then {after:.0f} MiB")


def load(arguments: argparse.Namespace, socket: Path, seconds: float) -> list[tuple[str, float]]:
    """Run all client processes at once and gather what they noted."""
    context = multiprocessing.get_context("spawn")
    results: Queue[list[tuple[str, float]]] = context.Queue()
    clients = [
        context.Process(
            target=ask,
            args=(socket, arguments.people, arguments.rate / arguments.clients, seconds, seed, results),
        )
        for seed in range(arguments.clients)
    ]
    for client in clients:
        client.start()
    found = [one for _ in clients for one in results.get(timeout=seconds + 120)]
    for client in clients:
        client.join()
    return found


if __name__ == "__main__":
    main()
