"""What a node answers when something fails says nothing about its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tests.people import agent, plan

from silhouette_client.agent import Agent
from silhouette_client.app import make_client_app
from silhouette_shared.errors import RefusedError, SilhouetteError
from silhouette_shared.wire import DescribeRequest, Description, TrainRequest, WireError

CONTEXT = Context(run_id=1, node_id=2, node_config={"partition-id": 0}, state=RecordDict(), run_config={})


def ask(agent_of: Callable[[Context], Agent], kind: str = "query.describe", records: RecordDict | None = None) -> Any:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    content = DescribeRequest(run="r", plan_digest=plan().digest).encode() if records is None else records
    message = Message(content, 2, kind)
    message.metadata.__dict__["_message_id"] = "1"
    return make_client_app(agent_of)(message, CONTEXT)


def causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *causes(error.__cause__)]


def test_a_question_is_answered_by_the_agent() -> None:
    partner = agent()
    assert Description.decode(ask(lambda context: partner).content).partner == "partner-0"


def test_an_unforeseen_error_leaves_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    def fail(context: Context) -> Agent:
        raise KeyError("user 4711 bought item 42")

    request = TrainRequest(run="r", round=1, plan_digest="p", parameters=np.zeros(3, np.float32))
    for kind, records in (("query.describe", None), ("train", request.encode())):
        with pytest.raises(Exception, match="the partner failed with KeyError; see the log of this partner") as caught:
            ask(fail, kind, records)
        assert all("4711" not in str(cause) for cause in causes(caught.value))
    assert "4711" in caplog.text  # the partner itself is told


@pytest.mark.parametrize("error", [RefusedError("expected a round from 1 to 4, got 9"), WireError("expected x")])
def test_an_error_that_was_written_to_be_read_comes_through(error: SilhouetteError) -> None:
    def refuse(context: Context) -> Agent:
        raise error

    with pytest.raises(Exception, match="expected") as caught:
        ask(refuse)
    assert error in causes(caught.value)


def test_a_message_of_another_form_is_refused() -> None:
    with pytest.raises(Exception, match="expected the records") as caught:
        ask(lambda context: pytest.fail("asked the agent"), "train", RecordDict())
    assert any(isinstance(cause, WireError) for cause in causes(caught.value))
