"""Between a SuperNode and the installed ClientApp: the only file that knows Flower's insides at a node.

Out of the box a SuperNode runs whatever bundle the coordinator ships, with the bundle first on the import path. Here
the SuperNode runs with `--isolation process`, and this long-lived process takes its tasks. The bundle is hashed and
dropped: it is never unpacked and nothing in it is imported. One that carries anything beside its description is
refused. What answers is the ClientApp that the partner installed, in a process that is warm.

Flower gives no promise about what is used here; a test holds it to one version.
"""

import hashlib
import io
import json
import logging
import os
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, fab_from_proto, message_from_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from silhouette_shared.errors import SilhouetteError
from silhouette_shared.supervision import Heart

FLOWER_VERSION = "1.41.0"
"""The version whose insides this file knows."""

POLL_SECONDS = 0.2

HARMLESS = frozenset({"pyproject.toml", "LICENSE", ".info/CONTENT"})
"""What a bundle may hold: its description. Everything else could be code, or be read by code."""

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_PART_SECONDS, _PART_LONGEST_SECONDS = 0.1, 1.0  # between two questions for a part of a message
_AGAIN_SECONDS = (0.1, 0.5)  # before a call is repeated whose connection broke
_AWAY_SECONDS = 1.0  # between attempts at a SuperNode that does not answer
_LONGEST_ANSWER = 3600.0  # seconds that one message may take before this process counts as hanging

_LOG = logging.getLogger(__name__)

App = Callable[[Message, Context], Message]


class RefusedBundleError(SilhouetteError):
    """The coordinator shipped a bundle that this node does not take a message with."""

    exit_code = 3


@dataclass(frozen=True)
class Bundle:
    """What a coordinator shipped."""

    content: bytes
    announced: str  # SHA-256 that the run says it has, hexadecimal


def check_bundle(bundle: Bundle) -> str:
    """The bundle's SHA-256, if it may be: as announced, and without anything that could run.

    Raises:
        RefusedBundleError: Otherwise; the message names the reason and up to three files.
    """
    found = hashlib.sha256(bundle.content).hexdigest()
    if found != bundle.announced:
        raise RefusedBundleError(
            f"expected the announced bundle {bundle.announced[:12]}, got {found[:12]}; nothing was run"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(bundle.content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise RefusedBundleError(f"expected bundle {found[:12]} to be an archive, got something else") from None
    more = [name for name in names if name not in HARMLESS]
    if more:
        shown = ", ".join(repr(name[:60]) for name in sorted(more)[:3])
        raise RefusedBundleError(
            f"expected a bundle without code, got {found[:12]} with {len(more)} more files ({shown}); "
            "nothing of it was unpacked or run"
        )
    return found


class Executor:
    """Takes the tasks of one SuperNode, one after the other.

    Args:
        address: Of the SuperNode's own interface on loopback, host:port.
        secret: That the SuperNode was started with.
        app: Answers messages; the installed one.
        memory: File in which the open task is kept, so that after a kill its message is answered with an error at once.
        heart: Told that this process lives.
        outbox: Writes down what leaves, before it does; nothing leaves if it cannot.
    """

    def __init__(
        self,
        address: str,
        secret: bytes,
        app: App,
        *,
        memory: Path,
        heart: Heart | None = None,
        outbox: Callable[[Message], None] = lambda reply: None,
    ) -> None:
        self._address, self._app, self._memory, self._outbox = address, app, memory, outbox
        self._heart = heart or Heart(None)
        self._acquirer = _client(
            address,
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE})),
        )
        self._away = False
        self._refused: set[str] = set()

    def serve(self, stop: threading.Event) -> None:
        """Answer messages until `stop`."""
        answer_for_the_dead(self._address, self._memory)
        token: str | None = None
        while not stop.is_set():
            self._heart.beat()
            token = token or self._acquire()
            if token is None:
                stop.wait(_AWAY_SECONDS if self._away else POLL_SECONDS)
                continue
            token = self._work(token)
        self._acquirer.close()

    def _acquire(self) -> str | None:
        try:
            answer = self._acquirer.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        except httpx.HTTPError as error:
            if not self._away:
                _LOG.warning("the SuperNode does not answer (%s); asking again every second", type(error).__name__)
            self._away = True
            return None
        if self._away:
            _LOG.info("the SuperNode answers again")
        self._away = False
        return str(answer.token) if answer.HasField("task") and answer.token else None

    def _work(self, token: str) -> str | None:
        """One task: fetch, check, answer, send. What fails ends this task and no other.

        Returns:
            The task to go on with, if this one turned out to be dead; else None.
        """
        _remember(self._memory, token)
        client = _task_client(self._address, token)
        alive = HeartbeatSender(_beat_of(client))
        alive.start()
        context: Context | None = None
        status, details = SubStatus.FAILED, "the task could not be fetched"
        started = time.monotonic()
        try:
            fetch = _Fetch(client)
            if (newer := self._await(fetch)) is not None:
                _LOG.warning("a message whose run has ended is given up")
                return newer
            message, context, fab = fetch.result()
            fetched = time.monotonic()
            with self._heart.beating(_LONGEST_ANSWER):
                reply = self._reply(message, context, fab)
                answered = time.monotonic()
                try:
                    self._outbox(reply)
                except SilhouetteError as error:
                    _LOG.error("%s answered, but it cannot be written down: %s", message.metadata.message_type, error)
                    details = "the answer could not be written down, so it was not sent"
                    return None
                if not reply.has_error():
                    status, details = SubStatus.COMPLETED, ""
                push_message(client, reply, context)
            _LOG.info(
                "%s answered: fetched in %.2f s, worked for %.2f s, sent in %.2f s",
                message.metadata.message_type,
                fetched - started,
                answered - fetched,
                time.monotonic() - answered,
            )
        except (httpx.HTTPError, RuntimeError) as error:
            _LOG.warning("a message is lost between agent and SuperNode (%s)", type(error).__name__)
            # A SuperNode that lives waits for an answer to it, for ever, and asks for no other message.
            answer_for_the_dead(self._address, self._memory)
        finally:
            with suppress(httpx.HTTPError):
                push_task_output(client=client, context=context, sub_status=status, details=details)
            alive.stop()
            client.close()
            self._memory.unlink(missing_ok=True)
        return None

    def _await(self, fetch: "_Fetch") -> str | None:
        """Wait for a message, or for a newer task.

        A SuperNode that hears in the middle of a message that its run has ended leaves the task as it is, and the rest
        of the message never comes. It has one message at a time, so another task means that this one is dead.
        """
        while not fetch.done.wait(POLL_SECONDS):
            self._heart.beat()
            if (newer := self._acquire()) is not None:
                return newer
        return None

    def _reply(self, message: Message, context: Context, fab: Fab) -> Message:
        """The app's answer, or an error in our words."""
        try:
            check_bundle(Bundle(fab.content, fab.hash_str))
        except RefusedBundleError as error:
            if fab.hash_str not in self._refused:
                self._refused.add(fab.hash_str)
                _LOG.error("refused a bundle: %s", error)
            return _error(message, ErrorCode.INVALID_FAB, error)
        try:
            return self._app(message, context)
        except Exception as error:  # noqa: BLE001 - a failing app answers with an error, as in Flower
            cause = error.__cause__ if isinstance(error.__cause__, SilhouetteError) else error
            if isinstance(cause, SilhouetteError):
                _LOG.warning("answered %s with a refusal: %s", message.metadata.message_type, cause)
            else:
                _LOG.exception("the answer to %s failed", message.metadata.message_type)
                cause = SilhouetteError(f"the partner failed with {type(error).__name__}; see its log")
            return _error(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, cause)


def pull_input(client: RuntimeHttpClient) -> tuple[Message, Context, Fab]:
    """A task's message, context and bundle, as Flower's `pull_task_input` gets them.

    The SuperNode hands a task out before it has the parts of its message. Flower's own function asks for a missing part
    again after a second or more; this one after a tenth.
    """
    given = client.PullTaskInput(PullTaskInputRequest())
    TaskIdentity.task_id = given.task_id
    TaskIdentity.run_id = given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    context, fab = context_from_proto(given.context), fab_from_proto(given.fab)
    waiting = client.PullMessages(PullAppMessagesRequest())
    if not waiting.messages_list:
        raise RuntimeError("expected a message with the task, the SuperNode has none")
    tree, node = waiting.message_object_trees[0], Node(node_id=context.node_id)
    message = pull_and_inflate_object_from_tree(
        tree,
        make_pull_object_fn_protobuf(client.PullObject, node, context.run_id),
        make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, context.run_id),
        return_type=Message,
        max_tries_per_object=None,
        initial_backoff=_PART_SECONDS,
        backoff_cap=_PART_LONGEST_SECONDS,
    )
    message.metadata.__dict__["_message_id"] = tree.object_id  # it does not contain its own number
    return message, context, fab


class _Fetch:
    """A task's message on its way, in a thread: every part of it is waited for, for two hours."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self.done = threading.Event()
        self._found: tuple[Message, Context, Fab] | None = None
        self._failure: Exception | None = None
        threading.Thread(target=self._run, args=(client,), daemon=True, name="fetch").start()

    def _run(self, client: RuntimeHttpClient) -> None:
        try:
            self._found = pull_input(client)
        except Exception as error:  # noqa: BLE001 - raised again where the result is asked for
            self._failure = error
        finally:
            self.done.set()

    def result(self) -> tuple[Message, Context, Fab]:
        """The message with its context and bundle, once it is done; what the fetching raised otherwise."""
        if self._failure is not None:
            raise self._failure
        if self._found is None:
            raise RuntimeError("expected a message that was fetched, got none yet")
        return self._found


def answer_for_the_dead(address: str, memory: Path) -> None:
    """Answer the message that a former process took and did not live to answer.

    Without this the SuperNode waits for that answer until its task lapses, about a minute, and asks nobody else. It is
    called before anything heavy is imported.

    Args:
        address: Of the SuperNode's own interface, host:port.
        memory: As the former process had it.
    """
    token = _remembered(memory)
    if token is None:
        return
    client = _task_client(address, token)
    try:
        answer = client.PullMessages(PullAppMessagesRequest())
        if answer.messages_list:
            message = message_from_proto(answer.messages_list[0])
            metadata = message.metadata
            TaskIdentity.task_id = 0
            TaskIdentity.run_id, TaskIdentity.node_id = metadata.run_id, metadata.dst_node_id
            context = Context(metadata.run_id, metadata.dst_node_id, {}, RecordDict(), {})
            lost = SilhouetteError("the partner's agent ended while it worked on this message, and is started again")
            push_message(client, _error(message, ErrorCode.CLIENT_APP_CRASHED, lost), context)
            push_task_output(client=client, context=None, sub_status=SubStatus.FAILED, details=str(lost))
            _LOG.warning("a message that an earlier process did not finish is answered with an error")
    except (httpx.HTTPError, RuntimeError, ValueError) as error:
        _LOG.info("the task of an earlier process is gone (%s)", type(error).__name__)
    finally:
        client.close()
        memory.unlink(missing_ok=True)


class Again:
    """Repeats a call whose connection broke, in the place of Flower's invoker, which ends the process at times.

    A SuperNode closes a connection that was idle for 5 s, at times just as the next call is on its way. A call that
    nobody answers is not repeated: the SuperNode is gone then, and its messages with it.
    """

    def invoke(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        """The answer, after at most three attempts."""
        for pause in _AGAIN_SECONDS:
            try:
                return call()
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                time.sleep(pause)
        return call()


def _client(address: str, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=interceptors,
        retry_invoker=cast(RetryInvoker, Again()),
    )


def _task_client(address: str, token: str) -> RuntimeHttpClient:
    return _client(
        address, RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), RuntimeTokenHttpInterceptor(token)
    )


def _error(message: Message, code: int, error: SilhouetteError) -> Message:
    return Message(Error(code=code, reason=f"{type(error).__name__}: {' '.join(str(error).split())}"), reply_to=message)


def _beat_of(client: RuntimeHttpClient) -> Callable[[], bool]:
    """A task's sign of life. Flower's own ends the process when the task is gone; here only its answer is not sent."""

    def beat() -> bool:
        with suppress(httpx.HTTPError):
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        return True

    return beat


def _remember(path: Path, token: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump({"token": token}, file)
    partial.replace(path)


def _remembered(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["token"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        _LOG.warning("%s is damaged; the open task, if there was one, lapses by itself", path)
        path.unlink(missing_ok=True)
        return None
