"""What the executor takes from a SuperNode, and that it knows the version of Flower that is installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import io
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullAppMessagesRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp
from hypothesis import given
from hypothesis import strategies as st

from silhouette_client import executor
from silhouette_client.executor import HARMLESS, Bundle, RefusedBundleError, check_bundle
from silhouette_server import superlink
from silhouette_server.superlink import PollingGrid, bundle

PULL_TASK_INPUT = "5607a23e1673ee876930c1b35685b8dfdfd8b3776a436560b0467042e15fc695"
"""SHA-256 of Flower's function, whose place `pull_input` takes."""


def packed(files: Mapping[str, bytes]) -> Bundle:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return Bundle(content.getvalue(), hashlib.sha256(content.getvalue()).hexdigest())


def test_the_bundle_that_our_coordinator_ships_is_a_description_and_passes() -> None:
    content = bundle()
    digest = hashlib.sha256(content).hexdigest()
    assert check_bundle(Bundle(content, digest)) == digest
    assert bundle() == content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert set(archive.namelist()) <= HARMLESS


@pytest.mark.parametrize(
    "name",
    [
        "silhouette_client/app.py",
        "torch.so",
        "a.pyc",
        "sitecustomize.py",
        "x.pth",
        "../evil.py",
        "pyproject.toml.py",
        "a",
    ],
)
def test_a_bundle_with_anything_that_could_run_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        RefusedBundleError, match=r"expected a bundle without code, got .* nothing of it was unpacked"
    ) as told:
        check_bundle(packed({"pyproject.toml": b"", name: b"import os"}))
    assert repr(name) in str(told.value)
    assert told.value.exit_code == 3


def test_a_bundle_other_than_the_announced_one_is_refused() -> None:
    made = packed({"pyproject.toml": b""})
    with pytest.raises(RefusedBundleError, match="expected the announced bundle 000000000000, "):
        check_bundle(Bundle(made.content, "0" * 64))


@given(st.binary(max_size=300))
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedBundleError):
        check_bundle(Bundle(content, hashlib.sha256(content).hexdigest()))


def test_the_insides_of_flower_that_we_use_are_those_of_the_installed_version() -> None:
    """Another version may work; whoever installs it has to look at both files first, and change the number."""
    installed = importlib.metadata.version("flwr")
    assert installed == executor.FLOWER_VERSION == superlink.FLOWER_VERSION
    assert (str(TaskType.CLIENT_APP), str(TaskType.SERVER_APP)) == ("flwr-clientapp", "flwr-serverapp")
    assert "supported_task_types" in {field.name for field in AcquireTaskRequest.DESCRIPTOR.fields}
    assert "message_ids" in {field.name for field in PullAppMessagesRequest.DESCRIPTOR.fields}
    for name in ("AcquireTask", "SendTaskHeartbeat", "PullMessages", "PullTaskInput", "PushTaskOutput"):
        assert list(inspect.signature(getattr(RuntimeHttpClient, name)).parameters) == ["self", "request"]
    for function, parameters in (
        (run_clientapp.push_message, ["client", "message", "context"]),
        (run_clientapp.push_task_output, ["client", "context", "sub_status", "details"]),
    ):
        assert list(inspect.signature(function).parameters) == parameters
    pulling = inspect.signature(pull_and_inflate_object_from_tree).parameters
    assert {"return_type", "max_tries_per_object", "initial_backoff", "backoff_cap"} <= set(pulling)
    # What our `pull_input` does in Flower's place.
    theirs = inspect.getsource(run_clientapp.pull_task_input)
    assert hashlib.sha256(theirs.encode()).hexdigest() == PULL_TASK_INPUT
    assert list(inspect.signature(Fab).parameters) == ["hash_str", "content", "verifications"]
    assert {"push_messages", "pull_messages", "send_and_receive", "get_node_ids"} <= set(dir(PollingGrid))
    # The whole of it: hash, then input, then answer; no unpacking and no import of what was shipped.
    assert "install_from_fab" not in inspect.getsource(executor)


def test_a_task_that_a_process_did_not_live_to_answer_is_remembered_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    assert executor._remembered(path) is None
    executor._remember(path, "token")
    assert executor._remembered(path) == "token"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("half of a")
    assert executor._remembered(path) is None
    assert not path.exists()


def test_a_supernode_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    def app(message: Message, context: Context) -> Message:
        return message

    made = executor.Executor("127.0.0.1:1", b"secret", app, memory=tmp_path / "task.json")
    assert made._acquire() is None
    assert made._away


def test_a_message_whose_run_has_ended_is_given_up_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a SuperNode leaves it when the coordinator's ServerApp dies while a message is on its way."""
    dead, alive = threading.Event(), packed({"pyproject.toml": b""})
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    message = Message(RecordDict(), 2, "query.hello")
    message.metadata.__dict__["_message_id"] = "1"
    context = Context(1, 2, {}, RecordDict(), {})
    told: list[tuple[str, str]] = []

    class Client:
        def __init__(self, address: str, token: str) -> None:
            self.token = token

        def close(self) -> None:
            told.append((self.token, "closed"))

    def pull(client: Client) -> tuple[Message, Context, Fab]:
        if client.token == "dead":
            dead.wait(120)
        return message, context, Fab(alive.announced, alive.content, {})

    monkeypatch.setattr(executor, "_task_client", Client)
    monkeypatch.setattr(executor, "pull_input", pull)
    monkeypatch.setattr(executor, "_beat_of", lambda client: lambda: True)
    monkeypatch.setattr(
        executor, "push_message", lambda client, reply, context: told.append((client.token, "answered"))
    )
    monkeypatch.setattr(
        executor,
        "push_task_output",
        lambda client, context, sub_status, details: told.append((client.token, str(sub_status))),
    )
    stop, tokens = threading.Event(), iter(["dead", None, "alive"])

    def app(asked: Message, given: Context) -> Message:
        stop.set()
        return Message(RecordDict(), reply_to=asked)

    made = executor.Executor("127.0.0.1:1", b"secret", app, memory=tmp_path / "task.json")
    monkeypatch.setattr(made, "_acquire", lambda: next(tokens, None))
    made.serve(stop)
    dead.set()
    assert told == [
        ("dead", str(SubStatus.FAILED)),
        ("dead", "closed"),
        ("alive", "answered"),
        ("alive", str(SubStatus.COMPLETED)),
        ("alive", "closed"),
    ]
    assert not (tmp_path / "task.json").exists()


class Closing(BaseHTTPRequestHandler):
    """A server that closes the first connections without an answer, as one does that was idle for long."""

    breaks, asked = 1, 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        if type(self).asked <= self.breaks:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(("breaks", "answered"), [(1, True), (2, True), (3, False)])
def test_a_call_whose_connection_broke_is_repeated_twice(breaks: int, answered: bool) -> None:
    server = HTTPServer(("127.0.0.1", 0), type("Breaking", (Closing,), {"breaks": breaks, "asked": 0}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = executor._client(f"127.0.0.1:{server.server_port}")
    try:
        if answered:
            assert not client.AcquireTask(AcquireTaskRequest()).HasField("task")
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                client.AcquireTask(AcquireTaskRequest())
    finally:
        client.close()
        server.shutdown()
        server.server_close()


def test_a_message_that_was_lost_on_the_way_is_answered_with_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or the SuperNode, which lives, would wait for an answer for ever."""
    told: list[str] = []

    class Client:
        def __init__(self, address: str, token: str) -> None:
            self.token = token

        def close(self) -> None:
            told.append("closed")

    def pull(client: Client) -> tuple[Message, Context, Fab]:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    def answer(address: str, memory: Path) -> None:
        told.append(f"answered for {executor._remembered(memory)}")

    monkeypatch.setattr(executor, "_task_client", Client)
    monkeypatch.setattr(executor, "pull_input", pull)
    monkeypatch.setattr(executor, "_beat_of", lambda client: lambda: True)
    monkeypatch.setattr(executor, "answer_for_the_dead", answer)
    monkeypatch.setattr(executor, "push_task_output", lambda client, context, sub_status, details: None)
    made = executor.Executor("127.0.0.1:1", b"secret", lambda message, context: message, memory=tmp_path / "task.json")
    monkeypatch.setattr(made, "_acquire", lambda: None)
    assert made._work("token") is None
    assert told == ["answered for token", "closed"]
    assert not (tmp_path / "task.json").exists()


def test_a_refused_bundle_is_answered_with_the_reason_and_the_app_is_not_called(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def app(asked: Message, given: Context) -> Message:
        raise AssertionError("not called")

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    message = Message(RecordDict(), 2, "query.hello")
    message.metadata.__dict__["_message_id"] = "1"
    made = executor.Executor("127.0.0.1:1", b"secret", app, memory=tmp_path / "task.json")
    bad = packed({"pyproject.toml": b"", "silhouette_client/app.py": b"import os"})
    context = Context(1, 2, {}, RecordDict(), {})
    for _ in range(2):
        reply = made._reply(message, context, Fab(bad.announced, bad.content, {}))
        assert reply.error.code == ErrorCode.INVALID_FAB
        assert str(reply.error.reason).startswith("RefusedBundleError: expected a bundle without code")
    assert caplog.text.count("refused a bundle") == 1  # said once for each bundle


def test_the_text_of_an_unforeseen_error_stays_at_the_partner(tmp_path: Path) -> None:
    def app(asked: Message, given: Context) -> Message:
        raise ValueError("user 17 bought a hat")

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    message = Message(RecordDict(), 2, "query.hello")
    message.metadata.__dict__["_message_id"] = "1"
    good = packed({"pyproject.toml": b""})
    made = executor.Executor("127.0.0.1:1", b"secret", app, memory=tmp_path / "task.json")
    reply = made._reply(message, Context(1, 2, {}, RecordDict(), {}), Fab(good.announced, good.content, {}))
    assert reply.error.reason == "SilhouetteError: the partner failed with ValueError; see its log"
