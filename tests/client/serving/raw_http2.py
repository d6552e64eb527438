"""A client that speaks just enough HTTP/2 to misbehave: streams that stay open, and lengths that are not true."""

from __future__ import annotations

import socket as sockets
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from silhouette_client.serving.grpc_server import SERVICE

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4


class RawClient:
    """One connection to a Unix socket. Frames are of RFC 9113, header blocks of RFC 7541 without compression."""

    def __init__(self, path: Path, timeout: float = 60) -> None:
        self._socket = sockets.socket(sockets.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def open(self, number: int, method: str = "GetProfile") -> None:
        """Begin the request of stream `number` (odd) and leave it open."""
        block = b"\x83\x86" + _named(b"\x04", f"/{SERVICE}/{method}") + _named(b"\x01", "localhost")
        block += _named(b"\x0f\x10", "application/grpc") + b"\x00" + _text("te") + _text("trailers")
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, number, block))

    def send(self, number: int, content: bytes) -> None:
        """Send a part of the request's body."""
        self._socket.sendall(_frame(_DATA, 0, number, content))

    def wait_for_end(self, number: int) -> int:
        """Read until the other side ends a stream or the connection; the bytes of all frames read."""
        read = 0
        while True:
            head = self._exactly(9)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream = struct.unpack(">I", head[5:])[0] & 0x7FFFFFFF
            self._exactly(length)
            read += 9 + length
            ended = stream == number and (
                kind == _RST_STREAM or bool(flags & _END_STREAM and kind in (_DATA, _HEADERS))
            )
            if ended or kind == _GOAWAY:
                return read

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            part = self._socket.recv(count - len(content))
            if not part:
                raise ConnectionError("expected more of the answer, got the end")
            content += part
        return content


def message(declared: int, content: bytes) -> bytes:
    """A gRPC message that says it has so many bytes."""
    return b"\x00" + declared.to_bytes(4, "big") + content


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def _named(prefix: bytes, value: str) -> bytes:
    return prefix + _text(value)


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()
