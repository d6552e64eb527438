"""Messages in process: in order, not waited for longer than agreed, and a failing node costs its own answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from silhouette_shared.errors import RefusedError, UnavailableError
from silhouette_simulations.backend import InProcessGrid, answer, run_in_process


def app_that(act: Callable[[int, Context], None]) -> ClientApp:
    """Nodes that do something and answer with their partition number."""
    app = ClientApp()

    @app.query("number")
    def number(message: Message, context: Context) -> Message:
        partition = int(str(context.node_config["partition-id"]))
        act(partition, context)
        return Message(RecordDict({"answer": ConfigRecord({"number": partition})}), reply_to=message)

    return app


def ask(grid: Grid, timeout: float | None = None) -> list[Message]:
    messages = [Message(RecordDict(), node, "query.number") for node in grid.get_node_ids()]
    return list(grid.send_and_receive(messages, timeout=timeout))


def numbers(replies: list[Message]) -> list[int]:
    return [int(str(reply.content.config_records["answer"]["number"])) for reply in replies if not reply.has_error()]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end at the latest, so that no thread waits for ever."""
    event = threading.Event()
    yield event
    event.set()


def test_answers_come_in_the_order_of_the_messages_not_of_the_nodes_speed(gate: threading.Event) -> None:
    def first_waits_for_last(partition: int, context: Context) -> None:
        if partition == 0:
            assert gate.wait(60)
        if partition == 3:
            gate.set()

    with InProcessGrid(app_that(first_waits_for_last), nodes=4, workers=4) as grid:
        assert numbers(ask(grid)) == [0, 1, 2, 3]


def test_each_answer_names_its_node_and_its_message() -> None:
    with InProcessGrid(app_that(lambda partition, context: None), nodes=3, workers=2) as grid:
        replies = ask(grid)
        assert [reply.metadata.src_node_id for reply in replies] == list(grid.get_node_ids())
        assert len({reply.metadata.reply_to_message_id for reply in replies}) == 3


def test_a_node_slower_than_the_timeout_is_left_out_of_this_round_and_of_the_next(gate: threading.Event) -> None:
    def second_sleeps(partition: int, context: Context) -> None:
        if partition == 1:
            assert gate.wait(60)

    with InProcessGrid(app_that(second_sleeps), nodes=3, workers=3) as grid:
        assert numbers(ask(grid, timeout=2.0)) == [0, 2]
        gate.set()
        assert numbers(ask(grid, timeout=60)) == [0, 1, 2]  # once each: the late answer is gone


def test_what_has_not_started_when_the_time_is_up_is_not_started_any_more(gate: threading.Event) -> None:
    asked: list[int] = []

    def first_blocks(partition: int, context: Context) -> None:
        asked.append(partition)
        if partition == 0:
            assert gate.wait(60)

    with InProcessGrid(app_that(first_blocks), nodes=3, workers=1) as grid:
        assert numbers(ask(grid, timeout=1.0)) == []
        gate.set()
    assert asked == [0]


def test_an_answer_is_handed_out_once() -> None:
    with InProcessGrid(app_that(lambda partition, context: None), nodes=1) as grid:
        identifiers = list(grid.push_messages([Message(RecordDict(), 1001, "query.number")]))
        first: list[Message] = []
        for _ in range(6000):
            first += grid.pull_messages(identifiers)
            if first:
                break
            threading.Event().wait(0.01)
        assert numbers(first) == [0]
        assert list(grid.pull_messages(identifiers)) == []


def test_a_failing_node_answers_with_its_error_in_one_line_and_the_others_answer() -> None:
    def second_fails(partition: int, context: Context) -> None:
        if partition == 1:
            raise RefusedError("expected another plan,\n got this one")

    with InProcessGrid(app_that(second_fails), nodes=3) as grid:
        replies = ask(grid)
    assert numbers(replies) == [0, 2]
    assert replies[1].error.reason == "RefusedError: expected another plan, got this one"


def test_an_unknown_kind_of_message_is_an_error_answer() -> None:
    with InProcessGrid(app_that(lambda partition, context: None), nodes=1) as grid:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 1001, "evaluate")])
    assert reply.has_error()


def test_every_node_has_a_context_of_its_own_that_lasts() -> None:
    seen: dict[int, list[int]] = {0: [], 1: []}

    def count(partition: int, context: Context) -> None:
        before = context.state.get("visits")
        visits = int(str(before["count"])) + 1 if isinstance(before, ConfigRecord) else 1
        context.state["visits"] = ConfigRecord({"count": visits})
        seen[partition].append(visits)
        assert context.node_config["num-partitions"] == 2

    with InProcessGrid(app_that(count), nodes=2) as grid:
        assert numbers(ask(grid)) == [0, 1]
        assert numbers(ask(grid)) == [0, 1]
    assert seen == {0: [1, 2], 1: [1, 2]}


def test_what_the_server_app_raises_comes_through() -> None:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise UnavailableError("expected 2 answers, got 1")

    with pytest.raises(UnavailableError, match="expected 2 answers, got 1"):
        run_in_process(server, app_that(lambda partition, context: None), nodes=1, workers=1)


def test_an_answer_made_elsewhere_is_the_same_answer() -> None:
    def fail(message: Message, context: Context) -> Message:
        raise RefusedError("no")

    with InProcessGrid(app_that(lambda partition, context: None), nodes=1) as grid:
        message = Message(RecordDict(), next(iter(grid.get_node_ids())), "query.number")
    context = Context(1, 1001, {}, RecordDict(), {})
    assert answer(fail, message, context).error.reason == "RefusedError: no"
