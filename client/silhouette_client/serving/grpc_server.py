"""The network face of the profile service: who calls, may they, ask the service, say it in protobuf.

Over a Unix socket the socket's mode lets the node's user in and nobody else. Over TCP a client certificate of the
partner's own authority is required, and TLS refuses everything without one before a request is read.

One event loop receives all requests, so that a stream that is open and sends nothing costs no thread. What reads one
person takes a fraction of a millisecond and is answered on the loop; what takes longer goes to a few threads.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from silhouette_client.profiles.answers import reasons
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving import profile_pb2_grpc as pb_grpc
from silhouette_client.serving.access import LOCAL, Access, Quota
from silhouette_client.serving.service import METHODS, Event, NoProfileError, Role, Service
from silhouette_shared.errors import (
    IntegrityError,
    RefusedError,
    SilhouetteError,
    UnavailableError,
    UsageError,
)

SERVICE = "silhouette.profile.v1.ProfileService"
SOCKET_NAME = "profiles.sock"
"""In a node's home."""

MOST_BYTES = 1 << 20
"""Of a request; 1,000 events or 100 users are far below."""

_LOG = logging.getLogger(__name__)
_THREADS = 4  # for what takes long
_AT_WORK = 64  # requests in these threads or in line for them; more are refused
_MOST_OPEN = 16_384  # streams; more are refused, so that memory stays bounded
_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 128),  # of one connection
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_connection_age_ms", 600_000),  # an open stream that sends nothing ends with its connection
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.so_reuseport", 0),  # a second service on the port is an error
)
_STOP_SECONDS = 5.0
_SWITCH_SECONDS = 0.001

Answer = TypeVar("Answer")
Context: TypeAlias = grpc.aio.ServicerContext


@dataclass(frozen=True)
class Tls:
    """PEM bytes of the service's certificate chain and key, and of the authority that signs client certificates."""

    certificate: bytes
    key: bytes
    authority: bytes


class _Face(pb_grpc.ProfileServiceServicer):
    def __init__(self, service: Service, vault: Vault, log: Path, access: Access, pool: ThreadPoolExecutor) -> None:
        self._service, self._vault, self._log, self._access, self._pool = service, vault, log, access, pool
        self._quotas: dict[str, Quota] = {}
        self._lock = threading.Lock()
        self._at_work = 0

    async def GetProfile(self, request: pb.GetProfileRequest, context: Context) -> pb.Profile:  # noqa: N802
        return await self._answer(
            context,
            "GetProfile",
            lambda who, roles: _profile(self._service.profile(request.user, who, roles)),
        )

    async def BatchGetProfiles(  # noqa: N802
        self, request: pb.BatchGetProfilesRequest, context: Context
    ) -> pb.BatchGetProfilesResponse:
        entry = pb.BatchGetProfilesResponse.Entry
        return await self._answer(
            context,
            "BatchGetProfiles",
            lambda who, roles: pb.BatchGetProfilesResponse(
                entries=[
                    entry() if record is None else entry(profile=_profile(record))
                    for record in self._service.profiles(list(request.users), who, roles)
                ]
            ),
            long=True,
        )

    async def Recommend(self, request: pb.RecommendRequest, context: Context) -> pb.RecommendResponse:  # noqa: N802
        def ask(who: str, roles: frozenset[Role]) -> pb.RecommendResponse:
            del roles
            model, items = self._service.recommend(request.user, who, request.count, request.without)
            return pb.RecommendResponse(
                model=model,
                items=[pb.Recommendation(item=one.item, title=one.title, score=one.score) for one in items],
            )

        return await self._answer(context, "Recommend", ask)

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:  # noqa: N802
        def ask(who: str, roles: frozenset[Role]) -> pb.ExplainResponse:
            del roles
            record = self._service.explain(request.user, who)
            parts = [pb.ExplainResponse.Part(**one) for one in reasons(record)]
            return pb.ExplainResponse(model=record.model, parts=parts, tags=record.tags or ())

        return await self._answer(context, "Explain", ask)

    async def SimilarSegments(  # noqa: N802
        self, request: pb.SimilarSegmentsRequest, context: Context
    ) -> pb.SimilarSegmentsResponse:
        segment = pb.SimilarSegmentsResponse.Segment
        return await self._answer(
            context,
            "SimilarSegments",
            lambda who, _: pb.SimilarSegmentsResponse(
                segments=[
                    segment(name=name, similarity=cosine)
                    for name, cosine in self._service.similar_segments(request.user, who, request.count)
                ]
            ),
            long=True,
        )

    async def PushEvents(self, request: pb.PushEventsRequest, context: Context) -> pb.PushEventsResponse:  # noqa: N802
        def ask(who: str, roles: frozenset[Role]) -> pb.PushEventsResponse:
            del roles
            events = [
                Event(e.user, e.item, e.behaviour, e.timestamp, e.value if e.HasField("value") else None, e.id, e.text)
                for e in request.events
            ]
            return pb.PushEventsResponse(**vars(self._service.push(events, who)))

        return await self._answer(context, "PushEvents", ask, long=True)

    async def Erase(self, request: pb.EraseRequest, context: Context) -> pb.EraseResponse:  # noqa: N802
        def ask(who: str, roles: frozenset[Role]) -> pb.EraseResponse:
            del roles
            erased = self._service.erase(request.user, who)
            return pb.EraseResponse(fields=erased.fields, data_key=erased.data_key)

        return await self._answer(context, "Erase", ask, long=True)

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:  # noqa: N802
        del request

        def ask(who: str, roles: frozenset[Role]) -> pb.VerifyResponse:
            del roles, who
            counts, head = self._vault.verify(self._log)
            return pb.VerifyResponse(
                people=counts.people,
                fields=counts.fields,
                exclusions=counts.exclusions,
                audit_entries=0 if head is None else head.sequence,
            )

        return await self._answer(context, "Verify", ask, long=True)

    async def _answer(
        self,
        context: Context,
        method: str,
        ask: Callable[[str, frozenset[Role]], Answer],
        *,
        long: bool = False,
    ) -> Answer:
        """Admit the caller, ask, and turn a refusal into a status; nothing about a person is in it."""
        who = _caller(context)
        try:
            if not long:
                return self._admitted(who, method, ask)
            return await self._in_threads(lambda: self._admitted(who, method, ask))
        except _RefusedCall as refused:
            code, message = refused.code, str(refused)
        except SilhouetteError as error:
            if isinstance(error, IntegrityError):
                _LOG.error("%s: %s", method, error)  # a changed store concerns the operator
            code, message = _status(error), str(error)
        except Exception as error:  # noqa: BLE001 - a traceback may quote a person, so only its kind is kept
            _LOG.error("%s: unexpected %s", method, type(error).__name__)
            code, message = grpc.StatusCode.INTERNAL, "something unexpected happened; see the service's log"
        await context.abort(code, message)  # raises, outside of the clauses above
        raise AssertionError("unreachable")

    async def _in_threads(self, work: Callable[[], Answer]) -> Answer:
        if self._at_work >= _AT_WORK:
            raise _RefusedCall(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"expected at most {_AT_WORK} long requests at a time, got more; wait and ask again",
            )
        self._at_work += 1  # on the loop alone
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._at_work -= 1

    def _admitted(self, who: str, method: str, ask: Callable[[str, frozenset[Role]], Answer]) -> Answer:
        grant = self._access.of(who)
        if grant is None or not grant.roles & METHODS[method]:
            self._vault.deny(_word(who), method, "denied")
            raise _RefusedCall(
                grpc.StatusCode.PERMISSION_DENIED, f"expected a role that holds {method}, got none; ask the operator"
            )
        if not self._quota(who, grant.requests_per_second).take():
            raise _RefusedCall(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"expected at most {grant.requests_per_second:g} requests a second, got more; wait and ask again",
            )
        return ask(_word(who), grant.roles)

    def _quota(self, who: str, per_second: float) -> Quota:
        with self._lock:
            return self._quotas.setdefault(who, Quota(per_second))


class _RefusedCall(Exception):  # noqa: N818 - an outcome of a call, not a fault
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def _status(error: SilhouetteError) -> grpc.StatusCode:
    kinds = (
        (NoProfileError, grpc.StatusCode.NOT_FOUND),
        (UsageError, grpc.StatusCode.INVALID_ARGUMENT),
        (RefusedError, grpc.StatusCode.FAILED_PRECONDITION),
        (UnavailableError, grpc.StatusCode.UNAVAILABLE),
        (IntegrityError, grpc.StatusCode.DATA_LOSS),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def _caller(context: Context) -> str:
    """The common name of the client certificate, or `local` on the Unix socket."""
    auth = context.auth_context()
    if auth.get("transport_security_type", [b""])[0] == b"ssl":
        name = (auth.get("x509_common_name") or [b""])[0].decode("utf-8", "replace")
        return "" if name == LOCAL else name  # a certificate does not speak for the socket
    return LOCAL if context.peer().startswith("unix:") else ""


def _word(who: str) -> str:
    """A name as the audit log takes it."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.:@-") else "_" for c in who)[:120]
    return "client:" + kept


def _profile(record: ProfileRecord) -> pb.Profile:
    traits = {name: pb.Trait(value=t.value, confidence=t.confidence) for name, t in (record.traits or {}).items()}
    return pb.Profile(
        model=record.model,
        weights=record.weights or {},
        traits=traits,
        tags=record.tags or (),
        vector=() if record.vector is None else record.vector.tolist(),
        tastes=() if record.tastes is None else record.tastes.tolist(),
    )


@contextmanager
def serving(
    service: Service,
    vault: Vault,
    *,
    log: Path,
    access: Access,
    socket: Path | None = None,
    address: str | None = None,
    tls: Tls | None = None,
    reflection: bool = False,
) -> Iterator[int]:
    """Answer until the block ends; gives the port, 0 with a socket only.

    Args:
        service: What answers.
        vault: For refusals and verification.
        log: Path of the audit log.
        access: Who may do what.
        socket: Unix socket, made with mode 600.
        address: `host:port` of TCP with mutual TLS; port 0 takes a free one.
        tls: Needed with `address`.
        reflection: Let callers list the methods.

    Raises:
        UsageError: If neither socket nor address is given, or TLS is missing or no PEM.
        UnavailableError: If one cannot be had.
    """
    if socket is None and address is None:
        raise UsageError("expected a socket or an address, got neither; give one")
    if address is not None and tls is None:
        raise UsageError("expected a certificate, key and client authority with an address, got none; give --tls")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="profiles", daemon=True)
    thread.start()

    def on_loop(work: Coroutine[Any, Any, Answer]) -> Answer:
        future: Future[Answer] = asyncio.run_coroutine_threadsafe(work, loop)
        return future.result()

    try:
        with _prompt(), ThreadPoolExecutor(_THREADS, thread_name_prefix="profiles-long") as pool:
            face = _Face(service, vault, log, access, pool)
            running = on_loop(_start(face, socket=socket, address=address, tls=tls, reflection=reflection))
            try:
                yield running.port
            finally:
                on_loop(_stop(running))
                if socket is not None:
                    socket.unlink(missing_ok=True)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def _prompt() -> Iterator[None]:
    """Keep what runs beside the loop from holding it up for long: a push is worked on for some 20 ms.

    A thread that wants the interpreter waits for the others a fifth as long as usual, and the collector leaves alone
    what was there before the service: models and catalogues, some 50 ms each time.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


@dataclass(frozen=True)
class _Running:
    server: grpc.aio.Server
    checker: health.aio.HealthServicer
    port: int


async def _start(
    face: _Face, *, socket: Path | None, address: str | None, tls: Tls | None, reflection: bool
) -> _Running:
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MOST_OPEN)
    pb_grpc.add_ProfileServiceServicer_to_server(face, server)
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    for name in ("", SERVICE):
        await checker.set(name, health_pb2.HealthCheckResponse.SERVING)
    if reflection:
        _reflect(server)
    port = 0
    try:
        if address is not None and tls is not None:
            port = _listen_tls(server, address, tls)
        if socket is not None:
            _listen_socket(server, socket)
        await server.start()
    except BaseException:
        await server.stop(0)
        raise
    return _Running(server, checker, port)


async def _stop(running: _Running) -> None:
    await running.checker.enter_graceful_shutdown()
    await running.server.stop(_STOP_SECONDS)
    left = asyncio.all_tasks() - {asyncio.current_task()}  # of streams that were open and said nothing
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _reflect(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection as grpc_reflection

    grpc_reflection.enable_server_reflection((SERVICE, grpc_reflection.SERVICE_NAME), server)


def _listen_tls(server: grpc.aio.Server, address: str, tls: Tls) -> int:
    try:
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], root_certificates=tls.authority, require_client_auth=True
        )
        return int(server.add_secure_port(address, credentials))
    except (RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"{address}: expected to listen there with this certificate, got {error}; choose another port, or check "
            "the PEM files"
        ) from None


def _listen_socket(server: grpc.aio.Server, socket: Path) -> None:
    if socket.exists():
        if not stat.S_ISSOCK(socket.stat().st_mode):
            raise UsageError(f"{socket}: expected a socket or nothing, found another file; remove it")
        if _answers(socket):
            raise UnavailableError(f"{socket}: expected no other service, found one that answers; stop it first")
        socket.unlink()  # of a service that was killed
    if len(os.fsencode(socket)) > 100:
        raise UsageError(f"{socket}: expected a path of at most 100 bytes for a socket, got more; use --socket")
    before = os.umask(0o177)  # from its first moment for the node's user alone
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise UnavailableError(f"{socket}: expected to listen there, got {error}; check the folder") from None
    finally:
        os.umask(before)


def _answers(path: Path) -> bool:
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except (BlockingIOError, TimeoutError):  # others wait there to be let in
            return True
        except OSError:
            return False
        return True
