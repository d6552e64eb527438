"""The verbs that a coordinator's installation adds to the command line: `silhouette coordinator`."""

from silhouette_server.cli.coordinator import coordinator

__all__ = ["coordinator"]
