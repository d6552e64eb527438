"""From a SuperNode on this machine to the coordinator's gate, with this partner's certificate.

Flower's SuperNode knows no client certificates. It speaks TLS to this listener on loopback, which speaks TLS with the
certificate to the gate and moves bytes between the two. Nothing is read or kept here.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

from silhouette_shared.supervision import Heart

_LOG = logging.getLogger(__name__)

_CHUNK = 2**18
_CONNECT_SECONDS = 10.0
_TRY_SECONDS = 15.0  # as long as the gate is away a SuperNode waits here, rather than failing
_PAUSE_SECONDS = 0.5
_CLOCK_SECONDS = 600.0  # between two looks at the gate's clock
_CLOCKS_DIFFER = timedelta(minutes=4)  # the SuperLink turns a signature down that is 5 minutes off

_ASK_TIME = b"HEAD / HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n"

# 503 makes a SuperNode try again. A broken TLS session would make it end.
_AWAY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True)
class Gateway:
    """Where the gate is and how this partner shows who it is."""

    host: str
    port: int
    name: str  # that the gate's certificate has to carry
    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with this partner's certificate, and with nobody but the authority's gate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.authority)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Connector:
    """Listens on loopback for one SuperNode.

    Args:
        gateway: Where to.
        certificate: Shown to the SuperNode.
        key: Of that certificate.
        clock: For tests: the time in UTC.
    """

    def __init__(
        self, gateway: Gateway, certificate: Path, key: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._gateway, self._clock = gateway, clock
        self._context = gateway.context()
        self._inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inner.load_cert_chain(certificate, key)
        self._said = ""

    async def serve(self, host: str, port: int, heart: Heart | None = None) -> None:
        """Listen until cancelled."""
        server = await asyncio.start_server(self._connection, host, port, ssl=self._inner, limit=_CHUNK)
        async with server, asyncio.TaskGroup() as beside:
            _LOG.info("the connector listens on %s:%d, for %s:%d", host, port, self._gateway.host, self._gateway.port)
            beside.create_task(self._watch_clock())
            while True:
                (heart or Heart(None)).beat()
                await asyncio.sleep(1.0)

    async def _watch_clock(self) -> None:
        """Say so if this machine's clock is not the gate's: the SuperNode is turned away then, and cannot say why."""
        while True:
            ahead = await self._ahead()
            if ahead is not None and abs(ahead) > _CLOCKS_DIFFER:
                _LOG.error(
                    "this machine's clock is %d minutes %s the coordinator's, and its SuperNode is turned away until "
                    "they agree to 5 minutes; set the clock of the one that is wrong",
                    abs(ahead) // timedelta(minutes=1),
                    "ahead of" if ahead > timedelta(0) else "behind",
                )
            await asyncio.sleep(_CLOCK_SECONDS)

    async def _ahead(self) -> timedelta | None:
        """How far this machine's clock is ahead of the gate's; None if the gate does not say."""
        far = await self._reach()
        if far is None:
            return None
        reader, writer = far
        try:
            writer.write(_ASK_TIME)
            async with asyncio.timeout(_CONNECT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None
        finally:
            writer.close()
        return _clock_of(head, self._clock())

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await self._reach()
            if far is None:
                await reader.read(_CHUNK)  # the request, which is asked again
                writer.write(_AWAY)
                await writer.drain()
                return
            far_reader, far_writer = far
            pumps = [
                asyncio.create_task(_pump(reader, far_writer)),
                asyncio.create_task(_pump(far_reader, writer)),
            ]
            # Whichever side ends first, a question without an answer is of no use to the other.
            _, left = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in left:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.close()
        except (OSError, ssl.SSLError):
            _LOG.debug("a connection broke")
        finally:
            writer.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the gate, or None if there is none for a while; the reason is logged once."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _TRY_SECONDS
        while True:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    far = await asyncio.open_connection(
                        self._gateway.host,
                        self._gateway.port,
                        ssl=self._context,
                        server_hostname=self._gateway.name,
                        limit=_CHUNK,
                    )
            except (OSError, ssl.SSLError, TimeoutError) as error:
                self._say(_explain(error))
            else:
                self._say("")
                return far
            if loop.time() + _PAUSE_SECONDS > until:
                return None
            await asyncio.sleep(_PAUSE_SECONDS)

    def _say(self, problem: str) -> None:
        if problem == self._said:
            return
        self._said = problem
        if problem:
            _LOG.warning("no way to the gate %s:%d: %s", self._gateway.host, self._gateway.port, problem)
        else:
            _LOG.info("the gate %s:%d answers", self._gateway.host, self._gateway.port)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


def _clock_of(head: bytes, now: datetime) -> timedelta | None:
    """How far `now` is ahead of the date in the head of an HTTP answer; None if it has none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"date":
            with suppress(ValueError):
                return now - parsedate_to_datetime(value.decode("latin-1").strip())
    return None


def _explain(error: BaseException) -> str:
    """What an operator can do about it, without the text of another's error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate does not verify ({error.verify_message}); check the clock, and install a new kit if the "
            "coordinator changed its certificate"
        )
    if isinstance(error, ssl.SSLError):
        return "it refuses this partner's certificate; check its date with `silhouette node status`"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}, {getattr(error, 'strerror', None) or 'no further reason'}"
