"""Signed results of audits that found what a test says, of the code that is installed here."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from silhouette_client.audit.code import code_digests
from silhouette_shared.config import Plan
from silhouette_shared.privacy.audit.evidence import Evidence
from silhouette_shared.privacy.audit.gates import AUDITED
from silhouette_shared.privacy.audit.result import AuditResult, Subject, account, conclude

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def result_of(found: Evidence, plan: Plan, **changes: object) -> AuditResult:
    """The result that follows from evidence; `changes` are of its subject."""
    subject = Subject(
        plan=plan.name,
        plan_digest=plan.digest,
        layout_digest="cd" * 32,
        coordinates=1,
        code=code_digests(),
        versions={},
        engine="bookkeeping",
        finished="2026-01-02T03:04:05+00:00",
    )
    honest = replace(found, epsilons={AUDITED: account(found.declared.mechanism(), found.declared.delta)})
    return conclude(replace(subject, **changes), honest)  # type: ignore[arg-type]
