"""The verbs that a partner's installation adds to the command line: `silhouette audit` and `budget`."""

from silhouette_client.cli.audit import audit
from silhouette_client.cli.budget import budget

__all__ = ["audit", "budget"]
