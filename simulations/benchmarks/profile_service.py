"""Load on the profile service: real gRPC over mutual TLS, many clients, an open-loop rate, events pushed meanwhile.

    python simulations/benchmarks/profile_service.py --people 1000000 --clients 50 --rate 500 --seconds 600

A store is filled with made-up profiles (width 64, 50 recommendations out of 50,000 items) and some people's histories
are taken in. The service is a process of its own; it opens vault, histories and an encoder of 50,000 items and answers
as `silhouette profile serve` does. Two processes hold the clients, each with a connection of its own, and send at the
rate whatever the answers do: a slow answer does not slow the load down, and every latency counts from when the request
was due. Half of the requests are Recommend (ten items; the service notes what it recommended), half GetProfile. Beside
them events are pushed, and it is measured when the item is gone from the person's recommendations. `--home FOLDER`
keeps the store for another time; it is read through once before, so that a machine with the memory for it has it there.
Ends with 1 if a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from silhouette_client.ingest.mapping import parse_mapping
from silhouette_client.ingest.take_in import take_in
from silhouette_client.profiles.audit_log import LOG_NAME
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.record import ProfileRecord, Recommended, Trait
from silhouette_client.profiles.store import STORE_NAME
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving import profile_pb2_grpc as pb_grpc
from silhouette_client.serving.access import Access, Grant
from silhouette_client.serving.grpc_server import Tls, serving
from silhouette_client.serving.service import Role

if TYPE_CHECKING:  # brings torch along, which only the service needs
    from silhouette_client.profiles.node_model import NodeModel

_WARM_UP_SECONDS = 5.0
_ITEMS, _WIDTH, _RECOMMENDED, _HISTORY = 50_000, 64, 50, 100
_PROCESSES = 2  # that hold the clients
_EVENTS_A_PERSON = 40

Found = list[tuple[str, float]]  # kind, milliseconds from when it was due


def records(users: list[str]) -> Iterator[tuple[str, ProfileRecord]]:
    """Made-up profiles, one after another."""
    draw = np.random.default_rng(0)
    for place, user in enumerate(users):
        yield (
            user,
            ProfileRecord(
                model="benchmark",
                vector=draw.standard_normal(_WIDTH).astype(np.float32),
                weights={f"dimension-{k}": 0.125 for k in range(8)},
                traits={"gender": Trait("F", 0.7), "age": Trait("25-34", 0.4), "occupation": Trait("other", 0.2)},
                tags=("Drama", "Comedy", "Action"),
                recommendations=tuple(
                    Recommended(f"item-{(place * 37 + k * 91) % _ITEMS}", f"Title of item {k}", 1 - k / 50)
                    for k in range(_RECOMMENDED)
                ),
            ),
        )


def fill(home: Path, people: int, with_history: int) -> None:
    """A store with so many profiles and records of some of the people."""
    start = time.perf_counter()
    with Vault.open(home, make=KeyFile()) as vault:
        vault.put_many(records(vault.in_order(map(str, range(people)))), "benchmark", "build")
    taken = time.perf_counter() - start
    size = (home / STORE_NAME).stat().st_size / people
    print(f"{people} profiles written in {taken:.0f} s, {people / taken:.0f} a second, {size:.0f} bytes each")
    draw = np.random.default_rng(1)
    events = with_history * _EVENTS_A_PERSON
    table = pa.table(
        {
            "user": [str(user) for user in np.repeat(np.arange(with_history), _EVENTS_A_PERSON)],
            "item": [f"item-{item}" for item in draw.integers(_ITEMS, size=events)],
            "at": draw.integers(1_600_000_000, 1_700_000_000, size=events),
        }
    )
    pyarrow.parquet.write_table(table, home / "events.parquet")
    columns = {
        "user": {"column": "user"},
        "item": {"column": "item"},
        "behaviour": {"constant": "view"},
        "timestamp": {"column": "at", "unit": "s"},
    }
    mapping = parse_mapping({"consent": "elsewhere", "source": [{"table": "events", "columns": columns}]})
    take_in(home, mapping, [str(home / "events.parquet")], now=int(time.time()))


def made_up_model() -> NodeModel:
    """An encoder of full size with random weights; what it recommends does not matter here."""
    import torch

    from silhouette_client.profiles.details import Words
    from silhouette_client.profiles.node_model import NodeModel
    from silhouette_shared.config import Model
    from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary

    torch.set_num_threads(1)
    words = Vocabulary(torch.zeros(_ITEMS + 1, 0), torch.zeros(_ITEMS + 1, 0), (("gender", 2),))
    encoder = ProfileEncoder(Model(width=_WIDTH), words, _HISTORY)
    encoder.initialise(torch.Generator().manual_seed(0))
    items = tuple(f"item-{number}" for number in range(_ITEMS))
    return NodeModel(
        "benchmark", "benchmark:1", encoder.eval(), Words(items, items, (), {"gender": ("F", "M")}), private=False
    )


class OneModel:
    """A node's promoted model that never changes."""

    def stamp(self) -> tuple[int, ...]:
        """Always the same."""
        return (1,)

    def load(self) -> NodeModel:
        """The encoder of full size."""
        return made_up_model()


def serve(home: Path, tls: Tls, ports: Queue[int], stop: Signal) -> None:
    """The service as a process, until it is stopped."""
    from silhouette_client.live.keeper import Keeper

    roles = frozenset({Role.tags, Role.vectors, Role.write})
    access = Access({"load": Grant(roles=roles, requests_per_second=1e6)})
    with (
        Vault.open(home) as vault,
        Keeper(home, vault, OneModel()) as keeper,
        serving(keeper.service, vault, log=home / LOG_NAME, access=access, address="localhost:0", tls=tls) as port,
    ):
        ports.put(port)
        stop.wait()


class Clients:
    """Some clients of one process, each with a connection of its own."""

    def __init__(self, address: str, tls: Tls, count: int) -> None:
        credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.secure_channel(address, credentials, options=options) for _ in range(count)]
        self.stubs = [pb_grpc.ProfileServiceStub(channel) for channel in self.channels]
        self.found: Found = []

    async def one(self, number: int, user: str, due: float) -> None:
        """One request of the load, noted with its latency from when it was due."""
        stub = self.stubs[number % len(self.stubs)]
        kind = "Recommend" if number % 2 else "GetProfile"
        try:
            if number % 2:
                await stub.Recommend(pb.RecommendRequest(user=user, count=10), timeout=10)
            else:
                await stub.GetProfile(pb.GetProfileRequest(user=user), timeout=10)
        except grpc.aio.AioRpcError as error:
            kind = f"error {error.code().name}"
        self.found.append((kind, (time.perf_counter() - due) * 1000))

    async def load(self, people: int, rate: float, seconds: float, seed: int) -> None:
        """Send at the rate, whatever comes back."""
        draw = random.Random(seed)
        tasks: set[asyncio.Task[None]] = set()
        start = time.perf_counter() + 0.1 + seed / (rate * _PROCESSES)  # the processes take turns
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.one(number, str(draw.randrange(people)), due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=15)

    async def push(self, people: int, rate: float, seconds: float, seed: int) -> None:
        """Push an event for the item recommended first, and ask until it is recommended no more."""
        draw, stub = random.Random(f"push {seed}"), self.stubs[0]
        for number in range(int(rate * seconds)):
            await asyncio.sleep(1 / rate)
            user = str(draw.randrange(people))
            try:
                first = (await stub.Recommend(pb.RecommendRequest(user=user, count=1), timeout=10)).items[0].item
                event = pb.Event(user=user, item=first, behaviour="click", timestamp=int(time.time()))
                event.id = f"{seed}-{number}-{time.time_ns()}"
                begun = time.perf_counter()
                await stub.PushEvents(pb.PushEventsRequest(events=[event]), timeout=10)
                acknowledged = time.perf_counter()
                while (await stub.Recommend(pb.RecommendRequest(user=user, count=1), timeout=10)).items[
                    0
                ].item == first:
                    await asyncio.sleep(0.001)
                self.found.append(("push: acknowledged", (acknowledged - begun) * 1000))
                self.found.append(("push: in answers", (time.perf_counter() - begun) * 1000))
            except grpc.aio.AioRpcError as error:
                self.found.append((f"error push {error.code().name}", 0.0))


def ask(
    address: str, tls: Tls, chosen: argparse.Namespace, seed: int, phases: Queue[float], results: Queue[Found]
) -> None:
    """One process of clients: connect, then a load for each number of seconds that comes."""

    async def run() -> None:
        clients = Clients(address, tls, chosen.clients // _PROCESSES)
        await asyncio.gather(*(channel.channel_ready() for channel in clients.channels))
        while (seconds := await asyncio.to_thread(phases.get)) > 0:
            clients.found = []
            work = [clients.load(chosen.people, chosen.rate / _PROCESSES, seconds, seed)]
            if chosen.pushes:
                work.append(clients.push(chosen.histories, chosen.pushes / _PROCESSES, seconds, seed))
            await asyncio.gather(*work)
            results.put(clients.found)
        await asyncio.gather(*(channel.close() for channel in clients.channels))

    asyncio.run(run())


def certificates() -> tuple[Tls, Tls]:
    """Of the service and of the clients, of one authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])

    def sign(name: str, own: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

    authority, found = sign("benchmark", key, ca=True), []
    for name in ("localhost", "load"):
        own = ec.generate_private_key(ec.SECP256R1())
        secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        found.append(Tls(sign(name, own, ca=False), secret, authority))
    return found[0], found[1]


def memory(process: int) -> float:
    """Resident MiB of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_seconds(process: int) -> float:
    """What a process has used of the processor, in all its threads; a busy machine changes it little."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read_through(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def measure(home: Path, chosen: argparse.Namespace) -> bool:
    """Serve and load; says whether every request was answered."""
    context = multiprocessing.get_context("spawn")
    ports: Queue[int] = context.Queue()
    results: Queue[Found] = context.Queue()
    stop = context.Event()
    own, theirs = certificates()
    service = context.Process(target=serve, args=(home, own, ports, stop))
    service.start()
    address = f"localhost:{ports.get(timeout=300)}"
    phases: list[Queue[float]] = [context.Queue() for _ in range(_PROCESSES)]
    workers = [
        context.Process(target=ask, args=(address, theirs, chosen, seed, phases[seed], results))
        for seed in range(_PROCESSES)
    ]
    for worker in workers:
        worker.start()
    process = service.pid or 0

    def phase(seconds: float) -> Found:
        for queue in phases:
            queue.put(seconds)
        return [one for _ in workers for one in results.get(timeout=seconds + 120)]

    try:
        phase(_WARM_UP_SECONDS)
        before, used = memory(process), processor_seconds(process)
        found = phase(chosen.seconds)
        after, used = memory(process), processor_seconds(process) - used
    finally:
        for queue in phases:
            queue.put(0)
        stop.set()
        for one in (*workers, service):
            one.join(60)
            if one.is_alive():
                one.terminate()
    for kind in sorted({kind for kind, _ in found}):
        times = np.array([taken for one, taken in found if one == kind])
        p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
        print(
            f"{kind:<19} {len(times):>7}  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  p99.9 {p999:7.2f} ms  "
            f"largest {times.max():7.2f} ms"
        )
    print(f"processor time of the service: {1000 * used / len(found):.2f} ms a request")
    print(f"memory of the service: {before:.0f} MiB, then {after:.0f} MiB ({100 * (after / before - 1):+.1f} %)")
    failed = sum(kind.startswith("error") for kind, _ in found)
    print(f"{len(found)} requests, {failed} failed")
    return failed == 0


def main() -> None:
    """Fill, serve, load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--histories", type=int, default=10_000, help="people whose events are taken in")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=500, help="requests a second of all clients together")
    parser.add_argument("--pushes", type=float, default=2, help="events pushed a second; 0 for none")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--home", type=Path, default=None, help="keep the store here; one that is there is used")
    parser.add_argument("--fill-only", action="store_true", help="make the store and end")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = chosen.home or Path(folder)
        if not (home / "filled").exists():
            fill(home, chosen.people, min(chosen.histories, chosen.people))
            (home / "filled").touch()
        _read_through(home / STORE_NAME)
        if not chosen.fill_only and not measure(home, chosen):
            sys.exit(1)


if __name__ == "__main__":
    main()
