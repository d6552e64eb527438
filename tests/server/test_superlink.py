"""The coordinator's line to the nodes, where Flower's own ways would cost more than a line."""

from __future__ import annotations

import signal

import httpx
import pytest
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException

from silhouette_server.superlink import give_up_unauthorized


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


def test_every_other_answer_is_taken_as_flower_takes_it() -> None:
    invoker = make_simple_http_retry_invoker()
    give_up_unauthorized(invoker)
    assert invoker.should_giveup is not None
    assert [invoker.should_giveup(answered(status)) for status in (503, 404)] == [False, True]
    with pytest.raises(RunNotRunningException):
        invoker.should_giveup(answered(403))
