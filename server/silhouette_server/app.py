"""The Flower ServerApp of a training run."""

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from silhouette_server.coordination.federation import CheckedStrategy, Job


def make_server_app(job: Job, on_done: Callable[[CheckedStrategy], None] = lambda strategy: None) -> ServerApp:
    """A ServerApp that runs `job` once and hands the finished strategy to `on_done`."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = CheckedStrategy(job)
        strategy.start(grid)
        on_done(strategy)

    return server_app
