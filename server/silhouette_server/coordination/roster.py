"""Who takes part: partner, node and public number of people."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from silhouette_shared.errors import SilhouetteError, UnavailableError
from silhouette_shared.wire import DescribeRequest, Description
from silhouette_shared.wire.messages import DESCRIBE

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Member:
    """One partner of a run."""

    partner: str
    node_id: int
    people: int


def build_roster(
    grid: Grid,
    *,
    run: str,
    plan_digest: str,
    layout_digest: str,
    expected: int,
    minimum: int,
    timeout_seconds: float,
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """Ask every node who it is, once `expected` nodes are connected or the time is up.

    Returns:
        The members in the order of their names, and a reason for each node left out.

    Raises:
        UnavailableError: If fewer than `minimum` can take part; every reason is named.
    """
    request = DescribeRequest(run=run, plan_digest=plan_digest).encode()
    messages = [
        Message(request, dst_node_id=node_id, message_type=DESCRIBE)
        for node_id in _connected(grid, expected, timeout_seconds)
    ]
    silent = {message.metadata.dst_node_id for message in messages}
    members: dict[str, Member] = {}
    reasons: list[str] = []
    for reply in grid.send_and_receive(messages, timeout=timeout_seconds):
        node_id = reply.metadata.src_node_id
        if node_id not in silent:
            # A lost node is reported under the coordinator's own number.
            reasons.append("a node that was not asked, or not any more, answered or was lost")
            continue
        silent.discard(node_id)
        try:
            member = _member(reply, run, plan_digest, layout_digest)
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
    description = Description.decode(reply.content)
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
