"""The statistics of a run: everybody is asked once, before the training, in the open or under secure aggregation."""

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from silhouette_server.coordination.cohort import Cohort
from silhouette_server.coordination.released import ReleasedSums
from silhouette_server.coordination.replies import checked_statistic, collect, statistic_expected
from silhouette_server.strategy.aggregation import OrderedMean
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.wire import StatisticRequest
from silhouette_shared.wire.messages import POPULARITY, TRANSITIONS, StatisticName

_MESSAGE_TYPES: dict[StatisticName, str] = {"popularity": POPULARITY, "transitions": TRANSITIONS}


def count(statistic: StatisticName, cohort: Cohort, released: ReleasedSums) -> None:
    """Ask everybody for one statistic and keep the sum.

    Raises:
        UnavailableError: If too few answers count, a void secure round among it.
    """
    counting = cohort.job.counting
    if counting is None:
        raise ValueError("expected a run with statistics, got one without")
    active = released.active() if statistic == "transitions" else np.empty(0, np.int64)
    mechanism: SampledGaussian = getattr(counting.budget, statistic)
    size = counting.size(statistic, len(active))
    if cohort.job.secure is None:
        total, answers = _count_openly(statistic, active, mechanism, size, cohort)
    else:
        total, counted = cohort.sum_once(statistic, mechanism, size, {"active": active}, released)
        answers = len(counted)
    released.add_statistic(statistic, total, answers)


def _count_openly(
    statistic: StatisticName, active: NDArray[np.int64], mechanism: SampledGaussian, size: int, cohort: Cohort
) -> tuple[NDArray[np.float64], int]:
    """The sum of everybody's noised sums, and of how many they are."""
    job = cohort.job
    request = StatisticRequest(run=job.run, statistic=statistic, plan_digest=job.plan_digest, active=active).encode()
    messages = [
        Message(request, dst_node_id=member.node_id, message_type=_MESSAGE_TYPES[statistic], group_id=statistic)
        for member in cohort.members
    ]
    replies = cohort.grid.send_and_receive(messages, timeout=job.replies.timeout_seconds)
    mean = OrderedMean({member.partner: 1.0 for member in cohort.members})
    counted = collect(
        replies,
        cohort.members,
        mean,
        lambda member, reply: checked_statistic(
            reply, statistic, statistic_expected(job.run, job.plan_digest, size, member, mechanism)
        ),
        what=statistic,
        kept="what was released before is kept",
        minimum=job.replies.minimum,
    )
    return mean.finish() * len(counted), len(counted)
