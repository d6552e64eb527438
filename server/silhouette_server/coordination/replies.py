"""Flower's replies of a round without secure aggregation, decoded and checked."""

from flwr.app import Message

from silhouette_server.coordination.roster import Member
from silhouette_server.strategy.validation import Expectation, FloatVector, InvalidReplyError, check_update
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.wire import StatisticReply, TrainReply
from silhouette_shared.wire.messages import StatisticName


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
