"""The messages of a training run, and their form as Flower records.

A message is decoded whole or refused: an extra key, a missing key, another type or another version is an error,
because a field that nobody reads is a way out for data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from silhouette_shared.errors import SilhouetteError

WIRE_VERSION = 1

DESCRIBE = "query.describe"
TRAIN = "train"
"""Flower message types that a partner answers."""

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
    """A partner's answer: its name and the number of its people, which the roster makes public."""

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
class TrainRequest:
    """Asks a partner for its update of the global model in one round."""

    run: str
    round: int
    plan_digest: str
    parameters: FloatVector  # (D,)

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
        records[_ARRAYS] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return records


def _take(
    records: RecordDict, fields: Mapping[str, type], names: tuple[str, ...]
) -> tuple[ConfigRecord, dict[str, FloatVector]]:
    expected = {_CONFIG} | ({_ARRAYS} if names else set())
    if set(records) != expected:
        raise WireError(f"expected the records {sorted(expected)}, got {sorted(records)}")
    config = records[_CONFIG]
    if not isinstance(config, ConfigRecord):
        raise WireError(f"expected {_CONFIG} to hold settings, got {type(config).__name__}")
    if config.get("version") != WIRE_VERSION:
        raise WireError(
            f"expected wire version {WIRE_VERSION}, got {config.get('version')}; install the same release on both sides"
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
    # The announced form is checked before a byte is unpacked: unpacking believes the announcement.
    if array.dtype != "float32" or len(array.shape) != 1 or array.stype != "numpy.ndarray":
        raise WireError(f"expected {name} to be a float32 vector, got {array.dtype} of shape {array.shape}")
    if len(array.data) > 4 * array.shape[0] + 1024:
        raise WireError(f"expected {name} to hold {array.shape[0]} numbers, got more bytes")
    try:
        value = array.numpy()
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise WireError(f"expected {name} to unpack as a vector: {error}") from None
    if value.dtype != np.float32 or value.shape != tuple(array.shape):
        raise WireError(f"expected {name} as announced, got {value.dtype} of {value.shape}")
    return value
