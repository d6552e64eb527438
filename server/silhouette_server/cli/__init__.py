"""What a coordinator's installation adds to the command line: `silhouette coordinator` and `silhouette run`."""

from silhouette_server.cli.coordinator import coordinator
from silhouette_server.cli.run import run

__all__ = ["coordinator", "run"]
