"""The roster holds who can take part, and says why the others cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from tests.server.coordination.grids import Answers, FakeGrid, from_node, honest

from silhouette_server.coordination.roster import Introduction, Member, await_nodes, build_roster, by_node
from silhouette_shared.errors import UnavailableError
from silhouette_shared.wire import DescribeRequest, Description
from silhouette_shared.wire.offers import OfferAnswer, Refusal


def build(
    grid: FakeGrid, *, minimum: int = 1, expected: int = 0, timeout: float = 5.0
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    return build_roster(
        grid,
        run="r",
        plan_digest="p",
        layout_digest="l",
        expected=expected,
        minimum=minimum,
        timeout_seconds=timeout,
    )


def good() -> dict[int, Answers]:
    return {12: honest("b", 3, "l"), 11: honest("a", 5, "l")}


def changed(change: Callable[[Description], Description]) -> Answers:
    def answer(message: Message) -> Sequence[Message]:
        (reply,) = honest("c", 4, "l")(message)
        return [Message(change(Description.decode(reply.content)).encode(), reply_to=message)]

    return answer


def broken(message: Message) -> Sequence[Message]:
    return [Message(Error(code=2, reason="disk full"), reply_to=message)]


def talkative(message: Message) -> Sequence[Message]:
    (reply,) = honest("c", 4, "l")(message)
    reply.content.config_records["silhouette"]["loss"] = 0.5
    return [reply]


def test_members_stand_in_the_order_of_their_names() -> None:
    members, reasons = build(FakeGrid(good()))
    assert members == (Member("a", 11, 5), Member("b", 12, 3))
    assert reasons == ()
    assert by_node(members) == {11: members[0], 12: members[1]}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (changed(lambda d: replace(d, run="other")), "c: answered for another run"),
        (changed(lambda d: replace(d, plan_digest="q" * 64)), "c: holds plan qqqqqqqqqqqq, another one"),
        (changed(lambda d: replace(d, layout_digest="m")), "c: builds a model of another layout"),
        (changed(lambda d: replace(d, people=0)), "c: says it holds 0 people"),
        (changed(lambda d: replace(d, people=-4)), "c: says it holds -4 people"),
        (broken, "node 13: disk full"),
        (talkative, "expected the fields ["),
        (lambda message: [], "nodes that did not answer: 13"),
    ],
    ids=["run", "plan", "layout", "nobody", "negative", "error", "extra field", "silent"],
)
def test_a_node_that_cannot_take_part_is_left_out_with_its_reason(answer: Answers, reason: str) -> None:
    members, reasons = build(FakeGrid(good() | {13: answer}))
    assert [member.partner for member in members] == ["a", "b"]
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.parametrize("claims", [2, 3])
def test_of_nodes_that_claim_one_name_none_is_taken(claims: int) -> None:
    for order in permutations(range(claims + 1)):
        nodes = dict([*good().items(), *((20 + i, honest("a", 9, "l")) for i in range(claims - 1))])
        grid = FakeGrid(nodes, lambda replies, order=order: [replies[i] for i in order])  # type: ignore[misc]
        members, reasons = build(grid)
        assert [member.partner for member in members] == ["b"]
        assert set(reasons) == {"a: two nodes claim this name; neither is taken"}


def test_an_answer_of_a_node_that_was_not_asked_or_had_answered_is_ignored() -> None:
    for number in (77, 11):
        stranger = {13: lambda message, n=number: [from_node(m, n) for m in honest("c", 99, "l")(message)]}
        members, reasons = build(FakeGrid(good() | stranger))
        assert [member.partner for member in members] == ["a", "b"]
        assert reasons[0] == "a node that was not asked, or not any more, answered or was lost"


def test_too_few_is_a_failure_with_every_reason() -> None:
    nodes = good() | {13: broken, 14: lambda message: []}
    with pytest.raises(UnavailableError) as caught:
        build(FakeGrid(nodes), minimum=3)
    for part in ("at least 3 partners, got 2", "node 13: disk full", "did not answer: 14", "resume the run"):
        assert part in str(caught.value)
    with pytest.raises(UnavailableError, match=r"got 0 \(no node is connected\)"):
        build(FakeGrid({}))


def test_it_waits_for_the_expected_nodes_and_no_longer_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FakeGrid(good())
    late = grid.nodes.pop(12)
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 2:
            grid.nodes[12] = late

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    assert len(build(grid, expected=2)[0]) == 2
    assert 2 < clock[0] < 3
    clock[0] = 0.0
    assert len(build(grid, expected=3)[0]) == 2
    assert 5 <= clock[0] < 6


def offered(
    grid: FakeGrid, names: dict[int, str], minimum: int = 1, timeout: float = 0.5
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    content = DescribeRequest(run="r", plan_digest="p").encode()  # what the nodes of these tests understand
    return build_roster(
        grid,
        run="r",
        plan_digest="p",
        layout_digest="l",
        expected=len(names),
        minimum=1,
        timeout_seconds=timeout,
        introduction=Introduction("query.offer", content, names, minimum),
    )


def test_only_the_nodes_whose_keys_are_enrolled_are_asked() -> None:
    grid = FakeGrid({**good(), 13: honest("c", 4, "l")})
    members, reasons = offered(grid, {11: "a", 12: "b"})
    assert [member.partner for member in members] == ["a", "b"]
    assert reasons == ()
    assert {(one.metadata.dst_node_id, one.metadata.message_type) for one in grid.sent} == {
        (11, "query.offer"),
        (12, "query.offer"),
    }


def test_a_node_that_answers_in_anothers_name_is_left_out() -> None:
    members, reasons = offered(FakeGrid({11: honest("a", 5, "l"), 12: honest("a", 5, "l")}), {11: "a", 12: "b"})
    assert [(member.partner, member.node_id) for member in members] == [("a", 11)]
    assert reasons == ("a: answered by the node of b; it is left out",)


def test_a_refusal_is_a_reason_and_too_few_who_agree_are_an_error_that_names_it() -> None:
    def refusing(message: Message) -> Sequence[Message]:
        refusal = Refusal("b", "mode", "expected local, got none; change the plan", 3, {"asked": "none"})
        return [Message(OfferAnswer(refusal).encode(), reply_to=message)]

    grid = FakeGrid({11: honest("a", 5, "l"), 12: refusing})
    with pytest.raises(
        UnavailableError,
        match=r"at least 2 partners, got 1 \(refused, b: mode: expected local, got none; change the plan\)",
    ):
        offered(grid, {11: "a", 12: "b"}, minimum=2)


def test_a_node_whose_process_ended_over_the_offer_is_asked_again() -> None:
    answer, times = honest("b", 3, "l"), 0

    def killed_once(message: Message) -> Sequence[Message]:
        nonlocal times
        times += 1
        lost = [Message(Error(code=ErrorCode.CLIENT_APP_CRASHED, reason="killed"), reply_to=message)]
        return lost if times == 1 else answer(message)

    grid = FakeGrid({11: honest("a", 5, "l"), 12: killed_once})
    members, reasons = offered(grid, {11: "a", 12: "b"}, minimum=2, timeout=60.0)
    assert [member.partner for member in members] == ["a", "b"]
    assert reasons == ()
    assert [one.metadata.dst_node_id for one in grid.sent] == [11, 12, 12]


@pytest.mark.parametrize("code", [ErrorCode.CLIENT_APP_CRASHED, ErrorCode.CLIENT_APP_RAISED_EXCEPTION])
def test_a_node_that_does_not_come_back_in_time_or_answers_with_an_error_of_its_own_is_a_reason(code: int) -> None:
    def dead(message: Message) -> Sequence[Message]:
        return [Message(Error(code=code, reason="killed"), reply_to=message)]

    grid = FakeGrid({11: honest("a", 5, "l"), 12: dead})
    members, reasons = offered(grid, {11: "a", 12: "b"})
    assert [member.partner for member in members] == ["a"]
    assert reasons == ("node 12: killed",)
    assert len(grid.sent) == 2


def test_nodes_that_are_awaited_are_those_that_come_in_time() -> None:
    started = time.monotonic()
    assert await_nodes(FakeGrid(good()), [12, 11], 60.0) == [11, 12]
    assert time.monotonic() - started < 30.0
    assert await_nodes(FakeGrid(good()), [11, 14], 0.3) == [11]
