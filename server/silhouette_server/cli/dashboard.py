"""`silhouette coordinator dashboard`: a page that shows how everything stands."""

from __future__ import annotations

from typing import Annotated

import typer

from silhouette_shared.cli import HomeOption, console, silhouette_home


def dashboard_command(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 9480,
    home: HomeOption = None,
) -> None:
    """Show runs, rounds, partners and privacy on a page, and as numbers for Prometheus under /metrics.

    The page changes nothing and asks for no password: who may reach the port may read it. It needs no network.
    """
    import ipaddress

    from silhouette_server.dashboard.app import make_app, serve
    from silhouette_server.enrolment.office import Office
    from silhouette_server.registry.home import open_registry

    office = Office.of(silhouette_home(home))
    hosts = ["localhost", "127.0.0.1", host]
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        hosts = ["*"]  # it is meant to be reached by names that are not known here
        console.print(f"anybody who reaches {host}:{port} may read this page: it asks for no password", soft_wrap=True)
    with open_registry(office, write=False) as registry:
        serve(make_app(office, registry, hosts), host, port, ready=typer.echo)
