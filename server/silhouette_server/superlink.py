"""Between a coordinator and its SuperLink on loopback: the only file that knows Flower's insides at the coordinator.

A run of ours outlives processes, a run of Flower's does not: it ends with the ServerApp that took its task. So a run of
Flower's is here no more than a line to the nodes. Whoever goes on with a run of ours opens a new one.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Error, Message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from silhouette_shared.errors import UnavailableError

FLOWER_VERSION = "1.41.0"
"""The version whose insides this file knows."""

POLL_SECONDS = 0.2

_LOOK_SECONDS = 2.0  # between two looks whether a node that is waited for was let in again


class LineLostError(UnavailableError):
    """The SuperLink does not answer, or does not know of a line any more; a new one can be had."""


_LOG = logging.getLogger(__name__)
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"

DESCRIPTION = b"""\
[project]
name = "silhouette"
version = "0.1.0"

[tool.flwr.app]
publisher = "silhouette"
fab-include = ["/pyproject.toml"]

[tool.flwr.app.components]
serverapp = "silhouette_server.app:app"
clientapp = "silhouette_client.app:app"
"""
"""All that is shipped to nodes: a name. It says which installed code is meant, and nodes do not even follow it."""


@dataclass(frozen=True)
class Door:
    """How to reach the SuperLink."""

    address: str  # host:port on loopback
    certificate: Path
    secret: Path  # shared with the SuperLink; whoever has it may take tasks


class Superlink:
    """Calls to the SuperLink that only the coordinator's own machine can make."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._certificate = door.certificate.read_bytes()
        self._control = ControlHttpClient.from_server_address(door.address, False, self._certificate, interceptors=())

    def close(self) -> None:
        """Drop the connection."""
        self._control.close()

    def enrol(self, keys: Collection[bytes]) -> None:
        """Make these SuperNodes' public keys, PEM, the only ones that may take part.

        Raises:
            UnavailableError: If the SuperLink does not answer.
        """
        with _said_plainly():
            known = {node.public_key: node.node_id for node in self._control.ListNodes(ListNodesRequest()).nodes_info}
            for key in keys - known.keys():
                self._control.RegisterNode(RegisterNodeRequest(public_key=key))
            for key in known.keys() - set(keys):
                self._control.UnregisterNode(UnregisterNodeRequest(node_id=known[key]))

    def nodes(self) -> dict[bytes, tuple[int, bool]]:
        """Node number and whether it is online, by public key."""
        with _said_plainly():
            found = self._control.ListNodes(ListNodesRequest()).nodes_info
        return {bytes(node.public_key): (node.node_id, node.status == "online") for node in found}

    def _let_in(self) -> dict[int, str]:
        """When each node was last let in, by number; a sign of life alone does not change it."""
        found = self._control.ListNodes(ListNodesRequest()).nodes_info
        return {node.node_id: node.last_activated_at for node in found}

    @contextmanager
    def line(self) -> Iterator["PollingGrid"]:
        """A grid to the nodes, good for as long as this process lives and the SuperLink knows of it.

        Raises:
            UnavailableError: If there is none.
        """
        with _said_plainly():
            content = bundle()
            fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
            self._drop_pending()
            started = self._control.StartRun(StartRunRequest(fab=fab_to_proto(fab), federation=NOOP_FEDERATION_ID))
            grid = self._take(started.run_id)
        grid.let_in = self._let_in
        client = grid._runtime_client  # noqa: SLF001 - Flower gives no other way to it
        alive = HeartbeatSender(_beat_of(client))
        alive.start()
        status, details = SubStatus.FAILED, "the coordinator gave it up"
        try:
            yield grid
            status, details = SubStatus.COMPLETED, ""
        finally:
            grid._retry_invoker.max_tries = 1  # noqa: SLF001 - the end waits for nobody
            with suppress(httpx.HTTPError, RunNotRunningException):
                client.PushTaskOutput(PushTaskOutputRequest(context=None, sub_status=status, details=details))
            alive.stop()
            grid.close()

    def _drop_pending(self) -> None:
        """Runs that a coordinator started and did not live to take would be handed out before ours."""
        while (token := self._acquire()) is not None:
            with _runtime(self._door, token, self._certificate) as stale:
                run = stale.PullTaskInput(PullTaskInputRequest()).run
                stale.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="nobody waits for it"))
            _LOG.info("an unused line of an earlier coordinator is dropped (%d)", run.run_id)

    def _acquire(self) -> str | None:
        interceptors = (
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=self._door.secret.read_bytes(), protected_methods=frozenset({_ACQUIRE})
            ),
        )
        with RuntimeHttpClient.from_server_address(
            self._door.address, False, self._certificate, interceptors
        ) as acquirer:
            answer = acquirer.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        return str(answer.token) if answer.HasField("task") and answer.token else None

    def _take(self, run_id: int) -> "PollingGrid":
        deadline = time.monotonic() + 30.0
        while (token := self._acquire()) is None:
            if time.monotonic() > deadline:
                self._control.StopRun(StopRunRequest(run_id=run_id))
                raise UnavailableError("expected the SuperLink to hand out a line to the nodes, it did not; restart it")
            time.sleep(POLL_SECONDS)
        grid = PollingGrid(self._door.address, False, self._certificate, token=token)
        give_up_unauthorized(grid._retry_invoker)  # noqa: SLF001 - as above
        given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())  # noqa: SLF001 - as above
        TaskIdentity.task_id = given.task_id
        TaskIdentity.run_id = given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        grid.set_run(run_from_proto(given.run))
        return grid


class PollingGrid(HttpGrid):
    """Flower's grid, which asks for answers every fifth of a second instead of every three, and says whose errors are.

    The nodes whose answers are missing when the time is up are simply missing.
    """

    on_wait: Callable[[], None] = staticmethod(lambda: None)
    """Called between two questions: for signs of life, and to stop by raising."""

    let_in: Callable[[], Mapping[int, str]] = staticmethod(dict)
    """When each node was last let in; asked before messages are sent, then every two seconds."""

    def get_node_ids(self) -> Iterable[int]:
        """The numbers of the nodes that are connected; LineLostError if the SuperLink does not say."""
        self.on_wait()
        with _said_plainly():
            return list(super().get_node_ids())

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, and wait for the answers.

        Raises:
            LineLostError: If the SuperLink does not know of this grid any more.
        """
        sent, began, fetching = list(messages), time.monotonic(), 0.0
        until = None if timeout is None else began + timeout
        with _said_plainly():
            before = self.let_in()
            asked = dict(zip(self.push_messages(sent), sent, strict=True))
            handed = looked = time.monotonic()
            answers: list[Message] = []
            while asked and (until is None or time.monotonic() < until):
                question = time.monotonic()
                found = list(self.pull_messages(set(asked)))
                for answer in found:
                    message = asked.pop(answer.metadata.reply_to_message_id, None)
                    if message is None:
                        continue
                    if answer.has_error():
                        # An error that the SuperLink makes up for a lost node has the SuperLink's own number.
                        answer.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
                    answers.append(answer)
                if found:
                    fetching += time.monotonic() - question
                elif asked:
                    if time.monotonic() - looked >= _LOOK_SECONDS:
                        looked = time.monotonic()
                        answers += _lost(asked, before, self.let_in())
                    self.on_wait()
                    time.sleep(POLL_SECONDS)
        if sent:
            _LOG.info(
                "%s: handed to the SuperLink in %.2f s, %d of %d answered after %.2f s, of which fetching took %.2f s",
                sent[0].metadata.message_type,
                handed - began,
                len(answers),
                len(sent),
                time.monotonic() - began,
                fetching,
            )
        return answers


def _lost(asked: dict[str, Message], before: Mapping[int, str], now: Mapping[int, str]) -> list[Message]:
    """Errors in the name of nodes that were let in again since they were asked; they are taken out of `asked`.

    The SuperLink answers for a node that is gone only while it is gone. One that comes back between two of our
    questions has forgotten what it was asked, and nobody would say so until the time is up.
    """
    gone = {
        number: message
        for number, message in asked.items()
        if now.get(node := message.metadata.dst_node_id) != before.get(node)
    }
    for number in gone:
        del asked[number]
    reason = "its SuperNode was started again, or was away, before it answered"
    return [Message(Error(int(ErrorCode.NODE_UNAVAILABLE), reason), reply_to=message) for message in gone.values()]


def give_up_unauthorized(invoker: RetryInvoker) -> None:
    """Make a 401 the end of a line and not of this process.

    The SuperLink answers so when it was away for longer than a line's minute. Flower's own invoker then interrupts the
    process that asks, which would have to be started again, where a new line is all that is needed.
    """
    given = invoker.should_giveup

    def should_give_up(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED:
            return True
        return given is not None and given(error)

    invoker.should_giveup = should_give_up


def bundle() -> bytes:
    """The bundle that Flower wants to ship: a description and no code, the same bytes every time."""
    return build_fab_from_files({"pyproject.toml": DESCRIPTION})[0]


def _runtime(door: Door, token: str, certificate: bytes) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        door.address,
        False,
        certificate,
        (RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"), RuntimeTokenHttpInterceptor(token)),
    )


def _beat_of(client: RuntimeHttpClient) -> Callable[[], bool]:
    def beat() -> bool:
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except (httpx.HTTPError, RunNotRunningException):
            _LOG.debug("a sign of life did not reach the SuperLink")
        return True

    return beat


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Errors of Flower's transport in our words."""
    try:
        yield
    except RunNotRunningException:
        raise UnavailableError(
            "the SuperLink gave up this coordinator's line to the nodes; a new one is needed"
        ) from None
    except ObjectPushError:
        raise LineLostError(
            "the SuperLink was started again while a message was on its way to it; see `silhouette coordinator status`"
        ) from None
    except httpx.HTTPError as error:
        raise LineLostError(
            f"expected the SuperLink to answer, got {type(error).__name__}; see `silhouette coordinator status`"
        ) from error
