"""What travels between a coordinator and a partner."""

from silhouette_shared.wire.codec import WIRE_VERSION, WireError
from silhouette_shared.wire.messages import (
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
)

__all__ = [
    "WIRE_VERSION",
    "DescribeRequest",
    "Description",
    "StatisticReply",
    "StatisticRequest",
    "TrainReply",
    "TrainRequest",
    "WireError",
]
