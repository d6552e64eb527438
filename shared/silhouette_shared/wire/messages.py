"""The messages of a training run, and their form as Flower records.

A message is decoded whole or refused: an extra key, a missing key, another type or another version is an error,
because a field that nobody reads is a way out for data.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from silhouette_shared.errors import SilhouetteError

WIRE_VERSION = 1

DESCRIBE = "query.describe"
TRAIN = "train"
POPULARITY = "train.popularity"
TRANSITIONS = "train.transitions"
"""Flower message types that a partner answers."""

StatisticName = Literal["popularity", "transitions"]
"""What a partner counts before training; each has its own message type."""

_MOST_ITEMS = 2**24  # every smaller number is a float32

_CONFIG = "silhouette"
_ARRAYS = "arrays"

FloatVector = npt.NDArray[np.float32]


class WireError(SilhouetteError):
    """A message that does not have the agreed form."""


@dataclass(frozen=True)
class DescribeRequest:
    """Asks a partner who it is and whether it holds the same plan."""

    run: str
    plan_digest: str

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return _records({"run": self.run, "plan": self.plan_digest})

    @classmethod
    def decode(cls, records: RecordDict) -> "DescribeRequest":
        """The message from Flower records; WireError if the form differs."""
        config, _ = _take(records, {"run": str, "plan": str}, ())
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
        return _records(
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
        config, _ = _take(
            records,
            {"run": str, "partner": str, "people": int, "plan": str, "layout": str},
            (),
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
        return _records(
            {"run": self.run, "statistic": self.statistic, "plan": self.plan_digest},
            {"active": self.active.astype(np.float32)},  # exact: there are fewer than 2^24 items
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "StatisticRequest":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = _take(records, {"run": str, "statistic": str, "plan": str}, ("active",))
        numbers = arrays["active"]
        # A comparison with NaN is false.
        if not np.all((numbers >= 0) & (numbers < _MOST_ITEMS) & (numbers == np.floor(numbers))):
            raise WireError("expected active to hold item numbers, got something else")
        return cls(
            run=str(config["run"]),
            statistic=_statistic(config["statistic"]),
            plan_digest=str(config["plan"]),
            active=numbers.astype(np.int64),
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
        return _records(
            {"run": self.run, "statistic": self.statistic, "plan": self.plan_digest},
            {"total": self.total},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "StatisticReply":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = _take(records, {"run": str, "statistic": str, "plan": str}, ("total",))
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
        return _records(
            {"run": self.run, "round": self.round, "plan": self.plan_digest},
            {"parameters": self.parameters},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "TrainRequest":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = _take(records, {"run": str, "round": int, "plan": str}, ("parameters",))
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
        return _records(
            {"run": self.run, "round": self.round, "plan": self.plan_digest},
            {"update": self.update},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> "TrainReply":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = _take(records, {"run": str, "round": int, "plan": str}, ("update",))
        return cls(
            run=str(config["run"]),
            round=int(str(config["round"])),
            plan_digest=str(config["plan"]),
            update=arrays["update"],
        )


def _records(config: Mapping[str, str | int], arrays: Mapping[str, FloatVector] | None = None) -> RecordDict:
    records = RecordDict({_CONFIG: ConfigRecord({"version": WIRE_VERSION, **config})})
    if arrays:
        records[_ARRAYS] = ArrayRecord({name: _array(value) for name, value in arrays.items()})
    return records


def _array(value: FloatVector) -> Array:
    if value.dtype != np.dtype("<f4") or value.ndim != 1 or not value.flags.c_contiguous:
        return Array(value)
    # The same bytes as `Array(value)`, in one copy of a vector of megabytes instead of three.
    data = b"".join((_header(len(value)), value.data.cast("B")))
    return Array("float32", value.shape, "numpy.ndarray", data)


@lru_cache(maxsize=16)
def _header(count: int) -> bytes:
    """What np.save writes before the numbers of a float32 vector."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (count,)})
    return header.getvalue()


def _take(
    records: RecordDict, fields: Mapping[str, type], names: tuple[str, ...]
) -> tuple[ConfigRecord, dict[str, FloatVector]]:
    expected = {_CONFIG} | ({_ARRAYS} if names else set())
    if set(records) != expected:
        raise WireError(f"expected the records {sorted(expected)}, got {sorted(records)}")
    config = records[_CONFIG]
    if not isinstance(config, ConfigRecord):
        raise WireError(f"expected {_CONFIG} to hold settings, got {type(config).__name__}")
    version = config.get("version")
    if type(version) is not int or version != WIRE_VERSION:  # True and 1.0 equal 1
        raise WireError(
            f"expected wire version {WIRE_VERSION}, got {version!r}; install the same release on both sides"
        )
    keys = {"version", *fields}
    if set(config) != keys:
        raise WireError(f"expected the fields {sorted(keys)}, got {sorted(config)}")
    for name, kind in fields.items():
        if type(config[name]) is not kind:
            raise WireError(f"expected {name} to be {kind.__name__}, got {type(config[name]).__name__}")
    arrays: dict[str, FloatVector] = {}
    if names:
        record = records[_ARRAYS]
        if not isinstance(record, ArrayRecord) or set(record) != set(names):
            raise WireError(f"expected the arrays {sorted(names)}, got {sorted(record)}")
        for name in names:
            arrays[name] = _vector(name, record[name])
    return config, arrays


def _vector(name: str, array: Array) -> FloatVector:
    # `Array.numpy` is not used: np.load opens archives, believes any header and allocates what it says. The bytes
    # have to be the ones that np.save writes for a vector of the announced length, so there is nothing to parse.
    if array.dtype != "float32" or len(array.shape) != 1 or array.stype != "numpy.ndarray":
        raise WireError(f"expected {name} to be a float32 vector, got {array.dtype} of shape {array.shape}")
    count = int(array.shape[0])
    header = _header(count)
    start = len(header)
    if count < 0 or len(array.data) != start + 4 * count:
        raise WireError(f"expected {name} to hold {count} numbers in {start + 4 * count} bytes, got {len(array.data)}")
    if array.data[:start] != header:
        raise WireError(f"expected {name} to be saved as a vector of {count} numbers, got another form")
    return np.frombuffer(array.data, dtype="<f4", offset=start).astype(np.float32)  # a copy that may be written to
