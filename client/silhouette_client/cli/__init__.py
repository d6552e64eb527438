"""The verbs that a partner's installation adds to the command line: `silhouette audit`, `budget` and `node`."""

from silhouette_client.cli.audit import audit
from silhouette_client.cli.budget import budget
from silhouette_client.cli.node import node

__all__ = ["audit", "budget", "node"]
