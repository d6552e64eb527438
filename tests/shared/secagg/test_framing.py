"""One message, one encoding; every other bytes are refused whole and in bounded memory."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.shared.secagg.house import House, Wire

from silhouette_shared.secagg import COORDINATOR, Section, Step
from silhouette_shared.secagg.framing import (
    MESSAGE_LIMIT,
    Beside,
    Field,
    Fixed,
    FramingError,
    Integer,
    Many,
    Message,
    Number,
    Pieces,
    Real,
    Record,
    Text,
    encode_record,
    frame,
    record_limit,
    spans,
    wire_fields,
)
from silhouette_shared.secagg.messages import (
    MESSAGES,
    Advertise,
    Agreement,
    Delivery,
    Manifest,
    Masked,
    Quorum,
    Roll,
    Shares,
    Survivors,
    Transcript,
    Unmask,
)

each = pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)


def honest() -> dict[type[Message], bytes]:
    house, wire = House(3), Wire()
    outcome = house.round(wire=wire)
    down = {
        Manifest: Step.ADVERTISE,
        Roll: Step.SHARE,
        Delivery: Step.MASKED,
        Survivors: Step.CONSISTENCY,
        Quorum: Step.UNMASK,
    }
    up = {
        Advertise: Step.ADVERTISE,
        Shares: Step.SHARE,
        Masked: Step.MASKED,
        Agreement: Step.CONSISTENCY,
        Unmask: Step.UNMASK,
    }
    found: dict[type[Message], bytes] = {Transcript: outcome.transcript}
    found |= {kind: wire.of(step, sender=COORDINATOR)[0] for kind, step in down.items()}
    found |= {kind: wire.of(step, recipient=COORDINATOR)[0] for kind, step in up.items()}
    return found


HONEST = honest()


def values(field: Field) -> st.SearchStrategy[Any]:
    """Whatever a field can hold."""
    if isinstance(field, Number):
        return st.integers(0, 2**64 - 1)
    if isinstance(field, Integer):
        return st.integers(-(2**63), 2**63 - 1)
    if isinstance(field, Real):
        return st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
    if isinstance(field, Text):
        text = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5)
        return text.filter(str.isprintable)
    if isinstance(field, Fixed):
        return st.binary(min_size=field.size, max_size=field.size)
    if isinstance(field, Pieces):
        return st.integers(0, 3).flatmap(lambda count: st.binary(min_size=40 * count, max_size=40 * count))
    assert isinstance(field, Many)
    return st.lists(records(field.record), max_size=min(2, field.count)).map(tuple)


def records(kind: type[Record]) -> st.SearchStrategy[Any]:
    if kind is Section:  # a section checks its bounds
        return st.builds(
            Section,
            name=values(Text()),
            size=st.integers(1, 2**28),
            low=st.integers(-1000, 0),
            high=st.integers(0, 1000),
            people=st.integers(1, 1000),
            slack=st.integers(0, 1000),
            scale=values(Real()),
        )
    return st.builds(kind, **{name: values(field) for name, field in wire_fields(kind).items()})


@each
@given(data=st.data())
@settings(max_examples=15)
def test_decoding_undoes_encoding_and_the_other_way_round(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(records(kind))
    encoded = message.encode()
    assert kind.decode(encoded) == message
    assert kind.decode(encoded).encode() == encoded
    assert len(encoded) <= record_limit(kind) + 4


@each
@given(data=st.data())
@settings(max_examples=20)
def test_two_messages_never_have_the_same_bytes(kind: type[Message], data: st.DataObject) -> None:
    one, other = data.draw(records(kind)), data.draw(records(kind))
    assert (one.encode() == other.encode()) == (one == other)
    assert (one.body() == other.body()) == (
        dataclasses.replace(one, signature=bytes(64)) == dataclasses.replace(other, signature=bytes(64))
    )


@each
@given(junk=st.binary(max_size=400))
def test_any_bytes_are_decoded_whole_or_refused(kind: type[Message], junk: bytes) -> None:
    for data in (junk, HONEST[kind][:4] + junk, HONEST[kind][: len(junk)] + junk):
        try:
            message = kind.decode(data)
        except FramingError as error:
            assert str(error)  # noqa: PT017 - the only other way to end
        else:
            assert message.encode() == data


@each
@given(data=st.data())
@settings(max_examples=100)
def test_an_honest_message_with_some_bytes_changed_is_decoded_whole_or_refused(
    kind: type[Message], data: st.DataObject
) -> None:
    """Close to what is right: bytes changed, cut out, put in, and lengths that announce too much."""
    changed = bytearray(HONEST[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        how = data.draw(st.sampled_from(["change", "cut", "insert", "announce"]))
        if how == "change" and at < len(changed):
            changed[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del changed[at : at + data.draw(st.integers(1, 80))]
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(max_size=80))
        elif how == "announce":
            changed[at : at + 4] = data.draw(st.sampled_from([2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "big")
    try:
        message = kind.decode(bytes(changed))
    except FramingError as error:
        assert "expected" in str(error) or "announced" in str(error)  # noqa: PT017 - the only other way to end
    else:
        assert message.encode() == bytes(changed)


def peak(call: Any) -> int:
    tracemalloc.start()
    try:
        call()
    except FramingError:
        pass
    finally:
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found


@each
def test_an_announcement_of_two_gigabytes_is_refused_in_little_memory(kind: type[Message]) -> None:
    data = HONEST[kind]
    longest = 0
    for span in list(spans(kind, data)):
        for size in (2**31 - 1, 2**31, 2**32 - 1):
            wrong = data[: span.start] + size.to_bytes(4, "big") + data[span.start + 4 :]
            with pytest.raises(FramingError, match="announced"):
                kind.decode(wrong)
        longest = max(longest, peak(lambda wrong=wrong: kind.decode(wrong)))
    assert longest < 2 * MESSAGE_LIMIT


@each
def test_a_message_that_is_too_long_is_refused_before_it_is_looked_at(kind: type[Message]) -> None:
    long = HONEST[kind] + bytes(MESSAGE_LIMIT)
    with pytest.raises(FramingError, match=f"expected at most {MESSAGE_LIMIT} bytes, got {len(long)}"):
        kind.decode(long)
    assert peak(lambda: kind.decode(long)) < 20_000


@each
def test_the_largest_message_stays_under_the_limit_and_so_does_reading_it(kind: type[Message]) -> None:
    """Fifty entries wherever a sequence may have them: no allocation beyond twice the stated limit."""

    def largest(record: type[Record]) -> Any:
        found: dict[str, Any] = {}
        for name, field in wire_fields(record).items():
            if isinstance(field, Many):
                found[name] = tuple(largest(field.record) for _ in range(field.count))
            elif isinstance(field, Text):
                found[name] = "n" * field.limit
            elif isinstance(field, Fixed):
                found[name] = bytes(field.size)
            elif isinstance(field, Pieces):
                found[name] = bytes(field.limit)
            else:
                found[name] = 1
        return Section("n" * 64, 1, 0, 1) if record is Section else record(**found)

    data = largest(kind).encode()
    assert len(data) <= MESSAGE_LIMIT
    assert len(data) >= 0.9 * record_limit(kind)
    assert peak(lambda: kind.decode(data)) < 2 * MESSAGE_LIMIT
    assert peak(lambda: kind.decode(data[:-1])) < 2 * MESSAGE_LIMIT
    assert kind.decode(data).encode() == data


@each
def test_one_entry_too_many_is_refused(kind: type[Message]) -> None:
    for name, field in wire_fields(kind).items():
        if isinstance(field, Many):
            message = kind.decode(HONEST[kind])
            entry = getattr(message, name)[0]
            many = dataclasses.replace(message, **{name: (entry,) * (field.count + 1)})  # type: ignore[type-var]
            with pytest.raises(FramingError, match=f"expected a tuple of at most {field.count} entries"):
                many.encode()


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        (Number(), -1),
        (Number(), 2**64),
        (Number(), True),
        (Number(), 1.0),
        (Number(), None),
        (Integer(), 2**63),
        (Integer(), -(2**63) - 1),
        (Integer(), False),
        (Real(), 0.0),
        (Real(), -1.0),
        (Real(), float("nan")),
        (Real(), float("inf")),
        (Real(), True),
        (Real(), "1"),
        (Text(), ""),
        (Text(), "x" * 65),
        (Text(), "a\nb"),
        (Text(), "a\0"),
        (Text(), "\ud800"),
        (Text(), b"x"),
        (Fixed(3), b"ab"),
        (Fixed(3), b"abcd"),
        (Fixed(3), bytearray(3)),
        (Fixed(3), "abc"),
        (Many(Section), []),
        (Many(Section), (1,)),
        (Beside(), 1),
    ],
    ids=str,
)
def test_a_value_that_a_field_cannot_hold_is_refused(field: Field, wrong: Any) -> None:
    with pytest.raises(FramingError, match="expected"):
        field.encode(wrong)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        (Number(), bytes(7)),
        (Number(), bytes(9)),
        (Integer(), b""),
        (Real(), bytes.fromhex("7ff8000000000000")),
        (Real(), bytes.fromhex("7ff0000000000000")),
        (Real(), bytes(8)),
        (Real(), bytes.fromhex("8000000000000000")),
        (Real(), bytes(4)),
        (Text(), b""),
        (Text(), b"\xff"),
        (Text(), b"\xc0\x80"),
        (Text(), b"a\r"),
        (Text(4), b"abcde"),
        (Fixed(3), b"ab"),
        (Beside(), b""),
    ],
    ids=str,
)
def test_content_that_a_field_would_not_have_written_is_refused(field: Field, wrong: bytes) -> None:
    with pytest.raises(FramingError, match="expected"):
        field.decode(memoryview(wrong))


def test_another_version_says_what_to_do() -> None:
    data = HONEST[Manifest]
    with pytest.raises(FramingError, match="expected protocol version 2, got 1; install the same release"):
        Manifest.decode(data[:2] + b"\x01" + data[3:])


@pytest.mark.parametrize("wrong", [None, "text", 3, [1], {"a": 1}])
def test_what_is_not_bytes_is_refused(wrong: Any) -> None:
    with pytest.raises(FramingError, match="expected bytes"):
        Manifest.decode(wrong)


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_a_frame_says_where_its_parts_end(one: list[bytes], other: list[bytes]) -> None:
    assert (frame(*one) == frame(*other)) == (one == other)


def test_a_section_that_breaks_its_bounds_is_refused_while_decoding() -> None:
    good = Section("x", 3, -1, 1)
    data = encode_record(good)
    manifest = dataclasses.replace(Manifest.decode(HONEST[Manifest]), sections=(good,)).encode()
    low = (1).to_bytes(8, "big", signed=True)
    wrong = data.replace((-1).to_bytes(8, "big", signed=True), low)
    assert wrong != data
    with pytest.raises(FramingError, match="expected a range around zero"):
        Manifest.decode(manifest.replace(data, wrong))
