"""Flower records from plain values and back, whole or not at all.

An extra key, a missing key, another type or another version is an error, because a field that nobody reads is a way out
for data.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from silhouette_shared.errors import SilhouetteError

WIRE_VERSION = 1

_CONFIG = "silhouette"
_ARRAYS = "arrays"

Vector = npt.NDArray[Any]
"""One axis; float32, uint32 or int64."""

Value = str | int | bytes | list[str] | list[bytes]


class WireError(SilhouetteError):
    """A message that does not have the agreed form."""


def to_records(config: Mapping[str, Value], arrays: Mapping[str, Vector] | None = None) -> RecordDict:
    """The records of one message."""
    records = RecordDict({_CONFIG: ConfigRecord({"version": WIRE_VERSION, **config})})
    if arrays:
        records[_ARRAYS] = ArrayRecord({name: _array(value) for name, value in arrays.items()})
    return records


def from_records(
    records: RecordDict, fields: Mapping[str, type], arrays: Mapping[str, str]
) -> tuple[ConfigRecord, dict[str, Vector]]:
    """The settings and vectors of one message.

    Args:
        records: What came.
        fields: Type of every setting besides the version.
        arrays: Dtype of every vector, by name.

    Raises:
        WireError: If the records differ from this in any way.
    """
    expected = {_CONFIG} | ({_ARRAYS} if arrays else set())
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
    found: dict[str, Vector] = {}
    if arrays:
        record = records[_ARRAYS]
        if not isinstance(record, ArrayRecord) or set(record) != set(arrays):
            raise WireError(f"expected the arrays {sorted(arrays)}, got {sorted(record)}")
        found = {name: _vector(name, record[name], dtype) for name, dtype in arrays.items()}
    return config, found


def array_names(records: RecordDict) -> frozenset[str]:
    """Which vectors a message says it brings."""
    record = records.get(_ARRAYS)
    return frozenset(record) if isinstance(record, ArrayRecord) else frozenset()


def payload_bytes(records: RecordDict) -> int:
    """Bytes of everything in a message but Flower's envelope."""
    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            for value in record.values():
                parts = value if isinstance(value, list) else [value]
                total += sum(len(part) if isinstance(part, str | bytes) else 8 for part in parts)
    return total


def _array(value: Vector) -> Array:
    if value.ndim != 1 or not value.flags.c_contiguous or value.dtype.str not in _NAMES:
        return Array(value)
    # The same bytes as `Array(value)`, in one copy of a vector of megabytes instead of three.
    data = b"".join((_header(len(value), value.dtype.str), value.data.cast("B")))
    return Array(_NAMES[value.dtype.str], value.shape, "numpy.ndarray", data)


_NAMES = {"<f4": "float32", "<u4": "uint32", "<i8": "int64"}
_CODES = {name: code for code, name in _NAMES.items()}


@lru_cache(maxsize=16)
def _header(count: int, code: str) -> bytes:
    """What np.save writes before the numbers of a vector."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": code, "fortran_order": False, "shape": (count,)})
    return header.getvalue()


def _vector(name: str, array: Array, dtype: str) -> Vector:
    # `Array.numpy` is not used: np.load opens archives, believes any header and allocates what it says. The bytes
    # have to be the ones that np.save writes for a vector of the announced length, so there is nothing to parse.
    if array.dtype != dtype or len(array.shape) != 1 or array.stype != "numpy.ndarray":
        raise WireError(f"expected {name} to be a {dtype} vector, got {array.dtype} of shape {array.shape}")
    count, code = int(array.shape[0]), _CODES[dtype]
    header = _header(count, code)
    start, width = len(header), np.dtype(code).itemsize
    if count < 0 or len(array.data) != start + width * count:
        raise WireError(
            f"expected {name} to hold {count} numbers in {start + width * count} bytes, got {len(array.data)}"
        )
    if array.data[:start] != header:
        raise WireError(f"expected {name} to be saved as a vector of {count} numbers, got another form")
    return np.frombuffer(array.data, dtype=code, offset=start).copy()  # may be written to
