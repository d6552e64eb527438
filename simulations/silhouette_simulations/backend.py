"""The same Flower apps, in this process or on Flower's Ray engine.

In process there is no start-up, no copy between processes and no polling: a Grid that hands each message to the
ClientApp. Messages are built, encoded, decoded and checked exactly as they are over a network.
"""

import importlib.util
import itertools
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch

# Flower reports use to its makers unless told otherwise before it is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from silhouette_client.app import make_client_app
from silhouette_client.node_folder import DEVICE_VARIABLE, FOLDER_VARIABLE, AgentCache
from silhouette_client.training.engine import EngineName
from silhouette_shared.allocator import keep_freed_memory
from silhouette_shared.closing import Closing
from silhouette_shared.errors import SilhouetteError, UnavailableError
from silhouette_simulations.environment import environment
from silhouette_simulations.nodes import ENGINE_VARIABLE, simulated
from silhouette_simulations.nodes import app as simulated_app

Backend = Literal["process", "ray"]

_LOG = logging.getLogger(__name__)
_COORDINATOR_NODE = 1  # flwr.common.constant.SUPERLINK_NODE_ID
_CLIENT_APP_RAISED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_FIRST_NODE = 1001
_RUN_NUMBER = 1
_SECONDS_TO_DIE = 5.0
_LONGEST_TEMPORARY_PATH = 24  # the path of a socket has at most 107 bytes, and Ray adds 80 of its own


class InProcessGrid(Grid, Closing):
    """A Grid whose nodes are calls of one ClientApp in this process.

    Args:
        client_app: Answers for every node.
        nodes: How many; node i has the partition number i.
        workers: Messages answered at the same time.
    """

    def __init__(self, client_app: ClientApp, nodes: int, workers: int = 1) -> None:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = _RUN_NUMBER
        TaskIdentity.node_id = _COORDINATOR_NODE
        self._client_app = client_app
        self._run = Run.create_empty(run_id=_RUN_NUMBER)
        self._contexts = {
            _FIRST_NODE + i: Context(
                run_id=_RUN_NUMBER,
                node_id=_FIRST_NODE + i,
                node_config={"partition-id": i, "num-partitions": nodes},
                state=RecordDict(),
                run_config={},
            )
            for i in range(nodes)
        }
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="node")
        self._pending: dict[str, Future[Message]] = {}
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """Drop what has not started and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        """Take over the description of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The numbers of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start answering; returns the message numbers."""
        identifiers = []
        for message in messages:
            identifier = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = identifier
            self._pending[identifier] = self._pool.submit(self._answer, message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answers that are ready; each is handed out once."""
        return [
            self._pending.pop(identifier).result()
            for identifier in list(message_ids)
            if identifier in self._pending and self._pending[identifier].done()
        ]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Answers in the order of the messages: all of them, or those there within `timeout` seconds.

        What comes later is dropped, and what has not started by then is not started any more.
        """
        identifiers = list(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._in_order(identifiers, deadline)

    def _in_order(self, identifiers: list[str], deadline: float | None) -> Iterator[Message]:
        # One by one, so that whoever adds the answers up holds one of them and not all.
        try:
            for identifier in identifiers:
                future = self._pending[identifier]
                wait([future], timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
                if future.done():
                    yield self._pending.pop(identifier).result()
        finally:
            for identifier in identifiers:
                late = self._pending.pop(identifier, None)
                if late is not None:
                    late.cancel()

    def _answer(self, message: Message) -> Message:
        return answer(self._client_app, message, self._contexts[message.metadata.dst_node_id])


def answer(client_app: Callable[[Message, Context], Message], message: Message, context: Context) -> Message:
    """A node's answer to a message; a node that fails answers with the error, in one line."""
    try:
        return client_app(message, context)
    except Exception as error:  # noqa: BLE001 - as in Flower, a failing node answers with an error
        cause = error.__cause__ if error.__cause__ is not None else error
        if not isinstance(cause, SilhouetteError):
            _LOG.error("a node failed", exc_info=error)
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        return Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=message)


def run_apps(
    server_app: ServerApp,
    node_folder: Path,
    *,
    nodes: int,
    backend: Backend,
    device: torch.device,
    workers: int,
    engine: EngineName = "bookkeeping",
) -> None:
    """Run a ServerApp against the ClientApps of the nodes in `node_folder`.

    Args:
        server_app: Runs to its end; what it raises comes through.
        node_folder: As `silhouette_client.node_folder` writes it.
        nodes: Number of partners in it.
        backend: In this process, or on Flower's Ray engine.
        device: Where the partners train.
        workers: Partners that train at the same time.
        engine: Computes the clipped sums of private training.

    Raises:
        UnavailableError: If Ray is asked for and is not installed, does not start or stops.
    """
    if backend == "process":
        agents = AgentCache(node_folder, device, simulated(engine))
        run_in_process(server_app, make_client_app(agents.of), nodes=nodes, workers=workers)
        return
    settings = {
        FOLDER_VARIABLE: str(node_folder.resolve()),
        DEVICE_VARIABLE: str(device),
        ENGINE_VARIABLE: engine,
    }
    with environment(settings):
        run_on_ray(server_app, simulated_app, nodes=nodes, workers=workers)


def run_in_process(server_app: ServerApp, client_app: ClientApp, *, nodes: int, workers: int) -> None:
    """Run a ServerApp against `nodes` nodes that are calls of `client_app`; what it raises comes through."""
    with InProcessGrid(client_app, nodes, workers) as grid:
        server_app(grid, Context(_RUN_NUMBER, _COORDINATOR_NODE, {}, RecordDict(), {}))


def run_on_ray(server_app: ServerApp, client_app: ClientApp, *, nodes: int, workers: int) -> None:
    """The same on Flower's Ray engine: `workers` processes of a Ray that starts here and is gone at the end.

    Raises:
        UnavailableError: If Ray is not installed, does not start or stops.
    """
    if importlib.util.find_spec("ray") is None:
        raise UnavailableError(
            "expected Ray for `--backend ray`, found none; "
            'install it with `pip install "silhouette-simulations[ray]"` from the project folder, '
            "or use the default backend"
        )
    import ray
    from flwr.simulation import run_simulation
    from flwr.supercore import telemetry

    # The variable above comes too late where somebody imported Flower before this module.
    telemetry.FLWR_TELEMETRY_ENABLED = "0"
    settings = {
        "OMP_NUM_THREADS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray hides the GPU from actors that reserve none
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # Flower changes it for the actors; put back afterwards
    }
    server = _Watched(server_app)
    with environment(settings), _temporary_folder() as folder, _quiet_flower(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            run_simulation(
                server_app=server.app,
                client_app=_Answering(client_app),
                num_supernodes=nodes,
                backend_config={
                    "init_args": {
                        "address": "local",  # never somebody's cluster that a variable names
                        "num_cpus": workers,
                        "log_to_driver": False,
                        "logging_level": logging.ERROR,
                        "_temp_dir": folder,
                    },
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                },
            )
        except Exception as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise UnavailableError(
                f"expected Ray to run to its end, it stopped: {reason}; resume the run, or use the default backend"
            ) from error
        finally:
            server.stop()
            with _no_actor_outliving():
                ray.shutdown()
    server.raise_failure()


class _Answering(ClientApp):
    """A ClientApp whose failures are answers, the same ones as in process; Flower's are tracebacks."""

    def __init__(self, client_app: ClientApp) -> None:
        super().__init__()
        self._client_app = client_app

    def __call__(self, message: Message, context: Context) -> Message:
        keep_freed_memory()  # an actor is a process of its own; asking again costs microseconds
        return answer(self._client_app, message, context)


class _Watched:
    """A ServerApp in a thread of Flower's, whose own failure is kept and which ends when Ray does.

    Flower reports a failed ServerApp as a crash of its own, and leaves one waiting for answers if Ray crashes.
    """

    def __init__(self, server_app: ServerApp) -> None:
        self.app = ServerApp()
        self._failure: Exception | None = None
        self._ended = threading.Event()

        @self.app.main()
        def main(grid: Grid, context: Context) -> None:
            pull = grid.pull_messages

            def pull_while_it_runs(message_ids: Iterable[str]) -> Iterable[Message]:
                if self._ended.is_set():
                    raise UnavailableError("expected answers, but Ray has stopped")
                return pull(message_ids)

            grid.pull_messages = pull_while_it_runs  # type: ignore[method-assign]
            try:
                server_app(grid, context)
            except Exception as error:  # noqa: BLE001 - raised again where the caller waits
                self._failure = error

    def stop(self) -> None:
        """No answer will come any more."""
        self._ended.set()

    def raise_failure(self) -> None:
        """Raise what the ServerApp raised, if it did."""
        if self._failure is not None:
            raise self._failure


@contextmanager
def _no_actor_outliving() -> Iterator[None]:
    """Ray's shutdown ends its own service and returns while the actors still die by themselves; see to it."""
    actors = _ray_actors()
    yield
    deadline = time.monotonic() + _SECONDS_TO_DIE
    while actors and time.monotonic() < deadline:
        time.sleep(0.05)
        actors = {pid for pid in actors if _is_ray(pid)}
    for pid in actors:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ray_actors() -> set[int]:
    """Ray processes among the descendants of this one; none where there is no /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name in brackets may hold anything; state and parent follow the last bracket.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid for pid in found if _is_ray(pid)}


def _is_ray(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """For Ray's logs and sockets, which would stay in a folder shared by everybody on this machine."""
    usual = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ray-", dir=usual if len(usual) <= _LONGEST_TEMPORARY_PATH else "/tmp")  # noqa: S108
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.disabled
    logger.disabled = True  # what matters in it comes back as an error of ours
    try:
        yield
    finally:
        logger.disabled = before
