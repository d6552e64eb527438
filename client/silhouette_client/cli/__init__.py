"""The verbs that a partner's installation adds to the command line."""

from silhouette_client.cli.audit import audit
from silhouette_client.cli.budget import budget
from silhouette_client.cli.node import node
from silhouette_client.cli.policy import policy
from silhouette_client.cli.profile import profile, recommend
from silhouette_client.cli.segment import segment
from silhouette_client.cli.subject import subject

__all__ = ["audit", "budget", "node", "policy", "profile", "recommend", "segment", "subject"]
