"""The verbs that a partner's installation adds to the command line: `silhouette budget`."""

from silhouette_client.cli.budget import budget

__all__ = ["budget"]
