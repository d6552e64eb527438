"""`silhouette audit`: what it prints, writes and ends with. The audit itself is made up here, but for one slow test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.testing
from click.testing import Result
from tests.client.audit.results import KEY, result_of
from tests.client.audit.small import PLAN
from tests.shared.privacy.audit.evidences import evidence, with_noise

from silhouette_client.audit import run
from silhouette_client.audit.run import Settings
from silhouette_client.cli import audit
from silhouette_shared.config import Plan, write_toml
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.audit.evidence import Evidence
from silhouette_shared.privacy.audit.gates import GATES
from silhouette_shared.privacy.audit.result import AuditResult, sign


def invoke(*arguments: object) -> Result:
    return typer.testing.CliRunner().invoke(audit, [str(argument) for argument in arguments])


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(write_toml(PLAN), encoding="utf-8")
    return path


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Evidence], list[Settings]]:
    """Let `audit run` find this evidence, and note the settings it was asked with."""

    def let(found: Evidence) -> list[Settings]:
        asked: list[Settings] = []

        def made_up(
            plan: Plan, settings: Settings, *, engine: str, progress: Callable[[str, float], None]
        ) -> AuditResult:
            asked.append(settings)
            progress("training of partner 1 of 2", 0.5)
            return result_of(found, plan, engine=engine)

        monkeypatch.setattr(run, "audit", made_up)
        return asked

    return let


def test_a_run_writes_a_signed_result_that_verifies(
    plan: Path, tmp_path: Path, home: Path, audits: Callable[[Evidence], list[Settings]]
) -> None:
    asked = audits(evidence())
    place = tmp_path / "result.json"
    ran = invoke("run", plan, "--steps", 30, "--canaries", 2500, "--seed", 7, "--engine", "opacus", "--output", place)
    assert ran.exit_code == 0, ran.output
    assert asked == [Settings(steps=30, canaries=2500, seed=7)]
    for gate in GATES:
        assert f"passed   {gate}" in ran.stdout
    signer = ran.stdout.rsplit(" ", 1)[1].strip()
    assert json.loads(place.read_text())["public_key"] == signer
    assert (home / "audit-key.pem").exists()
    verified = invoke("verify", place, "--plan", plan, "--signer", signer, "--format", "json")
    assert verified.exit_code == 0, verified.output
    document = json.loads(verified.stdout)
    assert document["passed"] is True
    assert document["engine"] == "opacus"
    assert [gate["name"] for gate in document["gates"]] == list(GATES)
    assert document["one_run_epsilon"] < document["claimed_epsilon"]


def test_without_a_seed_each_run_draws_one(
    plan: Path, tmp_path: Path, audits: Callable[[Evidence], list[Settings]]
) -> None:
    asked = audits(evidence())
    for _ in range(2):
        assert invoke("run", plan, "--output", tmp_path / "r.json").exit_code == 0
    assert asked[0].seed != asked[1].seed


def test_a_failed_audit_is_written_and_ends_with_5_and_so_does_its_verification(
    plan: Path, tmp_path: Path, audits: Callable[[Evidence], list[Settings]]
) -> None:
    audits(with_noise(row_tail=0.0))
    place = tmp_path / "result.json"
    for ran in (invoke("run", plan, "--output", place), invoke("verify", place)):
        assert ran.exit_code == IntegrityError.exit_code, ran.output
        assert "FAILED   noise" in ran.stdout
        assert "chance of the least likely row, times the rows: 0, expected 1e-06 to" in ran.stdout
        assert "passed   clipping" in ran.stdout


def test_a_verification_without_a_signer_says_what_it_does_not_say(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    place.write_text(sign(result_of(evidence(), PLAN), KEY))
    verified = invoke("verify", place)
    assert verified.exit_code == 0
    assert "no signer was named" in verified.stderr


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"plan_digest": "ff" * 32}, ["--plan"], "expected an audit of plan"),
        ({"code": {}}, [], "expected an audit of the silhouette_client installed here"),
        ({}, ["--signer", "00" * 32], "expected a result signed by"),
    ],
)
def test_an_audit_of_something_else_ends_with_5(
    plan: Path, tmp_path: Path, changes: dict[str, object], arguments: list[str], message: str
) -> None:
    place = tmp_path / "result.json"
    place.write_text(sign(result_of(evidence(), PLAN, **changes), KEY))
    verified = invoke("verify", place, *arguments, *([plan] if arguments == ["--plan"] else []))
    assert isinstance(verified.exception, IntegrityError)
    assert message in str(verified.exception)


def test_other_code_passes_only_when_asked_for(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    place.write_text(sign(result_of(evidence(), PLAN, code={}), KEY))
    assert invoke("verify", place, "--other-code").exit_code == 0


def test_a_missing_plan_or_key_is_refused_before_anything_is_measured(plan: Path, tmp_path: Path) -> None:
    assert isinstance(invoke("run", tmp_path / "none.toml").exception, UsageError)
    ran = invoke("run", plan, "--key", tmp_path / "none.pem")
    assert "expected the auditor's key, found none" in str(ran.exception)


@pytest.mark.slow
def test_a_real_audit_from_the_command_line(plan: Path, tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    ran = invoke("run", plan, "--steps", 20, "--people", 40, "--output", place, "--format", "json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["passed"] is True
    assert invoke("verify", place, "--plan", plan).exit_code == 0
