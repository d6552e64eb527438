"""The coordinator's line to the nodes, where Flower's own ways would cost more than a line."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.server.superlink.linkstate.linkstate import LinkState
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from silhouette_server import superlink
from silhouette_server.superlink import LineLostError, PollingGrid, give_up_unauthorized


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://127.0.0.1/v1/runtime/pull-messages")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def test_a_line_that_the_superlink_does_not_know_any_more_does_not_interrupt_this_process() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    invoker = make_simple_http_retry_invoker()
    give_up_unauthorized(invoker)

    def ask() -> None:
        raise answered(401)

    try:
        with pytest.raises(httpx.HTTPStatusError):
            invoker.invoke(ask)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == []


def test_a_superlink_that_forgot_half_of_a_message_costs_the_line_and_not_the_run() -> None:
    """As one does that was killed while the coordinator sent a message's parts."""

    class Grid(PollingGrid):
        def __init__(self) -> None:
            """Without a connection."""

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            raise ObjectPushError("1234", 1, "5678")

    with pytest.raises(LineLostError, match="started again while a message was on its way"):
        Grid().send_and_receive([])


def test_every_other_answer_is_taken_as_flower_takes_it() -> None:
    invoker = make_simple_http_retry_invoker()
    give_up_unauthorized(invoker)
    assert invoker.should_giveup is not None
    assert [invoker.should_giveup(answered(status)) for status in (503, 404)] == [False, True]
    with pytest.raises(RunNotRunningException):
        invoker.should_giveup(answered(403))


class Line(PollingGrid):
    """A grid on the books of a real SuperLink, without the transport between them."""

    def __init__(self, books: LinkState, run: int) -> None:
        self.books, self.run_id = books, run
        self.let_in = lambda: {node.node_id: node.last_activated_at for node in books.get_node_info()}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = message.object_id
            assert self.books.store_message_ins(message) is not None
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.books.get_message_res(set(message_ids), self.run_id)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(superlink, "_LOOK_SECONDS", 0.3)
    books = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()).state()
    run = books.create_run(None, None, "0" * 64, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
    for name, value in (("_run_id", run), ("_node_id", SUPERLINK_NODE_ID), ("_task_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)
    return Line(books, run)


def node_of(books: LinkState, heartbeat_interval: float) -> int:
    node = books.create_node("", "", b"key", heartbeat_interval)
    assert books.activate_node(node, heartbeat_interval)
    return node


def test_a_node_that_is_back_before_anybody_saw_it_gone_is_said_to_be_lost_at_once(line: Line) -> None:
    """The SuperLink makes up an answer only while a node is gone, and never hands a message out again."""
    books, asked = line.books, 0
    node = node_of(books, 30.0)  # there for as long as it takes to send

    def die_over_it_and_come_back() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            assert len(books.get_message_ins(node, 1)) == 1
            assert books.acknowledge_node_heartbeat(node, 0.05)  # gone after a tenth of a second
            time.sleep(0.15)
            assert books.activate_node(node, 30.0)

    line.on_wait = die_over_it_and_come_back
    began = time.monotonic()
    message = Message(RecordDict(), dst_node_id=node, message_type="query.offer")
    (answer,) = line.send_and_receive([message], timeout=60.0)
    assert time.monotonic() - began < 30.0
    assert answer.error.code == ErrorCode.NODE_UNAVAILABLE
    assert answer.error.reason == "its SuperNode was started again, or was away, before it answered"
    assert answer.metadata.src_node_id == node
    assert books.get_message_ins(node, 1) == []  # the SuperLink itself would never have said so
    assert not line.pull_messages({message.metadata.message_id})


def test_a_node_that_gives_signs_of_life_is_waited_for(line: Line) -> None:
    node = node_of(line.books, 30.0)

    def live() -> None:
        assert line.books.acknowledge_node_heartbeat(node, 30.0)

    line.on_wait = live
    message = Message(RecordDict(), dst_node_id=node, message_type="query.offer")
    assert list(line.send_and_receive([message], timeout=1.2)) == []
