"""The coordinator's line to the nodes, where Flower's own ways would cost more than a line."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import httpx
import pytest
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException

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
