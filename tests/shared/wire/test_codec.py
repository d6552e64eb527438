"""Values become Flower's records and come back whole, whatever announces more than it brings is refused unallocated."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from silhouette_shared.wire.codec import (
    WIRE_VERSION,
    Value,
    WireError,
    array_names,
    from_records,
    payload_bytes,
    to_records,
)

DTYPES = {"float32": np.float32, "uint32": np.uint32, "int64": np.int64}
FIELDS = {"run": str, "round": int, "data": bytes, "parts": list}
CONFIG: dict[str, Value] = {"run": "r", "round": 3, "data": b"\x00\x01", "parts": [b"a", b""]}
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def saved(values: Any) -> Array:
    """As Flower itself saves an array."""
    return Array(values)


@each_dtype
@given(st.data())
def test_a_vector_survives_and_its_bytes_are_those_that_flower_writes(dtype: str, data: st.DataObject) -> None:
    values = data.draw(hnp.arrays(DTYPES[dtype], st.integers(0, 50)))
    records = to_records(CONFIG, {"v": values})
    array = records["arrays"]["v"]
    assert isinstance(array, Array)
    assert (array.data, array.dtype, tuple(array.shape), array.stype) == (
        saved(values).data,
        dtype,
        values.shape,
        saved(values).stype,
    )
    config, arrays = from_records(records, FIELDS, {"v": dtype})
    assert arrays["v"].tobytes() == values.tobytes()
    assert arrays["v"].dtype == DTYPES[dtype]
    assert {key: config[key] for key in FIELDS} == CONFIG


def test_a_vector_with_gaps_or_of_two_axes_is_saved_as_what_it_is() -> None:
    gaps = np.arange(10, dtype=np.float32)[::2]
    _, arrays = from_records(to_records({}, {"v": gaps}), {}, {"v": "float32"})
    assert np.array_equal(arrays["v"], gaps)
    with pytest.raises(WireError, match="expected v to be a float32 vector"):
        from_records(to_records({}, {"v": np.zeros((2, 2), np.float32)}), {}, {"v": "float32"})


@each_dtype
@pytest.mark.parametrize("count", [2**29, 2**40, 2**62, -1])
def test_two_gigabytes_announced_and_not_brought_are_refused_in_little_memory(dtype: str, count: int) -> None:
    honest = saved(np.zeros(4, DTYPES[dtype]))
    large = Array(dtype=dtype, shape=(count,), stype="numpy.ndarray", data=honest.data)
    records = to_records({})
    records["arrays"] = ArrayRecord({"v": large})
    tracemalloc.start()
    with pytest.raises(WireError, match="expected v to hold"):
        from_records(records, {}, {"v": dtype})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@each_dtype
def test_another_dtype_is_refused(dtype: str) -> None:
    for other in set(DTYPES) - {dtype}:
        with pytest.raises(WireError, match=f"expected v to be a {dtype} vector, got {other}"):
            from_records(to_records({}, {"v": np.zeros(3, DTYPES[other])}), {}, {"v": dtype})


def test_every_missing_extra_or_mistyped_field_is_refused() -> None:
    for key, value in CONFIG.items():
        short = {name: value for name, value in CONFIG.items() if name != key}
        with pytest.raises(WireError, match="expected the fields"):
            from_records(to_records(short), FIELDS, {})
        wrong: Any = 1.5 if not isinstance(value, int) else True
        with pytest.raises(WireError, match=f"expected {key} to be"):
            from_records(to_records({**CONFIG, key: wrong}), FIELDS, {})
    with pytest.raises(WireError, match="expected the fields"):
        from_records(to_records({**CONFIG, "people": 7}), FIELDS, {})


def test_another_version_or_another_record_is_refused() -> None:
    records = to_records(CONFIG)
    config: Any = records["silhouette"]
    config["version"] = WIRE_VERSION + 1
    with pytest.raises(WireError, match="install the same release on both sides"):
        from_records(records, FIELDS, {})
    records = to_records(CONFIG)
    records["more"] = ConfigRecord({})
    with pytest.raises(WireError, match="expected the records"):
        from_records(records, FIELDS, {})
    with pytest.raises(WireError, match=r"expected the records \['arrays', 'silhouette'\]"):
        from_records(to_records(CONFIG), FIELDS, {"v": "float32"})
    with pytest.raises(WireError, match=r"expected the arrays \['v'\]"):
        from_records(to_records(CONFIG, {"w": np.zeros(1, np.float32)}), FIELDS, {"v": "float32"})


def test_the_names_of_vectors_and_the_bytes_of_a_message_are_counted() -> None:
    records = to_records({"a": "four", "b": [b"12", b"345"], "c": 7}, {"v": np.zeros(5, np.uint32)})
    assert array_names(records) == {"v"}
    assert array_names(RecordDict()) == frozenset()
    assert payload_bytes(records) == 4 + 5 + 8 + 8 + len(saved(np.zeros(5, np.uint32)).data)  # a version is 8
