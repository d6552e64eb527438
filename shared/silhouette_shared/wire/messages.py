"""The messages of a training run, and their form as Flower records.

A message is decoded whole or refused: an extra key, a missing key, another type or another version is an error,
because a field that nobody reads is a way out for data.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict

from silhouette_shared.wire.codec import WireError, from_records, to_records

DESCRIBE = "query.describe"
TRAIN = "train"
POPULARITY = "train.popularity"
TRANSITIONS = "train.transitions"
"""Flower message types that a partner answers."""

StatisticName = Literal["popularity", "transitions"]
"""What a partner counts before training; each has its own message type."""

STATISTICS: tuple[StatisticName, ...] = get_args(StatisticName)

FloatVector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DescribeRequest:
    """Asks a partner who it is and whether it holds the same plan."""

    run: str
    plan_digest: str

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records({"run": self.run, "plan": self.plan_digest})

    @classmethod
    def decode(cls, records: RecordDict) -> "DescribeRequest":
        """The message from Flower records; WireError if the form differs."""
        config, _ = from_records(records, {"run": str, "plan": str}, {})
        return cls(run=str(config["run"]), plan_digest=str(config["plan"]))


@dataclass(frozen=True)
class Description:
    """A partner's answer: its name and the number of people that it declares, which the roster makes public.

    In a private mode the number is its operator's declaration and no count: it does not change with one person.
    """

    run: str
    partner: str
    people: int
    plan_digest: str
    layout_digest: str

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records(
            {
                "run": self.run,
                "partner": self.partner,
                "people": self.people,
                "plan": self.plan_digest,
                "layout": self.layout_digest,
            }
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "Description":
        """The message from Flower records; WireError if the form differs."""
        config, _ = from_records(
            records,
            {"run": str, "partner": str, "people": int, "plan": str, "layout": str},
            {},
        )
        return cls(
            run=str(config["run"]),
            partner=str(config["partner"]),
            people=int(str(config["people"])),
            plan_digest=str(config["plan"]),
            layout_digest=str(config["layout"]),
        )


@dataclass(frozen=True)
class StatisticRequest:
    """Asks a partner for one noised sum before the training."""

    run: str
    statistic: StatisticName
    plan_digest: str
    active: npt.NDArray[np.int64]  # (M,) public item numbers that transitions are counted between; else none

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records(
            {"run": self.run, "statistic": self.statistic, "plan": self.plan_digest},
            {"active": self.active},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "StatisticRequest":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = from_records(records, {"run": str, "statistic": str, "plan": str}, {"active": "int64"})
        return cls(
            run=str(config["run"]),
            statistic=_statistic(config["statistic"]),
            plan_digest=str(config["plan"]),
            active=arrays["active"],
        )


@dataclass(frozen=True)
class StatisticReply:
    """A partner's sum with its noise: nothing else leaves."""

    run: str
    statistic: StatisticName
    plan_digest: str
    total: FloatVector  # (D,)

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records(
            {"run": self.run, "statistic": self.statistic, "plan": self.plan_digest},
            {"total": self.total},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "StatisticReply":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = from_records(records, {"run": str, "statistic": str, "plan": str}, {"total": "float32"})
        return cls(
            run=str(config["run"]),
            statistic=_statistic(config["statistic"]),
            plan_digest=str(config["plan"]),
            total=arrays["total"],
        )


def _statistic(name: object) -> StatisticName:
    if name == "popularity":
        return "popularity"
    if name == "transitions":
        return "transitions"
    raise WireError("expected the statistic popularity or transitions, got another one")


@dataclass(frozen=True)
class TrainRequest:
    """Asks a partner for its update of the global model in one round."""

    run: str
    round: int
    plan_digest: str
    parameters: FloatVector  # (D + P,) the model, then the prior of a run with statistics

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records(
            {"run": self.run, "round": self.round, "plan": self.plan_digest},
            {"parameters": self.parameters},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "TrainRequest":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = from_records(records, {"run": str, "round": int, "plan": str}, {"parameters": "float32"})
        return cls(
            run=str(config["run"]),
            round=int(str(config["round"])),
            plan_digest=str(config["plan"]),
            parameters=arrays["parameters"],
        )


@dataclass(frozen=True)
class TrainReply:
    """A partner's update: nothing else leaves, no count, no loss and no batch size."""

    run: str
    round: int
    plan_digest: str
    update: FloatVector  # (D,)

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records(
            {"run": self.run, "round": self.round, "plan": self.plan_digest},
            {"update": self.update},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "TrainReply":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = from_records(records, {"run": str, "round": int, "plan": str}, {"update": "float32"})
        return cls(
            run=str(config["run"]),
            round=int(str(config["round"])),
            plan_digest=str(config["plan"]),
            update=arrays["update"],
        )
