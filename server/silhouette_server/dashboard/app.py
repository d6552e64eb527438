"""The page over HTTP: GET alone, no script, nothing from anywhere else, and nothing that could be changed."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST

from silhouette_server.dashboard.numbers import RegistryCollector, exposition
from silhouette_server.dashboard.pictures import pictures
from silhouette_server.dashboard.view import Enrolled, Overview, Process, detail, missing, outcome, overview
from silhouette_server.enrolment.office import Office
from silhouette_server.registry import Registry, UnknownError
from silhouette_shared.config import Plan
from silhouette_shared.errors import SilhouetteError, UnavailableError
from silhouette_shared.supervision import read_status

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_BUSY_SECONDS, _IDLE_SECONDS = 5, 30  # until the page asks again


def make_app(office: Office, registry: Registry, hosts: list[str]) -> FastAPI:
    """The application.

    Args:
        office: Whose roster and processes are shown.
        registry: Open for reading alone.
        hosts: Names under which a browser may ask for it: a page elsewhere cannot have its visitor read this one.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    page = _environment()

    @lru_cache(maxsize=256)
    def plan(run: str) -> Plan:
        return registry.plan(run)

    def processes() -> list[Process]:
        status = read_status(office.folder / "processes")
        services = () if status is None else status.services
        return [Process(s.name, s.state, s.seconds, s.restarts, s.memory, s.reason) for s in services]

    def seen() -> Overview:
        contents = registry.contents
        roster = [Enrolled(name, one.state, one.people) for name, one in sorted(office.roster().members.items())]
        plans = {name: plan(name) for name in contents.runs}
        return overview(contents, plans, roster, registry.contacts(), processes(), int(time.time()))

    collector = RegistryCollector(lambda: registry.contents, lambda: seen().rows, processes)

    @app.middleware("http")
    async def guarded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response("This page shows and changes nothing.\n", status_code=405, headers={"Allow": "GET"})
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(SilhouetteError)
    async def failed(request: Request, error: Exception) -> Response:
        return Response(f"{error}\n", status_code=503, media_type="text/plain; charset=utf-8")

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        found = seen()
        return page.get_template("overview.html").render(
            view=found,
            detail=found.latest,
            pictures=() if found.latest is None else pictures(found.latest),
            **_common(office, found.busy),
        )

    @app.get("/runs/{name}", response_class=HTMLResponse)
    def one_run(name: str) -> str:
        try:
            run = registry.run(name)
        except UnknownError as error:
            raise HTTPException(404, str(error)) from None
        found = detail(run, plan(name))
        return page.get_template("run.html").render(
            detail=found, pictures=pictures(found), **_common(office, found.row.left_seconds is not None)
        )

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(exposition(collector), media_type=CONTENT_TYPE_LATEST)

    return app


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end.

    Args:
        app: From `make_app`.
        host: Address to listen on.
        port: 0 takes a free one.
        ready: Called with the page's address when somebody may ask for it.

    Raises:
        UnavailableError: If the port is taken, or the address is not of this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(64)
        except OSError as error:
            raise UnavailableError(
                f"{host}:{port}: expected a free port to listen on, got {error.strerror or error}; choose another "
                "with --port"
            ) from None
        ready(f"http://{host}:{listening.getsockname()[1]}/")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


def _common(office: Office, busy: bool) -> dict[str, object]:
    return {
        "consortium": office.settings.consortium,
        "now": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "refresh": _BUSY_SECONDS if busy else _IDLE_SECONDS,
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("silhouette_server.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": _duration, "moment": _moment, "mega": lambda size: f"{size / 1e6:,.1f} MB"}
    environment.globals |= {"outcome": outcome, "missing": missing}
    return environment


def _duration(seconds: float) -> str:
    """Seconds in the words of a clock."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
