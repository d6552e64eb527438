"""The wire format: every field of every message, declared once.

A message is `SA`, the version, the kind and then its fields in the declared order, each as a length of four bytes
(big-endian) and its content; a sequence is a field whose content is its entries, each an ordinary field. That is
injective, and there is exactly one encoding of a message: decoding refuses every other, so what was signed is what was
decoded. The list of all fields comes from `wire_fields`, and where each lies in encoded bytes from `spans`.

Nothing is allocated on the word of a length: a length beyond the field's own limit or beyond the bytes at hand is
refused before anything is copied.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, Self, TypeVar

from silhouette_shared.errors import IntegrityError, UsageError

VERSION = 2
MAGIC = b"SA"
MESSAGE_LIMIT = 1 << 18
"""No message is longer, in bytes; the masked vector travels beside its message."""
PARTNER_LIMIT = 50
"""No roster is longer: the full graph is made for 3 to 50 partners."""
NAME_LIMIT = 64

_LENGTH = struct.Struct(">I")
_HEADER = len(MAGIC) + 2


class FramingError(IntegrityError):
    """Bytes that are not the agreed encoding of the expected message."""


def frame(*parts: bytes) -> bytes:
    """Join parts so that no two lists of parts give the same bytes: a count, then each behind its length.

    >>> frame(b"a", b"bc") == frame(b"ab", b"c")
    False
    """
    return _LENGTH.pack(len(parts)) + b"".join(_LENGTH.pack(len(part)) + part for part in parts)


class Field(Protocol):
    """How one field is written and read."""

    @property
    def limit(self) -> int:
        """Most bytes that the content may take."""
        ...

    def encode(self, value: Any) -> bytes:
        """The content; FramingError for a value that the field cannot hold."""
        ...

    def decode(self, content: memoryview) -> Any:
        """The value; FramingError for any content that `encode` would not have written."""
        ...


@dataclass(frozen=True)
class Number:
    """A whole number from 0 to 2**64 - 1, eight bytes."""

    limit: ClassVar[int] = 8

    def encode(self, value: int) -> bytes:
        """Eight bytes, big-endian."""
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
            raise FramingError(f"expected a whole number from 0 to 2**64 - 1, got {type(value).__name__}; change it")
        return value.to_bytes(8, "big")

    def decode(self, content: memoryview) -> int:
        """The number."""
        _exactly(content, 8)
        return int.from_bytes(content, "big")


@dataclass(frozen=True)
class Integer:
    """A whole number from -2**63 to 2**63 - 1, eight bytes in two's complement."""

    limit: ClassVar[int] = 8

    def encode(self, value: int) -> bytes:
        """Eight bytes, big-endian."""
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
            raise FramingError(f"expected a whole number of 64 bits, got {type(value).__name__}; change it")
        return value.to_bytes(8, "big", signed=True)

    def decode(self, content: memoryview) -> int:
        """The number."""
        _exactly(content, 8)
        return int.from_bytes(content, "big", signed=True)


@dataclass(frozen=True)
class Real:
    """A positive finite number, eight bytes."""

    limit: ClassVar[int] = 8

    def encode(self, value: float) -> bytes:
        """IEEE 754 binary64, big-endian."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise FramingError(f"expected a positive, finite number, got {value!r}; change it")
        return struct.pack(">d", value)

    def decode(self, content: memoryview) -> float:
        """The number."""
        _exactly(content, 8)
        (value,) = struct.unpack(">d", content)
        if not 0 < value < math.inf:
            raise FramingError(f"expected a positive, finite number, got {value!r}; refuse the sender")
        return float(value)


@dataclass(frozen=True)
class Text:
    """A non-empty UTF-8 text of printable characters, at most `limit` bytes."""

    limit: int = NAME_LIMIT

    def encode(self, value: str) -> bytes:
        """UTF-8."""
        try:
            content = value.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise FramingError(f"expected a text, got {type(value).__name__}; change it") from error
        self._check(value, len(content))
        return content

    def decode(self, content: memoryview) -> str:
        """The text."""
        try:
            value = str(content, "utf-8")
        except UnicodeDecodeError as error:
            raise FramingError("expected UTF-8, got other bytes; refuse the sender") from error
        self._check(value, len(content))
        return value

    def _check(self, value: str, size: int) -> None:
        if not 0 < size <= self.limit or not value.isprintable():
            raise FramingError(f"expected 1 to {self.limit} bytes of printable text, got {size}; change it")


@dataclass(frozen=True)
class Fixed:
    """Exactly so many bytes."""

    size: int

    @property
    def limit(self) -> int:
        """The one size."""
        return self.size

    def encode(self, value: bytes) -> bytes:
        """The bytes themselves."""
        if not isinstance(value, bytes) or len(value) != self.size:
            raise FramingError(f"expected {self.size} bytes, got {_size(value)}; change it")
        return value

    def decode(self, content: memoryview) -> bytes:
        """A copy of the bytes."""
        _exactly(content, self.size)
        return bytes(content)


@dataclass(frozen=True)
class Pieces:
    """At most `count` pieces of `size` bytes each, one after the other."""

    size: int
    count: int = PARTNER_LIMIT

    @property
    def limit(self) -> int:
        """All of them."""
        return self.size * self.count

    def encode(self, value: bytes) -> bytes:
        """The bytes themselves."""
        if not isinstance(value, bytes) or len(value) % self.size or len(value) > self.limit:
            raise FramingError(
                f"expected at most {self.count} pieces of {self.size} bytes, got {_size(value)}; change it"
            )
        return value

    def decode(self, content: memoryview) -> bytes:
        """A copy of the bytes."""
        if len(content) % self.size or len(content) > self.limit:
            raise FramingError(f"expected pieces of {self.size} bytes, got {len(content)} bytes; refuse the sender")
        return bytes(content)


@dataclass(frozen=True)
class Many:
    """A sequence of records, at most `count`."""

    record: type[Record]
    count: int = PARTNER_LIMIT

    @property
    def limit(self) -> int:
        """All entries at their longest, each behind its length."""
        return self.count * (_LENGTH.size + record_limit(self.record))

    def encode(self, value: tuple[Record, ...]) -> bytes:
        """Each entry behind its length."""
        if not isinstance(value, tuple) or len(value) > self.count:
            raise FramingError(f"expected a tuple of at most {self.count} entries, got {_size(value)}; change it")
        for entry in value:
            if type(entry) is not self.record:
                raise FramingError(f"expected {self.record.__name__}, got {type(entry).__name__}; change it")
        return b"".join(_prefixed(encode_record(entry)) for entry in value)

    def decode(self, content: memoryview) -> tuple[Record, ...]:
        """The entries."""
        entries: list[Record] = []
        longest = record_limit(self.record)
        at = 0
        while at < len(content):
            if len(entries) == self.count:
                raise FramingError(f"expected at most {self.count} entries, got more; refuse the sender")
            inner, at = _cut(content, at, longest, self.record.__name__)
            entries.append(decode_record(self.record, inner))
        return tuple(entries)


@dataclass(frozen=True)
class Beside:
    """A masked vector: not in the bytes but next to them, as an array that the transport cuts into chunks."""

    limit: ClassVar[int] = 0

    def encode(self, value: object) -> bytes:
        """Never called: `wire_fields` leaves these out unless asked for."""
        raise FramingError(f"expected a field that is written into the message, got {type(value).__name__}")

    def decode(self, content: memoryview) -> object:
        """Never called: `wire_fields` leaves these out unless asked for."""
        raise FramingError(f"expected a field that is read from the message, got {len(content)} bytes")


DIGEST = Fixed(32)
PUBLIC_KEY = Fixed(32)
SIGNATURE = Fixed(64)


def wire(kind: Field, **options: Any) -> Any:
    """Declare a dataclass field together with its form on the wire."""
    return field(metadata={"wire": kind}, **options)


class Record:
    """A dataclass whose fields are all declared with `wire`."""


R = TypeVar("R", bound=Record)


class Message(Record):
    """A record that travels alone; its last field is a signature of everything before it.

    `KIND` is its number on the wire and `LABEL` what its signature says it is.
    """

    KIND: ClassVar[int]
    LABEL: ClassVar[bytes]
    signature: bytes

    def encode(self) -> bytes:
        """The one encoding of this message.

        Raises:
            FramingError: If a field does not fit its declared form, or all of them are too long together.
        """
        data = self._header() + encode_record(self)
        if len(data) > MESSAGE_LIMIT:
            raise FramingError(f"expected at most {MESSAGE_LIMIT} bytes, got {len(data)}; send less")
        return data

    def body(self) -> bytes:
        """What the signature covers: header and all fields but the signature."""
        return self._header() + b"".join(
            _prefixed(kind.encode(getattr(self, name)))
            for name, kind in wire_fields(type(self)).items()
            if name != "signature"
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read exactly what `encode` writes.

        Raises:
            FramingError: For every other bytes; nothing beyond MESSAGE_LIMIT is looked at or copied.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise FramingError(f"expected bytes, got {type(data).__name__}; refuse the sender")
        if len(data) > MESSAGE_LIMIT:
            raise FramingError(f"expected at most {MESSAGE_LIMIT} bytes, got {len(data)}; refuse the sender")
        view = memoryview(data)
        if bytes(view[: len(MAGIC)]) != MAGIC or len(view) < _HEADER:
            raise FramingError(f"expected a message that starts with {MAGIC!r}, got other bytes; refuse the sender")
        version, kind = view[len(MAGIC)], view[len(MAGIC) + 1]
        if version != VERSION:
            raise FramingError(f"expected protocol version {VERSION}, got {version}; install the same release")
        if kind != cls.KIND:
            raise FramingError(f"expected message {cls.__name__} ({cls.KIND}), got kind {kind}; send the step's own")
        return decode_record(cls, view[_HEADER:])

    @classmethod
    def _header(cls) -> bytes:
        return MAGIC + bytes([VERSION, cls.KIND])


# Read from the classes once each; they never change.
_DECLARED: dict[tuple[type[Record], bool], Mapping[str, Field]] = {}
_LONGEST: dict[type[Record], int] = {}


def wire_fields(record: type[Record], *, beside: bool = False) -> Mapping[str, Field]:
    """The declared fields of a record, in the order in which they are written.

    Args:
        record: Its class.
        beside: Also those that travel next to the bytes.
    """
    found = _DECLARED.get((record, beside))
    if found is None:
        declared: dict[str, Field] = {item.name: item.metadata["wire"] for item in fields(record)}  # type: ignore[arg-type]
        found = {name: kind for name, kind in declared.items() if beside or not isinstance(kind, Beside)}
        _DECLARED[record, beside] = found
    return found


def record_limit(record: type[Record]) -> int:
    """Most bytes that a record's fields take, lengths included."""
    found = _LONGEST.get(record)
    if found is None:
        found = _LONGEST[record] = sum(_LENGTH.size + kind.limit for kind in wire_fields(record).values())
    return found


def encode_record(record: Record) -> bytes:
    """All fields, each behind its length."""
    return b"".join(_prefixed(kind.encode(getattr(record, name))) for name, kind in wire_fields(type(record)).items())


def decode_record(record: type[R], content: memoryview) -> R:
    """All fields and nothing after them; FramingError otherwise."""
    values: dict[str, Any] = {}
    at = 0
    for name, kind in wire_fields(record).items():
        where = f"{record.__name__}.{name}"
        inner, at = _cut(content, at, kind.limit, where)
        try:
            values[name] = kind.decode(inner)
        except FramingError as error:
            raise FramingError(f"{where}: {error}") from error
    if at != len(content):
        raise FramingError(f"expected the end of {record.__name__}, got {len(content) - at} more bytes; refuse it")
    try:
        return record(**values)
    except UsageError as error:
        raise FramingError(f"{record.__name__}: {error}") from error


@dataclass(frozen=True)
class Span:
    """Where a field lies in encoded bytes, its length included: `data[start:stop]`."""

    path: str
    start: int
    stop: int


def spans(message: type[Message], data: bytes) -> Iterator[Span]:
    """Every field of an encoded message and every entry of its sequences, outermost first.

    Args:
        message: Its class.
        data: Bytes that `message.decode` accepts.
    """
    yield from _spans(message, memoryview(data), _HEADER, message.__name__)


def _spans(record: type[Record], data: memoryview, at: int, path: str) -> Iterator[Span]:
    for name, kind in wire_fields(record).items():
        inner, stop = _cut(data, at, kind.limit, name)
        yield Span(f"{path}.{name}", at, stop)
        if isinstance(kind, Many):
            entry = at + _LENGTH.size
            index = 0
            while entry < stop:
                _, after = _cut(data, entry, len(inner), name)
                yield Span(f"{path}.{name}[{index}]", entry, after)
                yield from _spans(kind.record, data, entry + _LENGTH.size, f"{path}.{name}[{index}]")
                entry, index = after, index + 1
        at = stop


def _cut(data: memoryview, at: int, limit: int, where: str) -> tuple[memoryview, int]:
    """The content that starts with its length at `at`, and where it ends. No byte is copied."""
    if len(data) - at < _LENGTH.size:
        raise FramingError(f"{where}: expected a length of {_LENGTH.size} bytes, got the end; refuse the sender")
    (size,) = _LENGTH.unpack_from(data, at)
    start = at + _LENGTH.size
    if size > limit:
        raise FramingError(f"{where}: expected at most {limit} bytes, {size} are announced; refuse the sender")
    if size > len(data) - start:
        raise FramingError(f"{where}: {size} bytes are announced, {len(data) - start} are there; refuse the sender")
    return data[start : start + size], start + size


def _prefixed(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


def _exactly(content: memoryview, size: int) -> None:
    if len(content) != size:
        raise FramingError(f"expected {size} bytes, got {len(content)}; refuse the sender")


def _size(value: object) -> str:
    return str(len(value)) if isinstance(value, bytes | tuple) else type(value).__name__
