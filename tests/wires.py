"""Network namespaces with one cable each to the coordinator's, and everything that passes those cables."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_RECORDER = """
import signal, socket, struct, sys
out = open(sys.argv[1], "wb")
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
line.setsockopt(socket.SOL_SOCKET, 33, 1 << 28)  # SO_RCVBUFFORCE
line.settimeout(0.5)
going = [True]

def stop(*_):
    going.clear()
    line.settimeout(0.0)  # what is there already is read to its end

signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    try:
        frame, where = line.recvfrom(1 << 18)
    except (TimeoutError, BlockingIOError):
        if going:
            continue
        break
    if where[0] != "lo" or sys.argv[2] == "with loopback":
        out.write(struct.pack("<I", len(frame)) + frame)
out.close()
_, dropped = struct.unpack("II", line.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
print(dropped, flush=True)
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=120)


def why_not() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"silhouette-try-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.SubprocessError) as error:
        return f"network namespaces are not allowed here: {type(error).__name__}"
    return ""


@dataclass
class Wires:
    """A namespace for the coordinator and one for each partner, with a cable between.

    Args:
        partners: Their names.
    """

    partners: Sequence[str]
    made: list[str] = field(default_factory=list)

    HOST = "10.77.0.1"
    """The coordinator's address."""

    def space(self, who: str) -> str:
        """Name of a namespace."""
        return f"sil-{os.getpid()}-{who}"

    def within(self, who: str) -> list[str]:
        """What a command is begun with that is to run there."""
        return ["ip", "netns", "exec", self.space(who)]

    def __enter__(self) -> Wires:
        try:
            for who in ("coordinator", *self.partners):
                _ip("netns", "add", self.space(who))
                self.made.append(self.space(who))
                _ip("-n", self.space(who), "link", "set", "lo", "up")
            for number, name in enumerate(self.partners):
                self._connect(number, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self, number: int, name: str) -> None:
        here, there = self.space("coordinator"), self.space(name)
        _ip("-n", here, "link", "add", f"to{number}", "type", "veth", "peer", "name", "out", "netns", there)
        _ip("-n", here, "addr", "add", f"10.77.{number}.1/24", "dev", f"to{number}")
        _ip("-n", there, "addr", "add", f"10.77.{number}.2/24", "dev", "out")
        _ip("-n", here, "link", "set", f"to{number}", "up")
        _ip("-n", there, "link", "set", "out", "up")
        _ip("-n", there, "route", "add", "default", "via", f"10.77.{number}.1")

    def __exit__(self, *_: object) -> None:
        for name in self.made:
            with suppress(OSError, subprocess.SubprocessError):
                _ip("netns", "del", name)

    def run(self, who: str, code: str, *arguments: object) -> str:
        """Python in a namespace; what it printed."""
        done = subprocess.run(
            [*self.within(who), sys.executable, "-c", code, *map(str, arguments)],
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.stdout

    def listening(self, who: str) -> set[int]:
        """Ports with a listener there, on whatever address."""
        lines = self.run(who, "print(open('/proc/net/tcp').read() + open('/proc/net/tcp6').read())").splitlines()
        fields = [line.split() for line in lines if ":" in line]
        return {int(one[1].rpartition(":")[2], 16) for one in fields if len(one) > 3 and one[3] == "0A"}

    def reachable(self, who: str, address: str, ports: set[int]) -> set[int]:
        """Which of these ports take a connection from there."""
        code = (
            "import socket, sys\n"
            "for port in map(int, sys.argv[2:]):\n"
            "    with socket.socket() as one:\n"
            "        one.settimeout(3)\n"
            "        if one.connect_ex((sys.argv[1], port)) == 0: print(port)\n"
        )
        return {int(line) for line in self.run(who, code, address, *sorted(ports)).split()}

    def shout(self, who: str, content: bytes) -> None:
        """Send bytes in clear to a port of the coordinator's that nobody listens on: the cable sees them."""
        code = (
            "import socket, sys\n"
            "data = bytes.fromhex(sys.argv[2])\n"
            "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:\n"
            "    for start in range(0, len(data), 1000): one.sendto(data[start : start + 1000], (sys.argv[1], 9))\n"
        )
        self.run(who, code, self.HOST, content.hex())


class Recording:
    """Every frame that passes somebody's cables, from `start` to `stop`.

    Args:
        wires: The namespaces.
        path: File for the frames.
        who: Whose cables.
        loopback: Also what its own processes say to one another.
    """

    def __init__(self, wires: Wires, path: Path, who: str = "coordinator", *, loopback: bool = False) -> None:
        self._path = path
        what = "with loopback" if loopback else "cables"
        self._command = [*wires.within(who), sys.executable, "-c", _RECORDER, str(path), what]
        self._process = self._begun()

    def _begun(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def go_on(self) -> None:
        """Begin anew where it was stopped, as by the first try of a test that is tried again."""
        if self._process.poll() is not None:
            self._process = self._begun()

    def stop(self) -> int:
        """How many frames were lost."""
        time.sleep(0.5)
        self._process.terminate()
        out, _ = self._process.communicate(timeout=300)
        return int(out)

    def close(self) -> None:
        """End it, if it was not stopped."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def streams(self) -> dict[tuple[bytes, int, bytes, int], bytes]:
        """What each side of each connection sent, in order; datagrams one after the other."""
        parts: dict[tuple[bytes, int, bytes, int], list[list[tuple[int, bytes]]]] = defaultdict(lambda: [[]])
        for frame in self.frames():
            if (found := _payload(frame)) is not None:
                key, sequence, content, begins = found
                if begins and parts[key][-1] and parts[key][-1][0][0] != sequence:
                    parts[key].append([])  # the same two ports, in use a second time
                parts[key][-1].append((sequence, content))
        return {key: b"".join(map(_joined, connections)) for key, connections in parts.items()}

    def frames(self) -> Iterator[bytes]:
        """One after the other, as they passed."""
        with self._path.open("rb") as file:
            while head := file.read(4):
                yield file.read(struct.unpack("<I", head)[0])


def _payload(frame: bytes) -> tuple[tuple[bytes, int, bytes, int], int, bytes, bool] | None:
    """Ends of an IPv4 packet, number of its first byte (-1 for a datagram), what it carries, if it begins a stream."""
    if frame[12:14] != b"\x08\x00":
        return None
    packet = frame[14:]
    packet = packet[: int.from_bytes(packet[2:4], "big") or len(packet)]
    inner, protocol = packet[(packet[0] & 15) * 4 :], packet[9]
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return None
    key = (packet[12:16], int.from_bytes(inner[:2], "big"), packet[16:20], int.from_bytes(inner[2:4], "big"))
    if protocol == socket.IPPROTO_UDP:
        return key, -1, inner[8:], False
    begun = bool(inner[13] & 2)  # SYN takes up a number
    return key, int.from_bytes(inner[4:8], "big") + begun, inner[(inner[12] >> 4) * 4 :], begun


def _joined(pieces: list[tuple[int, bytes]]) -> bytes:
    if pieces[0][0] < 0:
        return b"".join(content for _, content in pieces)
    first, found = pieces[0][0], bytearray()
    for sequence, content in pieces:
        at = (sequence - first) % 2**32
        if not content or at >= 2**31:  # before the first one seen
            continue
        found.extend(bytes(max(0, at + len(content) - len(found))))
        found[at : at + len(content)] = content
    return bytes(found)
