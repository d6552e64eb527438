"""The verbs that a partner's installation adds to the command line: `silhouette audit`, `budget`, `node`, `policy`."""

from silhouette_client.cli.audit import audit
from silhouette_client.cli.budget import budget
from silhouette_client.cli.node import node
from silhouette_client.cli.policy import policy

__all__ = ["audit", "budget", "node", "policy"]
