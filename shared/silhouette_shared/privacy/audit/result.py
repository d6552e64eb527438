"""The signed result of an audit, and what a reader of one checks.

A result carries the evidence, not only the verdict: whoever checks it computes every gate again. The signature
says who measured; the digests say what. It does not say that the evidence is true: that is the auditor's word.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from silhouette_shared.errors import IntegrityError, RefusedError
from silhouette_shared.privacy.accounting import epsilons
from silhouette_shared.privacy.audit.evidence import Epsilons, Evidence
from silhouette_shared.privacy.audit.gates import AUDITED, Verdict, judge
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.statement import Audit

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
_FORMAT = "silhouette audit 1"
_LABEL = b"silhouette audit result 1\n"
# Two machines may sum in another order or hold another release of scipy; no check's limit is that near by intent.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
_ACCOUNTANTS = 1e-4


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Subject:
    """What was audited."""

    plan: str  # its name
    plan_digest: str
    layout_digest: str  # of the model with the canaries' coordinates
    coordinates: int
    code: dict[str, str]  # SHA-256 of each package's sources
    versions: dict[str, str]  # of the libraries underneath
    engine: str
    finished: str  # UTC, ISO 8601


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AuditResult:
    """The evidence with its subject, and the verdict as the auditor read it."""

    format: str
    subject: Subject
    evidence: Evidence
    gates: tuple[dict[str, object], ...]
    claimed_epsilon: float
    one_run_epsilon: float
    gaussian_epsilon: float
    passed: bool


_RESULT = TypeAdapter(AuditResult)


def conclude(subject: Subject, evidence: Evidence) -> AuditResult:
    """The result of an audit: the evidence and the verdict that follows from it."""
    verdict = judge(evidence)
    return AuditResult(
        format=_FORMAT,
        subject=subject,
        evidence=evidence,
        gates=_gates(verdict),
        claimed_epsilon=verdict.bounds.claimed,
        one_run_epsilon=verdict.bounds.one_run,
        gaussian_epsilon=verdict.bounds.gaussian,
        passed=verdict.passed,
    )


def _gates(verdict: Verdict) -> tuple[dict[str, object], ...]:
    return tuple(
        {
            "name": gate.name,
            "question": gate.question,
            "passed": gate.passed,
            "checks": [
                {
                    "name": check.name,
                    # JSON has no NaN, and one is no number that any limit admits.
                    "value": check.value if math.isfinite(check.value) else None,
                    "least": check.least,
                    "most": check.most,
                    "passed": check.passed,
                }
                for check in gate.checks
            ],
        }
        for gate in verdict.gates
    )


def sign(result: AuditResult, key: Ed25519PrivateKey) -> str:
    """The result as JSON text with the auditor's public key and signature."""
    document = json.loads(json.dumps(asdict(result), allow_nan=False))
    signed = {
        "result": document,
        "public_key": fingerprint(key.public_key()),
        "signature": key.sign(_LABEL + _canonical(document)).hex(),
    }
    return json.dumps(signed, indent=1, allow_nan=False) + "\n"


def fingerprint(key: Ed25519PublicKey) -> str:
    """A public key in hex: 64 digits that name the auditor."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _canonical(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(text: str) -> str:
    """SHA-256, in hex, of a signed result's text: what a model card names."""
    return hashlib.sha256(text.encode()).hexdigest()


def verify(text: str, *, signer: str | None = None) -> AuditResult:
    """Read a signed result, check its signature and compute its verdict again from the evidence.

    Args:
        text: As `sign` wrote it.
        signer: The auditor's public key in hex; None accepts any, and says nothing about who measured.

    Raises:
        IntegrityError: If the text is no signed result, the signature does not fit, it is somebody else's, or the
            verdict, a bound or the claimed epsilon does not follow from the evidence.
    """
    document, public_key = _signed_document(text)
    if signer is not None and public_key != signer.lower():
        raise IntegrityError(
            f"expected a result signed by {signer[:16]}, got one by {public_key[:16]}; ask for the auditor's own"
        )
    try:
        result = _RESULT.validate_json(json.dumps(document))
    except ValidationError as error:
        raise IntegrityError(
            f"expected an audit result, got one with {error.error_count()} faults; audit again"
        ) from None
    if result.format != _FORMAT:
        raise IntegrityError(f"expected the format {_FORMAT!r}, got {result.format!r}; verify it with that version")
    _check_verdict(result)
    _check_claim(result)
    return result


def _signed_document(text: str) -> tuple[object, str]:
    try:
        signed = json.loads(text)
        document, public_key, signature = (signed[key] for key in ("result", "public_key", "signature"))
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        if signed.keys() != {"result", "public_key", "signature"} or public_key != fingerprint(key):
            raise KeyError("unknown keys")
        key.verify(bytes.fromhex(signature), _LABEL + _canonical(document))
    except InvalidSignature:
        raise IntegrityError(
            "expected a signature over this result, got another; it was changed, audit again"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise IntegrityError("expected a signed audit result, got something else; audit again") from None
    return document, public_key


def _check_verdict(result: AuditResult) -> None:
    try:
        verdict = judge(result.evidence)
    except (ValueError, KeyError, ArithmeticError) as error:
        raise IntegrityError(f"expected evidence that can be judged, got {error!r}; audit again") from None
    again = {
        "gates": list(_gates(verdict)),
        "claimed_epsilon": verdict.bounds.claimed,
        "one_run_epsilon": verdict.bounds.one_run,
        "gaussian_epsilon": verdict.bounds.gaussian,
        "passed": verdict.passed,
    }
    for name, value in again.items():
        written = getattr(result, name)
        if not _same(list(written) if isinstance(written, tuple) else written, value):
            raise IntegrityError(f"expected {name} as it follows from the evidence, got another; audit again")


def _same(one: object, other: object) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool) or not isinstance(one, int | float):
        return one == other and type(one) is type(other)
    return isinstance(other, int | float) and math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _check_claim(result: AuditResult) -> None:
    """Ask the accountants again what the declared mechanism costs."""
    declared = result.evidence.declared
    found = account(declared.mechanism(), declared.delta)
    written = result.evidence.epsilons[AUDITED]
    for name, value in asdict(found).items():
        if abs(getattr(written, name) - value) > _ACCOUNTANTS * max(1.0, value):
            raise IntegrityError(
                f"expected the {name.upper()} epsilon {value:.4f} of the declared mechanism, "
                f"got {getattr(written, name):.4f}; audit again"
            )


def account(spending: SampledGaussian | Sequence[SampledGaussian], delta: float) -> Epsilons:
    """What all three accountants say of one mechanism, or of several on the same people."""
    found = epsilons(spending, delta)
    return Epsilons(prv=found["prv"], pld=found["pld"], rdp=found["rdp"])


def for_statement(result: AuditResult, text: str) -> Audit:
    """What a run's privacy statement says of a verified result; its reference is the digest of the signed text."""
    return Audit(passed=result.passed, lower_bound=result.one_run_epsilon, reference=f"SHA-256 {digest(text)}")


def require_passed(
    text: str,
    *,
    signer: str,
    plan_digest: str,
    code: Mapping[str, str] | None = None,
) -> AuditResult:
    """Admit a model only with an audit of the plan that trained it.

    Args:
        text: A signed result.
        signer: Public key, in hex, of the auditor who is trusted.
        plan_digest: Of the plan that trained the model.
        code: SHA-256 of packages that must be those audited; None does not ask.

    Returns:
        The verified result.

    Raises:
        IntegrityError: As `verify`.
        RefusedError: If the audit failed, or is about another plan or other code.
    """
    result = verify(text, signer=signer)
    subject = result.subject
    if not result.passed:
        failed = ", ".join(str(gate["name"]) for gate in result.gates if not gate["passed"])
        raise RefusedError(f"expected an audit that passed, got one that failed at {failed}; mend it and audit again")
    if subject.plan_digest != plan_digest:
        raise RefusedError(
            f"expected an audit of plan {plan_digest[:12]}, got one of {subject.plan_digest[:12]}; audit this plan"
        )
    for package, expected in (code or {}).items():
        if subject.code.get(package) != expected:
            raise RefusedError(
                f"expected an audit of {package} {expected[:12]}, got one of "
                f"{subject.code.get(package, 'none')[:12]}; audit this version"
            )
    return result
