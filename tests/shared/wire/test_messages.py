"""A message is decoded whole or refused: every other form is a way in for trouble or a way out for data."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from silhouette_server.strategy.validation import Expectation, InvalidReplyError, check_update
from silhouette_shared.errors import SilhouetteError
from silhouette_shared.wire import (
    WIRE_VERSION,
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
    WireError,
)

VECTOR = np.array([0.5, -1.0, 3.0], dtype=np.float32)
DESCRIBE = DescribeRequest(run="r", plan_digest="p")
DESCRIPTION = Description(run="r", partner="a", people=7, plan_digest="p", layout_digest="l")
REQUEST = TrainRequest(run="r", round=2, plan_digest="p", parameters=VECTOR)
REPLY = TrainReply(run="r", round=2, plan_digest="p", update=VECTOR)
COUNT = StatisticRequest(run="r", statistic="transitions", plan_digest="p", active=np.array([4, 1, 9]))
COUNTED = StatisticReply(run="r", statistic="popularity", plan_digest="p", total=VECTOR)
MESSAGES = [DESCRIBE, DESCRIPTION, REQUEST, REPLY, COUNT, COUNTED]
WITH_VECTOR = [(REQUEST, "parameters"), (REPLY, "update"), (COUNT, "active"), (COUNTED, "total")]
each = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
each_vector = pytest.mark.parametrize(("message", "name"), WITH_VECTOR, ids=["request", "reply", "count", "counted"])

text = st.text(st.characters(exclude_categories=["Cs"]))
vectors = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


def same(one: object, other: object) -> bool:
    mine, theirs = vars(one), vars(other)
    return type(one) is type(other) and all(
        np.array_equal(value, theirs[key], equal_nan=True) if isinstance(value, np.ndarray) else value == theirs[key]
        for key, value in mine.items()
    )


def over_the_wire(records: RecordDict) -> RecordDict:
    """The same records after Flower has packed and unpacked them."""
    inflated: dict[str, Any] = {}
    for key, record in records.items():
        if isinstance(record, ConfigRecord):
            inflated[key] = ConfigRecord.inflate(record.deflate())
        else:
            inflated[key] = record
    return RecordDict(inflated)


@each
def test_decoding_undoes_encoding(message: Any) -> None:
    assert same(type(message).decode(over_the_wire(message.encode())), message)


@given(text, st.integers(-(2**63), 2**63 - 1), text, vectors)
def test_any_reply_survives_the_wire_undefined_numbers_included(run: str, number: int, plan: str, vector: Any) -> None:
    reply = TrainReply(run=run, round=number, plan_digest=plan, update=vector)
    assert same(TrainReply.decode(reply.encode()), reply)


@given(text, text, st.integers(0, 2**63 - 1))
def test_any_description_survives_the_wire(run: str, partner: str, people: int) -> None:
    description = Description(run=run, partner=partner, people=people, plan_digest=run, layout_digest=partner)
    assert same(Description.decode(over_the_wire(description.encode())), description)


def test_item_numbers_of_another_type_are_refused() -> None:
    records = COUNT.encode()
    records["arrays"] = ArrayRecord({"active": Array(np.array([1.0, 2.0], dtype=np.float32))})
    with pytest.raises(WireError, match="expected active to be a int64 vector, got float32"):
        StatisticRequest.decode(records)


@pytest.mark.parametrize("kind", [StatisticRequest, StatisticReply])
def test_another_statistic_is_refused(kind: Any) -> None:
    message = COUNT if kind is StatisticRequest else COUNTED
    records = message.encode()
    config = records["silhouette"]
    assert isinstance(config, ConfigRecord)
    config["statistic"] = "losses"
    with pytest.raises(WireError, match="expected the statistic popularity or transitions, got another one"):
        kind.decode(records)


def test_undefined_numbers_pass_the_codec_and_are_refused_by_validation() -> None:
    broken = np.array([np.nan, 1, np.inf], dtype=np.float32)
    update = TrainReply.decode(TrainReply(run="r", round=1, plan_digest="p", update=broken).encode()).update
    expected = Expectation(run="r", round=1, plan_digest="p", size=3, limit=10.0)
    with pytest.raises(InvalidReplyError, match="expected finite coordinates"):
        check_update(expected, run="r", round_number=1, plan_digest="p", update=update)


def test_what_was_decoded_may_be_written_to_and_is_a_copy() -> None:
    records = REPLY.encode()
    first = TrainReply.decode(records).update
    first += 1
    assert np.array_equal(TrainReply.decode(records).update, VECTOR)
    assert np.array_equal(REPLY.update, VECTOR)


def refused(message: Any, records: RecordDict, why: str) -> None:
    with pytest.raises(WireError) as caught:
        type(message).decode(records)
    assert why in str(caught.value)
    assert isinstance(caught.value, SilhouetteError)


def config_of(records: RecordDict) -> dict[str, Any]:
    return dict(records["silhouette"].items())


def with_config(records: RecordDict, config: dict[str, Any]) -> RecordDict:
    records["silhouette"] = ConfigRecord(config)
    return records


@each
def test_a_missing_field_is_refused(message: Any) -> None:
    for key in config_of(message.encode()):
        config = config_of(message.encode())
        del config[key]
        why = "expected wire version 1, got None" if key == "version" else "expected the fields ["
        refused(message, with_config(message.encode(), config), why)


@each
def test_an_extra_field_is_refused(message: Any) -> None:
    config = config_of(message.encode()) | {"loss": 0.5}
    refused(message, with_config(message.encode(), config), "expected the fields [")


@each
def test_a_field_of_another_type_is_refused(message: Any) -> None:
    for key, value in config_of(message.encode()).items():
        if key == "version":
            continue
        others: list[Any] = [1, True, 2.0, b"r", ["r"], [1], "1"]
        for other in others:
            if type(other) is not type(value):
                config = config_of(message.encode()) | {key: other}
                refused(message, with_config(message.encode(), config), f"expected {key} to be {type(value).__name__}")


@each
@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, [1], b"1"])
def test_another_version_is_refused_and_says_what_to_do(message: Any, version: Any) -> None:
    config = config_of(message.encode()) | {"version": version}
    refused(message, with_config(message.encode(), config), "install the same release on both sides")


@each
def test_an_extra_a_missing_or_an_exchanged_record_is_refused(message: Any) -> None:
    for extra in (MetricRecord({"loss": 0.5}), ConfigRecord({"a": 1}), ArrayRecord({"a": Array(VECTOR)})):
        records = message.encode()
        records["extra"] = extra
        refused(message, records, "expected the records [")
    for key in message.encode():
        records = message.encode()
        del records[key]
        refused(message, records, "expected the records [")
    records = message.encode()
    del records["silhouette"]
    records["silhouette"] = MetricRecord({"version": WIRE_VERSION})
    refused(message, records, "expected silhouette to hold settings, got MetricRecord")


@pytest.mark.parametrize("message", [DESCRIBE, DESCRIPTION], ids=["request", "description"])
def test_a_message_without_a_vector_may_not_carry_one(message: Any) -> None:
    records = message.encode()
    records["arrays"] = ArrayRecord({"update": Array(VECTOR)})
    refused(message, records, "expected the records ['silhouette']")


@each_vector
def test_arrays_under_other_names_are_refused(message: Any, name: str) -> None:
    other: list[dict[str, Array]] = [{}, {"other": Array(VECTOR)}, {name: Array(VECTOR), "other": Array(VECTOR)}]
    for arrays in other:
        records = message.encode()
        records["arrays"] = ArrayRecord(arrays)
        refused(message, records, f"expected the arrays ['{name}']")
    records = message.encode()
    del records["arrays"]
    records["arrays"] = MetricRecord({name: 1.0})
    refused(message, records, f"expected the arrays ['{name}']")


def with_array(message: Any, name: str, array: Array) -> RecordDict:
    records: RecordDict = message.encode()
    records["arrays"] = ArrayRecord({name: array})
    return records


@each_vector
@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool", "complex64", "<U3", ">f4"])
def test_another_kind_of_number_is_refused(message: Any, name: str, dtype: str) -> None:
    value = np.zeros(3, dtype=dtype)
    refused(message, with_array(message, name, Array(value)), f"expected {name} to be")


@each_vector
@pytest.mark.parametrize("size", [(), (1, 3), (3, 1), (1, 1, 3)])
def test_another_number_of_axes_is_refused(message: Any, name: str, size: tuple[int, ...]) -> None:
    array = Array(np.zeros(size, dtype=np.float32))
    own = getattr(message, name).dtype
    refused(message, with_array(message, name, array), f"expected {name} to be a {own} vector, got float32 of shape")


def saved(value: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, **settings)
    return buffer.getvalue()


def announced(data: bytes, count: int = 3, stype: str = "numpy.ndarray") -> Array:
    return Array(dtype="float32", shape=(count,), stype=stype, data=data)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("update.npy", saved(VECTOR))
    return buffer.getvalue()


def header_of(count: int, numbers: bytes) -> bytes:
    """A file whose header promises `count` numbers."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (count,)})
    return buffer.getvalue() + numbers


FORMS: dict[str, Callable[[], Array]] = {
    "fewer announced than sent": lambda: announced(saved(VECTOR), 2),
    "more announced than sent": lambda: announced(saved(VECTOR), 4),
    "a trillion announced": lambda: announced(saved(VECTOR), 10**12),
    "a negative number announced": lambda: announced(saved(VECTOR), -1),
    "a trillion in the header alone": lambda: announced(header_of(10**12, VECTOR.tobytes())),
    "bytes after the end": lambda: announced(saved(VECTOR) + b"secret"),
    "a number cut off": lambda: announced(saved(VECTOR)[:-1]),
    "nothing": lambda: announced(b""),
    "an archive": lambda: announced(archive()),
    "a broken archive": lambda: announced(b"PK\x03\x04" + bytes(100)),
    "a pickle": lambda: announced(pickle.dumps(VECTOR)),
    "an archive as long as a vector": lambda: announced(b"PK\x03\x04" + saved(VECTOR)[4:]),
    "another type in the header": lambda: announced(saved(VECTOR.astype(np.int32))),
    "the other byte order": lambda: announced(saved(VECTOR.astype(">f4"))),
    "another shape in the header": lambda: announced(saved(VECTOR[None])),
    "words in the header's padding": lambda: announced(saved(VECTOR).replace(b" " * 12, b" " * 5 + b"#secret")),
    "another way to serialise": lambda: announced(saved(VECTOR), stype="torch"),
}


@each_vector
@pytest.mark.parametrize("form", FORMS)
def test_bytes_that_are_not_the_announced_vector_are_refused(message: Any, name: str, form: str) -> None:
    refused(message, with_array(message, name, FORMS[form]()), f"expected {name} to ")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.write_text, (self.path, "caught"))


@each_vector
def test_pickled_objects_are_never_unpacked(message: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / "caught"
    crafted = saved(np.array([Trap(path)] * 3, dtype=object), allow_pickle=True)
    np.load(io.BytesIO(crafted), allow_pickle=True)
    assert path.exists()  # the trap works
    path.unlink()
    for data in (
        crafted,
        crafted + bytes(200),
        pickle.dumps(Trap(path)),
        saved(VECTOR)[:128] + pickle.dumps(Trap(path)),
    ):
        for array in (announced(data), Array(dtype="object", shape=(3,), stype="numpy.ndarray", data=data)):
            refused(message, with_array(message, name, array), f"expected {name} to ")
    assert not path.exists()


@given(st.binary(max_size=300), st.integers(-3, 50))
def test_any_bytes_are_a_vector_or_a_refusal(data: bytes, count: int) -> None:
    try:
        decoded = TrainReply.decode(with_array(REPLY, "update", announced(data, count)))
    except WireError:
        return
    assert decoded.update.shape == (count,)
    assert saved(decoded.update) == data


@given(st.integers(0, len(saved(VECTOR)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_another_number_or_a_refusal(position: int, change: int) -> None:
    data = bytearray(saved(VECTOR))
    data[position] ^= change
    try:
        decoded = TrainReply.decode(with_array(REPLY, "update", announced(bytes(data))))
    except WireError:
        assert position < 128  # the header
        return
    assert position >= 128
    assert saved(decoded.update) == bytes(data)


@given(st.dictionaries(text, st.one_of(st.integers(-5, 5), text, st.binary(), st.floats(), st.booleans())))
def test_any_settings_are_refused_unless_they_are_the_agreed_ones(config: dict[str, Any]) -> None:
    refused(DESCRIBE, with_config(DESCRIBE.encode(), config), "expected")
