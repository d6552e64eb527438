"""The audit's arithmetic: bounds, gates, and the signed result. What is measured, and how, is the client's."""

from silhouette_shared.privacy.audit.evidence import Evidence, included_canaries
from silhouette_shared.privacy.audit.gates import GATES, Gate, GateName, Verdict, judge
from silhouette_shared.privacy.audit.result import AuditResult, Subject, conclude, require_passed, sign, verify

__all__ = [
    "GATES",
    "AuditResult",
    "Evidence",
    "Gate",
    "GateName",
    "Subject",
    "Verdict",
    "conclude",
    "included_canaries",
    "judge",
    "require_passed",
    "sign",
    "verify",
]
