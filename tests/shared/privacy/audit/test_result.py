"""A result says who measured what, and whoever reads it computes the verdict again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.shared.privacy.audit.evidences import evidence, with_noise

from silhouette_shared.errors import IntegrityError, RefusedError
from silhouette_shared.privacy.audit.evidence import Evidence
from silhouette_shared.privacy.audit.gates import AUDITED
from silhouette_shared.privacy.audit.result import (
    AuditResult,
    Subject,
    account,
    conclude,
    fingerprint,
    for_statement,
    require_passed,
    sign,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PLAN = "ab" * 32
SUBJECT = Subject(
    plan="tiny",
    plan_digest=PLAN,
    layout_digest="cd" * 32,
    coordinates=12345,
    code={"silhouette_shared": "11" * 32, "silhouette_client": "22" * 32},
    versions={"torch": "2.13.0"},
    engine="bookkeeping",
    finished="2026-01-02T03:04:05+00:00",
)


def accounted(found: Evidence) -> Evidence:
    return replace(found, epsilons={AUDITED: account(found.declared.mechanism(), found.declared.delta)})


@pytest.fixture(scope="module")
def result() -> AuditResult:
    return conclude(SUBJECT, accounted(evidence()))


@pytest.fixture(scope="module")
def text(result: AuditResult) -> str:
    return sign(result, KEY)


def changed(text: str, change: Callable[[dict[str, Any]], object], *, key: Ed25519PrivateKey | None = None) -> str:
    """The text with something changed in the result; signed again if there is a key."""
    document = json.loads(text)
    change(document["result"])
    if key is None:
        return json.dumps(document)
    body = json.dumps(document["result"], sort_keys=True, separators=(",", ":")).encode()
    document["signature"] = key.sign(b"silhouette audit result 1\n" + body).hex()
    document["public_key"] = fingerprint(key.public_key())
    return json.dumps(document)


def test_a_signed_result_reads_back_as_it_was(result: AuditResult, text: str) -> None:
    assert result.passed
    assert verify(text) == result
    assert verify(text, signer=fingerprint(KEY.public_key()).upper()) == result
    assert verify(changed(text, lambda _: None, key=KEY)) == result


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.update(passed=False),
        lambda result: result["subject"].update(plan="other"),
        lambda result: result["evidence"]["canaries"]["scores"].__setitem__(7, 0.0),
    ],
)
def test_any_change_breaks_the_signature(text: str, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(IntegrityError, match="expected a signature over this result"):
        verify(changed(text, change))


def test_a_result_of_another_auditor_is_not_taken_for_this_ones(text: str) -> None:
    with pytest.raises(IntegrityError, match="expected a result signed by"):
        verify(text, signer=fingerprint(OTHER.public_key()))
    with pytest.raises(IntegrityError, match="expected a result signed by"):
        verify(changed(text, lambda _: None, key=OTHER), signer=fingerprint(KEY.public_key()))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"result": 1, "public_key": "zz", "signature": ""}', "1"])
def test_what_is_no_signed_result_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="expected a signed audit result"):
        verify(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.update(passed=False), "expected passed as it follows"),
        (lambda result: result.update(gaussian_epsilon=0.1), "expected gaussian_epsilon as it follows"),
        (lambda result: result.update(one_run_epsilon=0.1), "expected one_run_epsilon as it follows"),
        (lambda result: result.update(claimed_epsilon=1.0), "expected claimed_epsilon as it follows"),
        (lambda result: result["gates"].pop(), "expected gates as it follows"),
        (lambda result: result["gates"][2]["checks"][1].update(most=99.0), "expected gates as it follows"),
        (lambda result: result["gates"][2]["checks"].pop(), "expected gates as it follows"),
        (lambda result: result["evidence"]["noise"].update(least_row=0.0), "expected gates as it follows"),
        (lambda result: result["evidence"].pop("noise"), "got one with 1 faults"),
        (lambda result: result.update(more=1), "got one with 1 faults"),
        (lambda result: result.update(format="2"), "expected the format"),
        (lambda result: result["evidence"].update(epsilons={}), "expected evidence that can be judged"),
        (
            lambda result: result["evidence"]["canaries"].update(scores=[1.0, 2.0]),
            "expected evidence that can be judged",
        ),
    ],
)
def test_a_verdict_that_does_not_follow_is_refused_though_signed(
    text: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        verify(changed(text, change, key=KEY))


def test_a_claim_that_the_accountants_do_not_confirm_is_refused_though_signed() -> None:
    honest = accounted(evidence())
    found = honest.epsilons[AUDITED]
    smaller = replace(found, prv=found.prv - 1, pld=found.pld - 1)
    with pytest.raises(IntegrityError, match="expected the PRV epsilon"):
        verify(sign(conclude(SUBJECT, replace(honest, epsilons={AUDITED: smaller})), KEY))


def test_a_result_that_failed_verifies_and_says_so() -> None:
    failed = conclude(SUBJECT, accounted(with_noise(least_row=0.0)))
    assert not failed.passed
    assert verify(sign(failed, KEY)) == failed


def test_a_statement_names_the_proven_bound_and_the_text_it_came_from(result: AuditResult, text: str) -> None:
    found = for_statement(verify(text), text)
    assert found.passed
    assert found.lower_bound == result.one_run_epsilon
    assert found.reference == f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"


def test_a_model_is_admitted_with_an_audit_of_its_plan_that_passed(text: str, result: AuditResult) -> None:
    signer = fingerprint(KEY.public_key())
    assert require_passed(text, signer=signer, plan_digest=PLAN) == result
    assert require_passed(text, signer=signer, plan_digest=PLAN, code={"silhouette_client": "22" * 32}) == result


def test_a_model_is_refused_without_one(text: str) -> None:
    signer = fingerprint(KEY.public_key())
    failed = sign(conclude(SUBJECT, accounted(with_noise(least_row=0.0))), KEY)
    with pytest.raises(RefusedError, match="one that failed at noise"):
        require_passed(failed, signer=signer, plan_digest=PLAN)
    with pytest.raises(RefusedError, match="expected an audit of plan ffffffffffff, got one of abababababab"):
        require_passed(text, signer=signer, plan_digest="ff" * 32)
    with pytest.raises(RefusedError, match="expected an audit of silhouette_client 333333333333, got one of 2222"):
        require_passed(text, signer=signer, plan_digest=PLAN, code={"silhouette_client": "33" * 32})
    with pytest.raises(RefusedError, match="expected an audit of silhouette_server 333333333333, got one of none"):
        require_passed(text, signer=signer, plan_digest=PLAN, code={"silhouette_server": "33" * 32})
    with pytest.raises(IntegrityError, match="expected a result signed by"):
        require_passed(text, signer=fingerprint(OTHER.public_key()), plan_digest=PLAN)
