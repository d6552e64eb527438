"""Flower's replies of a round without secure aggregation, decoded, checked and collected."""

import logging
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Message

from silhouette_server.coordination.roster import Member, by_node
from silhouette_server.strategy.aggregation import OrderedMean
from silhouette_server.strategy.validation import Expectation, FloatVector, InvalidReplyError, check_update
from silhouette_shared.errors import SilhouetteError, UnavailableError
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.wire import StatisticReply, TrainReply
from silhouette_shared.wire.messages import StatisticName

_LOG = logging.getLogger(__name__)


def collect(
    replies: Iterable[Message],
    members: Sequence[Member],
    mean: OrderedMean,
    check: Callable[[Member, Message], FloatVector],
    *,
    what: str,
    kept: str,
    minimum: int,
) -> set[str]:
    """Check every answer, add the good ones to `mean` and return whose they are.

    Args:
        replies: As they come.
        members: Who was asked.
        mean: Of the answers that count.
        check: What one member's reply holds; SilhouetteError if it does not count.
        what: Was asked for, in messages.
        kept: What is as it was if too few answers count, in messages.
        minimum: How many have to count.

    Raises:
        UnavailableError: If too few answers count; every reason is named.
    """
    nodes = by_node(members)
    counted: set[str] = set()
    reasons: list[str] = []
    silent = {member.partner for member in members}
    for reply in replies:
        member = nodes.get(reply.metadata.src_node_id)
        if member is None:
            # A lost node is reported under the coordinator's own number.
            reasons.append("a node that is not in the roster answered or was lost")
            continue
        if member.partner not in silent:
            reasons.append(f"{member.partner}: answered twice; the first answer counts")
            continue
        silent.remove(member.partner)
        try:
            mean.add(member.partner, check(member, reply))
            counted.add(member.partner)
        except SilhouetteError as error:
            mean.pass_over(member.partner)
            reasons.append(f"{member.partner}: {error}")
    reasons += [f"{partner}: no answer" for partner in sorted(silent)]
    for reason in reasons:
        _LOG.warning("%s: %s", what, reason)
    if len(counted) < minimum:
        raise UnavailableError(
            f"{what}: expected at least {minimum} valid answers, got {len(counted)} ({'; '.join(reasons)}); "
            f"{kept}: resume the run"
        )
    return counted


def checked_reply(reply: Message, expected: Expectation) -> FloatVector:
    """The update in a reply; InvalidReplyError or WireError if it is not what was asked for."""
    _require_answer(reply)
    answer = TrainReply.decode(reply.content)
    return check_update(
        expected, run=answer.run, round_number=answer.round, plan_digest=answer.plan_digest, update=answer.update
    )


def checked_statistic(reply: Message, statistic: StatisticName, expected: Expectation) -> FloatVector:
    """The sum in a reply; InvalidReplyError or WireError if it is not what was asked for."""
    _require_answer(reply)
    answer = StatisticReply.decode(reply.content)
    if answer.statistic != statistic:
        raise InvalidReplyError(f"expected the {statistic}, got the {answer.statistic}")
    return check_update(expected, run=answer.run, round_number=0, plan_digest=answer.plan_digest, update=answer.total)


def statistic_expected(
    run: str, plan_digest: str, size: int, member: Member, mechanism: SampledGaussian
) -> Expectation:
    """What one partner's sum may be.

    No honest coordinate passes twice the declared people, each with the norm in one place, and noise.
    """
    limit = 2 * member.people * mechanism.clip_norm + 12 * mechanism.noise_std
    return Expectation(run=run, round=0, plan_digest=plan_digest, size=size, limit=limit)


def _require_answer(reply: Message) -> None:
    if reply.has_error():
        raise InvalidReplyError(f"error {reply.error.code}: {reply.error.reason}")
