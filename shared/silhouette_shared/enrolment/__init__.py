"""Who is who in a consortium: signed documents that coordinator and partner hand each other, and their checks."""

from silhouette_shared.enrolment.certificates import SOON, State, Validity
from silhouette_shared.enrolment.documents import (
    Gate,
    Kit,
    Member,
    NodeRequest,
    Roster,
    Succession,
    check_fingerprint,
    check_newer,
    fingerprint,
    grouped,
)

__all__ = [
    "SOON",
    "Gate",
    "Kit",
    "Member",
    "NodeRequest",
    "Roster",
    "State",
    "Succession",
    "Validity",
    "check_fingerprint",
    "check_newer",
    "fingerprint",
    "grouped",
]
