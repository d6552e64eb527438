"""The same Flower apps, in this process or on Flower's Ray engine.

In process there is no start-up, no copy between processes and no polling: a Grid that hands each message to the
ClientApp. Messages are built, encoded, decoded and checked exactly as they are over a network.
"""

import importlib.util
import itertools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

# Flower reports use to its makers unless told otherwise before it is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from silhouette_client.app import make_client_app
from silhouette_client.node_folder import DEVICE_VARIABLE, FOLDER_VARIABLE, AgentCache
from silhouette_shared.errors import SilhouetteError, UnavailableError

Backend = Literal["process", "ray"]

_LOG = logging.getLogger(__name__)
_COORDINATOR_NODE = 1  # flwr.common.constant.SUPERLINK_NODE_ID
_CLIENT_APP_RAISED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_FIRST_NODE = 1001
_RUN_NUMBER = 1


class InProcessGrid(Grid):
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

    def __enter__(self) -> "InProcessGrid":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        """Answers to all messages, or to those answered within `timeout` seconds."""
        identifiers = list(self.push_messages(messages))
        wait([self._pending[identifier] for identifier in identifiers], timeout=timeout)
        return self.pull_messages(identifiers)

    def _answer(self, message: Message) -> Message:
        try:
            return self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # noqa: BLE001 - as in Flower, a failing node answers with an error
            cause = error.__cause__ if error.__cause__ is not None else error
            if not isinstance(cause, SilhouetteError):
                _LOG.error("a node failed", exc_info=error)
            reason = f"{type(cause).__name__}: {cause}"
            return Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=message)


def run_apps(
    server_app: ServerApp,
    node_folder: Path,
    *,
    nodes: int,
    backend: Backend,
    device: torch.device,
    workers: int,
) -> None:
    """Run a ServerApp against the ClientApps of the nodes in `node_folder`.

    Args:
        server_app: Runs to its end; what it raises comes through.
        node_folder: As `silhouette_client.node_folder` writes it.
        nodes: Number of partners in it.
        backend: In this process, or on Flower's Ray engine.
        device: Where the partners train.
        workers: Partners that train at the same time.

    Raises:
        UnavailableError: If Ray is asked for and not installed.
    """
    if backend == "process":
        client_app = make_client_app(AgentCache(node_folder, device).of)
        with InProcessGrid(client_app, nodes, workers) as grid:
            context = Context(_RUN_NUMBER, _COORDINATOR_NODE, {}, RecordDict(), {})
            server_app(grid, context)
        return
    _run_on_ray(server_app, node_folder, nodes=nodes, device=device, workers=workers)


def _run_on_ray(server_app: ServerApp, node_folder: Path, *, nodes: int, device: torch.device, workers: int) -> None:
    if importlib.util.find_spec("ray") is None:
        raise UnavailableError(
            "expected Ray for `--backend ray`, found none; "
            'install it with `pip install "silhouette-simulations[ray]"` from the project folder, '
            "or use the default backend"
        )
    from flwr.simulation import run_simulation

    from silhouette_client.app import app as client_app

    settings = {
        FOLDER_VARIABLE: str(node_folder.resolve()),
        DEVICE_VARIABLE: str(device),
        "OMP_NUM_THREADS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray hides the GPU from actors that reserve none
    }
    with _environment(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with _quiet_flower():
            run_simulation(
                server_app=server_app,
                client_app=client_app,
                num_supernodes=nodes,
                backend_config={
                    "init_args": {"num_cpus": workers, "log_to_driver": False},
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                },
            )


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
