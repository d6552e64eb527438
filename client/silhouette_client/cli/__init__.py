"""The verbs that a partner's installation adds: `silhouette audit`, `budget`, `profile`, `recommend` and `subject`."""

from silhouette_client.cli.audit import audit
from silhouette_client.cli.budget import budget
from silhouette_client.cli.profile import profile, recommend
from silhouette_client.cli.subject import subject

__all__ = ["audit", "budget", "profile", "recommend", "subject"]
