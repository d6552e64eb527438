"""What travels between a coordinator and a partner."""

from silhouette_shared.wire.messages import (
    WIRE_VERSION,
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
    WireError,
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
