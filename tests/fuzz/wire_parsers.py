"""Fuzz every decoder of a Flower message, from the bytes that Flower itself would hand on.

    pip install atheris && python -m tests.fuzz.wire_parsers -max_total_time=600  # guided by coverage
    python -m tests.fuzz.wire_parsers --plain 600                                 # without it, for so many seconds

The bytes are a serialised RecordDict. What Flower can read at all is decoded whole, so that encoding gives equal
records, or refused with a WireError; and no decoder allocates more than a few times what has come in. Anything else
ends the fuzzer with the input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Serialised
from google.protobuf.message import DecodeError
from tests.fuzz.driver import Bounded, main

from silhouette_shared.wire import (
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
    WireError,
)
from silhouette_shared.wire.exchange import Answer, Exchange

KINDS: tuple[Any, ...] = (
    DescribeRequest,
    Description,
    StatisticRequest,
    StatisticReply,
    TrainRequest,
    TrainReply,
    Exchange,
    Answer,
)
_BESIDE = 1 << 16  # bytes that decoding may take whatever comes in: messages of errors, small objects


def one_input(data: bytes) -> None:
    """Read the bytes as Flower does and give what comes out to every decoder."""
    try:
        records = recorddict_from_proto(Serialised.FromString(data))
    except (DecodeError, ValueError, TypeError, KeyError, AttributeError):
        return  # Flower's reader ends here, before anything of ours; for a value without content by an AttributeError
    for kind in KINDS:
        check(kind, records, len(data))


def check(kind: Any, records: RecordDict, size: int) -> None:
    """Decode, and say what went wrong if anything did."""
    with Bounded(4 * size + _BESIDE, kind.__name__):
        try:
            message = kind.decode(records)
        except WireError:
            return
    if message.encode() != records:
        raise AssertionError(f"{kind.__name__}: another encoding of {records}")


def corpus() -> list[bytes]:
    """One honest message of each kind, and of each step of a secure round."""
    model, words = np.arange(3, dtype=np.float32), np.arange(4, dtype=np.uint32)
    active = np.arange(1, 4, dtype=np.int64)
    digest = "d" * 64
    messages: list[Any] = [
        DescribeRequest(run="run", plan_digest=digest),
        Description(run="run", partner="a", people=20, plan_digest=digest, layout_digest=digest),
        StatisticRequest(run="run", statistic="transitions", plan_digest=digest, active=active),
        StatisticReply(run="run", statistic="transitions", plan_digest=digest, total=model),
        TrainRequest(run="run", round=1, plan_digest=digest, parameters=model),
        TrainReply(run="run", round=1, plan_digest=digest, update=model),
        Exchange("run", "training", 1, "advertise", {"manifest": b"m"}, (b"t",), {"parameters": model}),
        Exchange("run", "transitions", 0, "mask", {"manifest": b"m", "delivery": b"d"}, (), {"active": active}),
        Exchange("run", "training", 1, "share", {"roll": b"r"}),
        Exchange("run", "training", 1, "unmask", {"quorum": b"q", "roll": b"r"}),
        Answer("run", "training", 1, "advertise", {"advertise": b"a"}),
        Answer("run", "training", 1, "mask", {"masked": b"m"}, words),
        Answer("run", "training", 1, "agree", {"agreement": b"a", "advertise": b"b"}),
    ]
    return [recorddict_to_proto(message.encode()).SerializeToString() for message in messages]


if __name__ == "__main__":
    main(one_input, corpus())
