"""What a coordinator's installation adds to the command line: `silhouette coordinator`, `run` and `model`."""

from silhouette_server.cli.coordinator import coordinator
from silhouette_server.cli.dashboard import dashboard_command
from silhouette_server.cli.model import model
from silhouette_server.cli.run import run

__all__ = ["coordinator", "model", "run"]

coordinator.command("dashboard")(dashboard_command)
