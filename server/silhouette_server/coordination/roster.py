"""Who takes part: partner, node and public number of people."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from silhouette_shared.errors import RefusedError, SilhouetteError, UnavailableError
from silhouette_shared.wire import DescribeRequest
from silhouette_shared.wire.messages import DESCRIBE
from silhouette_shared.wire.offers import OfferAnswer, Refusal

_POLL_SECONDS = 0.2
_AGAIN_SECONDS = 1.0

_DIED = frozenset(
    {
        ErrorCode.CLIENT_APP_CRASHED,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    }
)
"""Errors that say nothing of the question: a process ended over it, and is started again."""


@dataclass(frozen=True)
class Member:
    """One partner of a run."""

    partner: str
    node_id: int
    people: int


@dataclass(frozen=True)
class Introduction:
    """How the nodes of a deployment are asked who they are: with an offer, and only those whose keys are enrolled."""

    message_type: str
    content: RecordDict
    names: Mapping[int, str]  # by node number, whose key it registered
    minimum: int  # how many have to agree


def build_roster(
    grid: Grid,
    *,
    run: str,
    plan_digest: str,
    layout_digest: str,
    expected: int,
    minimum: int,
    timeout_seconds: float,
    introduction: Introduction | None = None,
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """Ask every node who it is, once `expected` nodes are connected or the time is up.

    With an introduction only its nodes are asked, a node that answers in another's name is left out, and one whose
    process ended over the question is asked again while there is time.

    Returns:
        The members in the order of their names, and a reason for each node left out.

    Raises:
        UnavailableError: If fewer than `minimum` can take part; every reason is named.
    """
    if introduction is None:
        request, kind = DescribeRequest(run=run, plan_digest=plan_digest).encode(), DESCRIBE
        nodes = _connected(grid, expected, timeout_seconds)
    else:
        request, kind = introduction.content, introduction.message_type
        nodes = await_nodes(grid, introduction.names, timeout_seconds)
        minimum = max(minimum, introduction.minimum)
    silent = set(nodes)
    members: dict[str, Member] = {}
    reasons: list[str] = []
    for reply in _answers(grid, kind, request, nodes, timeout_seconds, again=introduction is not None):
        node_id = reply.metadata.src_node_id
        if node_id not in silent:
            # A lost node is reported under the coordinator's own number.
            reasons.append("a node that was not asked, or not any more, answered or was lost")
            continue
        silent.discard(node_id)
        try:
            member = _member(reply, run, plan_digest, layout_digest)
            _check_name(member, introduction)
        except SilhouetteError as error:
            reasons.append(str(error))
            continue
        if member.partner in members:
            reasons.append(f"{member.partner}: two nodes claim this name; neither is taken")
            members[member.partner] = Member(member.partner, 0, 0)
        else:
            members[member.partner] = member
    if silent:
        reasons.append(f"nodes that did not answer: {', '.join(map(str, sorted(silent)))}")
    roster = tuple(members[name] for name in sorted(members) if members[name].people > 0)
    if len(roster) < minimum:
        raise UnavailableError(
            f"expected at least {minimum} partners, got {len(roster)}"
            f" ({'; '.join(reasons) or 'no node is connected'}); "
            "bring them back and resume the run"
        )
    return roster, tuple(reasons)


def _answers(
    grid: Grid, kind: str, request: RecordDict, nodes: list[int], timeout_seconds: float, *, again: bool
) -> list[Message]:
    """What these nodes answer within the time, errors included."""
    until = time.monotonic() + timeout_seconds
    answers: list[Message] = []
    while True:
        messages = [Message(request, dst_node_id=node_id, message_type=kind) for node_id in nodes]
        replies = list(grid.send_and_receive(messages, timeout=until - time.monotonic()))
        died = {
            reply.metadata.src_node_id
            for reply in replies
            if again and reply.has_error() and reply.error.code in _DIED and reply.metadata.src_node_id in nodes
        }
        if not died or time.monotonic() + _AGAIN_SECONDS >= until:
            return answers + replies
        time.sleep(_AGAIN_SECONDS)
        nodes = await_nodes(grid, died, until - time.monotonic() - _AGAIN_SECONDS)
        answers += [reply for reply in replies if reply.metadata.src_node_id not in nodes]


def await_nodes(grid: Grid, wanted: Iterable[int], timeout_seconds: float) -> list[int]:
    """Those of the wanted nodes that are connected, as soon as all are or the time is up."""
    all_of_them = set(wanted)
    deadline = time.monotonic() + timeout_seconds
    while True:
        there = sorted(all_of_them & set(grid.get_node_ids()))
        if len(there) == len(all_of_them) or time.monotonic() >= deadline:
            return there
        time.sleep(_POLL_SECONDS)


def _check_name(member: Member, introduction: Introduction | None) -> None:
    if introduction is not None and introduction.names.get(member.node_id) != member.partner:
        raise UnavailableError(
            f"{member.partner}: answered by the node of {introduction.names.get(member.node_id)}; it is left out"
        )


def _connected(grid: Grid, expected: int, timeout_seconds: float) -> list[int]:
    deadline = time.monotonic() + timeout_seconds
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= expected or time.monotonic() >= deadline:
            return nodes
        time.sleep(_POLL_SECONDS)


def _member(reply: Message, run: str, plan_digest: str, layout_digest: str) -> Member:
    if reply.has_error():
        raise UnavailableError(f"node {reply.metadata.src_node_id}: {reply.error.reason}")
    answer = OfferAnswer.decode(reply.content).content
    if isinstance(answer, Refusal):
        raise RefusedError(f"refused, {answer}")
    description = answer
    name = description.partner
    if description.run != run:
        raise UnavailableError(f"{name}: answered for another run")
    if description.plan_digest != plan_digest:
        raise UnavailableError(f"{name}: holds plan {description.plan_digest[:12]}, another one")
    if description.layout_digest != layout_digest:
        raise UnavailableError(f"{name}: builds a model of another layout")
    if description.people < 1:
        raise UnavailableError(f"{name}: says it holds {description.people} people")
    return Member(partner=name, node_id=reply.metadata.src_node_id, people=description.people)


def by_node(members: Iterable[Member]) -> dict[int, Member]:
    """Members by node."""
    return {member.node_id: member for member in members}
