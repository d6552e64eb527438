"""A message of a secure round is that of its step, whole, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from silhouette_shared.wire.codec import WireError
from silhouette_shared.wire.exchange import _ANSWERED, _ASKED, STEPS, Answer, Exchange, ExchangeStep

MODEL = np.array([0.5, -1.0], np.float32)
WORDS = np.array([1, 2**32 - 1], np.uint32)


def exchanges() -> Iterator[Exchange]:
    """One of every form."""
    for step, forms in _ASKED.items():
        for names in forms:
            begins = "manifest" in names
            yield Exchange(
                run="r",
                purpose="training",
                round=4,
                step=step,
                parts={name: name.encode() for name in names},
                missed=(b"one", b"two") if begins else (),
                inputs={"parameters": MODEL} if begins else {},
            )


def answers() -> Iterator[Answer]:
    """One of every form."""
    for step, forms in _ANSWERED.items():
        for names in forms:
            parts = {name: name.encode() for name in names}
            yield Answer("r", "training", 4, step, parts, WORDS if step == "mask" else None)


MESSAGES: list[Any] = [*exchanges(), *answers()]
each = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: f"{type(m).__name__} {m.step} {len(m.parts)}")


def same(one: Any, other: Any) -> bool:
    mine, theirs = vars(one), vars(other)
    for name, value in mine.items():
        if name == "inputs":
            if value.keys() != theirs[name].keys():
                return False
            if not all(np.array_equal(value[key], theirs[name][key]) for key in value):
                return False
        elif isinstance(value, np.ndarray):
            if not np.array_equal(value, theirs[name]):
                return False
        elif value != theirs[name]:
            return False
    return type(one) is type(other)


def changed(message: Any, **config: Any) -> RecordDict:
    records: RecordDict = message.encode()
    found: dict[str, Any] = dict(records["silhouette"].items())
    found.update(config)
    records["silhouette"] = ConfigRecord({key: value for key, value in found.items() if value is not None})
    return records


@each
def test_decoding_undoes_encoding(message: Any) -> None:
    assert same(type(message).decode(message.encode()), message)


@each
def test_every_missing_extra_or_mistyped_field_is_refused(message: Any) -> None:
    fields = dict(message.encode()["silhouette"].items())
    for name, value in fields.items():
        with pytest.raises(WireError):
            type(message).decode(changed(message, **{name: None}))
        for other in (1.5, b"r", "r", 3, True, [1], ["r"], [2.5]):
            # A text or a number of the right type is a matter of the step, looked at below.
            if type(other) is not type(value) or (isinstance(other, list) and name in ("parts", "missed", "names")):
                with pytest.raises(WireError):
                    type(message).decode(changed(message, **{name: other}))
    with pytest.raises(WireError, match="expected the fields"):
        type(message).decode(changed(message, people=7))


@each
def test_the_parts_are_those_of_the_step_and_no_others(message: Any) -> None:
    allowed = (_ASKED if isinstance(message, Exchange) else _ANSWERED)[message.step]
    every = {name for forms in (*_ASKED.values(), *_ANSWERED.values()) for form in forms for name in form}
    for name in every:
        names = set(message.parts) ^ {name}
        if frozenset(names) not in allowed:
            other = replace(message, parts=dict.fromkeys(names, b"x"))
            with pytest.raises(WireError, match=f"expected the parts of the step {message.step}"):
                type(message).decode(other.encode())


@each
def test_names_are_once_in_order_and_one_for_every_part(message: Any) -> None:
    names, parts = sorted(message.parts), [message.parts[name] for name in sorted(message.parts)]
    for wrong_names, wrong_parts in (
        (names[::-1], parts) if len(names) > 1 else ([], parts),
        (names + names[:1], parts + parts[:1]),
        (names, [*parts, b"more"]),
        ([*names, "more"], parts),
    ):
        with pytest.raises(WireError, match="expected a name for every part"):
            type(message).decode(changed(message, names=wrong_names, parts=wrong_parts))


@each
def test_another_step_is_refused_or_needs_its_own_parts(message: Any) -> None:
    for step in (*STEPS, "train", ""):
        if step != message.step:
            with pytest.raises(WireError):
                type(message).decode(changed(message, step=step))


@pytest.mark.parametrize("step", STEPS)
def test_words_travel_in_the_step_mask_and_only_there(step: ExchangeStep) -> None:
    parts = dict.fromkeys(_ANSWERED[step][0], b"x")
    wrong = Answer("r", "training", 1, step, parts, None if step == "mask" else WORDS)
    with pytest.raises(WireError, match="expected masked words in the step mask and only there"):
        Answer.decode(wrong.encode())


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.int64, np.uint8, np.float64])
def test_words_of_another_type_are_refused(dtype: Any) -> None:
    wrong = Answer("r", "training", 1, "mask", {"masked": b"x"}, WORDS.astype(dtype))
    with pytest.raises(WireError, match="expected words to be a uint32 vector"):
        Answer.decode(wrong.encode())


def test_inputs_and_transcripts_come_with_a_manifest_alone() -> None:
    for one in exchanges():
        if "manifest" not in one.parts:
            for more in (replace(one, inputs={"parameters": MODEL}), replace(one, missed=(b"one",))):
                with pytest.raises(WireError, match="beside a manifest alone"):
                    Exchange.decode(more.encode())


def test_unknown_or_mistyped_inputs_are_refused() -> None:
    (begin, *_) = exchanges()
    records = begin.encode()
    records["arrays"] = ArrayRecord({"parameters": Array(MODEL), "histories": Array(MODEL)})
    with pytest.raises(WireError, match="expected the arrays"):
        Exchange.decode(records)
    records["arrays"] = ArrayRecord({"active": Array(MODEL)})
    with pytest.raises(WireError, match="expected active to be a int64 vector"):
        Exchange.decode(records)


@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.binary(max_size=40), max_size=5), st.binary(max_size=200))
def test_any_bytes_of_the_state_machines_survive(number: int, missed: list[bytes], manifest: bytes) -> None:
    one = Exchange("r", "training", number, "advertise", {"manifest": manifest}, tuple(missed), {"parameters": MODEL})
    assert same(Exchange.decode(one.encode()), one)
