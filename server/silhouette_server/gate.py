"""The one open port of a coordinator: TLS with a client certificate, and nothing but the calls of partners' SuperNodes.

Flower serves partners, operators and its own workers on one port, and in the open version the operators' interface asks
for no credential. So the SuperLink listens on loopback alone, and this forwards what `gate_rules` lets pass.

A SuperNode that is told that there is no message sleeps three seconds. The gate keeps such a question for a while, asks
the SuperLink again in its place, and answers as soon as there is a message: the stock SuperNode is not kept waiting.
In the same way a SuperNode that asks to be let in waits here while the SuperLink still counts the one before it as
connected, up to a minute after a kill; the stock one would end and be started again.
"""

import asyncio
import logging
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import h11
import httpx

from silhouette_server.gate_rules import ACTIVATE, HEARTBEAT, PULL, Holder, check_request, passed_on
from silhouette_shared.supervision import Heart

_LOG = logging.getLogger(__name__)

Holders = Callable[[int], Holder | None]
"""Who holds the certificate with a serial number; asked for every request, so that a revocation holds from the next."""


@dataclass(frozen=True)
class GateLimits:
    """What one connection may take, seconds and bytes."""

    connections: int = 512
    connections_each: int = 64  # of one partner
    handshake_seconds: float = 10.0
    head_bytes: int = 16 * 1024
    head_seconds: float = 10.0  # from the first byte of a request to the end of its head
    idle_seconds: float = 120.0  # between requests
    body_seconds: float = 60.0
    answer_seconds: float = 60.0
    start_seconds: float = 10.0  # that a request waits for a SuperLink that is being started, or lets nobody in yet
    overlap_seconds: float = 5.0  # after which no call of a SuperNode that was killed is still on its way
    hold_seconds: float = 15.0  # a SuperNode waits 30 for an answer
    ask_seconds: float = 0.2  # between two questions for a held one
    ask_idle_seconds: float = 1.0  # the same where nothing else was asked for long
    busy_seconds: float = 30.0  # after which that is long


@dataclass(frozen=True)
class GateFiles:
    """Certificates of both sides of the gate."""

    certificate: Path  # the server's, with the names that partners know it by
    key: Path
    authority: Path  # who signs partners' certificates
    superlink: Path  # certificate that the SuperLink shows on loopback


@dataclass
class _Count:
    total: int = 0
    by_serial: dict[int, int] = field(default_factory=dict)


class Gate:
    """Serves partners until it is closed.

    Args:
        files: Certificates.
        superlink: Address of the SuperLink on loopback, host:port.
        holders: Who is on the roster.
        limits: Of connections.
    """

    def __init__(self, files: GateFiles, superlink: str, holders: Holders, limits: GateLimits | None = None) -> None:
        self.limits = limits or GateLimits()
        self.holders = holders
        self._files, self._superlink = files, superlink
        self._count = _Count()
        self._turned_away: dict[str, float] = {}  # since when, by partner
        self._heard: dict[str, float] = {}  # when it last made a call that takes being let in, by partner
        self._worked: dict[int, float] = {}  # when it last came or had a message, by certificate

    async def serve(self, host: str, port: int, heart: Heart | None = None) -> None:
        """Listen until cancelled."""
        inner = ssl.create_default_context(cafile=str(self._files.superlink))
        async with httpx.AsyncClient(
            base_url=f"https://{self._superlink}",
            verify=inner,
            timeout=self.limits.answer_seconds,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # what one partner is told, no other says
            # The SuperLink closes a connection that was idle for 5 s, maybe just as the next call is on its way.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
        ) as upstream:

            async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._connection(upstream, reader, writer)

            server = await asyncio.start_server(
                serve_one,
                host,
                port,
                ssl=tls_context(self._files),
                ssl_handshake_timeout=self.limits.handshake_seconds,
                limit=2**18,
            )
            async with server:
                _LOG.info("the gate is open on %s:%d", host, port)
                while True:
                    (heart or Heart(None)).beat()
                    await asyncio.sleep(1.0)

    async def _connection(
        self, upstream: httpx.AsyncClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        serial = _serial(writer)
        count, limits = self._count, self.limits
        each = count.by_serial.get(serial, 0)
        if count.total >= limits.connections or each >= limits.connections_each:
            _LOG.warning("too many connections; one of certificate %x is closed", serial)
            writer.close()
            return
        count.total += 1
        count.by_serial[serial] = each + 1
        try:
            await _Conversation(self, serial, upstream, reader, writer).run()
        except (TimeoutError, ConnectionError, ssl.SSLError, h11.RemoteProtocolError) as error:
            _LOG.info("a connection of certificate %x ends: %s", serial, type(error).__name__)
        finally:
            count.total -= 1
            count.by_serial[serial] -= 1
            if not count.by_serial[serial]:
                del count.by_serial[serial]
            writer.close()

    def heard(self, serial: int, name: str, path: str) -> None:
        """A call of a SuperNode."""
        if path != ACTIVATE:  # only one that was let in makes it
            self._heard[name] = _now()
        if path not in (PULL, HEARTBEAT):
            self._worked[serial] = _now()

    def is_busy(self, serial: int) -> bool:
        """Whether the SuperNode with this certificate had a message, or came, a short while ago."""
        return _now() - self._worked.get(serial, -math.inf) < self.limits.busy_seconds

    def turned_away(self, name: str, away: bool) -> None:
        """Notice a SuperNode that asks to be let in while another one with the same key is at work.

        One that was started again after a kill waits, too, as long as the SuperLink counts the one before it as
        connected, or where it does not know its key yet; but then nobody else calls in its name.
        """
        now = _now()
        if not away:
            self._turned_away.pop(name, None)
            return
        since = self._turned_away.setdefault(name, now)
        if since == now:
            _LOG.warning("%s asks to be let in, and the SuperLink counts it as connected or does not know it yet", name)
        elif self._heard.get(name, since) - since > self.limits.overlap_seconds:
            _LOG.error(
                "a second SuperNode with the key of %s asks to be let in while the first one lives: its key was "
                "copied, or two nodes of it run; ask the partner, and revoke it if it cannot say",
                name,
            )
            self._turned_away[name] = now - 1e-3  # said again after as long


def tls_context(files: GateFiles) -> ssl.SSLContext:
    """TLS 1.3 with a certificate of the authority on both sides."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _serial(writer: asyncio.StreamWriter) -> int:
    certificate = writer.get_extra_info("peercert") or {}
    return int(certificate.get("serialNumber", "0"), 16)


_START_PAUSE = 0.25
_LET_IN_PAUSE = 0.5


def _now() -> float:
    return asyncio.get_running_loop().time()


class _Conversation:
    """The requests of one connection, one after the other."""

    def __init__(
        self,
        gate: Gate,
        serial: int,
        upstream: httpx.AsyncClient,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._gate, self._serial = gate, serial
        self._limits, self._holders = gate.limits, gate.holders
        self._upstream, self._reader, self._writer = upstream, reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)

    async def run(self) -> None:
        while True:
            request = await self._head()
            if request is None:
                return
            await self._answer(request)
            if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _head(self) -> h11.Request | None:
        """The next request's head; None if the partner has no more."""
        async with asyncio.timeout(self._limits.idle_seconds) as waiting:
            begun = False
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                await self._feed()
                if not begun:
                    begun = True
                    waiting.reschedule(asyncio.get_running_loop().time() + self._limits.head_seconds)

    async def _feed(self) -> None:
        self._http.receive_data(await self._reader.read(2**18))

    async def _answer(self, request: h11.Request) -> None:
        headers = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in request.headers}
        path = request.target.decode("ascii", errors="replace")
        holder = self._holders(self._serial)
        if holder is not None and (request.method, path) == (b"HEAD", "/"):  # what time it is here
            await self._send(204, {}, b"")
            return
        refusal = check_request(holder, request.method.decode("ascii"), path, headers)
        if refusal is not None:
            name = holder.name if holder else f"certificate {self._serial:x}"
            _LOG.warning("refused %s: %d, %s (%r)", name, refusal.status, refusal.reason, path[:80])
            await self._send(refusal.status, {}, refusal.reason.encode(), close=True)
            return
        body = await self._body()
        if holder is not None:
            self._gate.heard(self._serial, holder.name, path)
        try:
            status, answered, content = await self._forward(path, passed_on(headers), body)
        except httpx.HTTPError as error:
            # 503 and 504 make a SuperNode try again; anything else makes it end.
            _LOG.warning("the SuperLink does not answer (%s)", type(error).__name__)
            await self._send(503, {}, b"the coordinator is not ready")
            return
        await self._send(status, answered, content)

    async def _body(self) -> bytes:
        parts: list[bytes] = []
        async with asyncio.timeout(self._limits.body_seconds):
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        raise h11.RemoteProtocolError("expected a body at once")
                    await self._feed()
                elif isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return b"".join(parts)
                else:
                    raise ConnectionResetError

    async def _forward(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        answer = await self._ask(path, headers, body)
        if path == PULL:
            answer = await self._hold(answer, path, headers, body)
        if path == ACTIVATE:
            answer = await self._let_in(answer, path, headers, body)
        return answer.status_code, passed_on(answer.headers), answer.content

    async def _ask(self, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """The SuperLink's answer. It may be being started: a SuperNode that is turned away is away for long."""
        until = _now() + self._limits.start_seconds
        while True:
            try:
                return await self._upstream.post(path, headers=headers, content=body)
            except httpx.ConnectError:
                if _now() + _START_PAUSE > until or self._is_gone():
                    raise
                await asyncio.sleep(_START_PAUSE)

    async def _hold(self, answer: httpx.Response, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """Ask for messages until there is one or it has taken long."""
        until = _now() + self._limits.hold_seconds
        pause = self._limits.ask_seconds if self._gate.is_busy(self._serial) else self._limits.ask_idle_seconds
        while answer.status_code == 200 and not answer.content and _now() + pause < until:
            await asyncio.sleep(pause)
            # A message that is fetched for somebody who is gone, or revoked meanwhile, would be lost.
            holder = self._holders(self._serial)
            if self._is_gone() or holder is None or not holder.active:
                raise ConnectionResetError
            answer = await self._ask(path, headers, body)
        return answer

    async def _let_in(self, answer: httpx.Response, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """Ask to be let in until it is so or has taken long; 503 then, on which a SuperNode asks again."""
        holder = self._holders(self._serial)
        name = holder.name if holder else ""
        until = _now() + self._limits.start_seconds
        while answer.is_client_error and answer.status_code != 401:
            self._gate.turned_away(name, away=True)
            if _now() + _LET_IN_PAUSE > until:
                return httpx.Response(503, content=b"not let in yet")
            await asyncio.sleep(_LET_IN_PAUSE)
            if self._is_gone():
                raise ConnectionResetError
            answer = await self._ask(path, headers, body)
        self._gate.turned_away(name, away=False)
        return answer

    def _is_gone(self) -> bool:
        broken = self._reader.exception() is not None
        return self._reader.at_eof() or broken or self._writer.transport.is_closing()

    async def _send(self, status: int, headers: dict[str, str], content: bytes, *, close: bool = False) -> None:
        # The date is for connectors: with another clock than the SuperLink's a SuperNode cannot sign.
        date = format_datetime(datetime.now(UTC), usegmt=True)
        fields = [*headers.items(), ("content-length", str(len(content))), ("date", date)]
        if close:
            fields.append(("connection", "close"))
        out = self._http.send(h11.Response(status_code=status, headers=fields))
        for event in (h11.Data(data=content), h11.EndOfMessage()):
            out = (out or b"") + (self._http.send(event) or b"")
        self._writer.write(out or b"")
        async with asyncio.timeout(self._limits.answer_seconds):
            await self._writer.drain()
