"""A statement says every number that accounting gives, every question, and nothing that the facts do not hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy import Grid, SampledGaussian, epsilon
from silhouette_shared.privacy.statement import Audit, Facts, Release, Statement, privacy_statement

DELTA = 1e-5
TRAINING = replace(
    SampledGaussian(noise_multiplier=2.0, sampling_rate=0.2, steps=60, clip_norm=0.5).on_grid(Grid.of(0.5, 16), 10_000),
    batch_cap=400,
    overflow=1e-20,
)
COUNTS = SampledGaussian.once(noise_multiplier=10.0, clip_norm=1.0).on_grid(Grid.of(1.0, 16), 1000)
FACTS = Facts(
    run="autumn-3",
    plan_digest="ab" * 32,
    software="silhouette 0.1.0",
    mode="local",
    releases=(Release("item popularity", COUNTS), Release("training", TRAINING)),
    delta=DELTA,
    partners=10,
    steps_a_round=1,
    simulation=False,
    secure_noise=True,
    secure_aggregation=True,
    ledger="cd" * 8,
    audit=Audit(passed=True, lower_bound=1.25, reference="audit-7"),
)
SIMULATED = replace(
    FACTS,
    releases=(Release("training", replace(TRAINING, rounding=0.0, grid_step=0.0, size=0)),),
    simulation=True,
    secure_noise=False,
    secure_aggregation=False,
    ledger="",
    audit=None,
    beside=("Exact metrics are shown.",),
)
NONE = replace(SIMULATED, mode="none", releases=())


@pytest.fixture(scope="module")
def statement() -> Statement:
    return privacy_statement(FACTS)


def test_the_document_is_json_and_holds_every_number_that_drove_the_run(statement: Statement) -> None:
    document = json.loads(json.dumps(statement.document, allow_nan=False))
    assert document["guarantee"]["epsilon"] == epsilon([COUNTS, TRAINING], DELTA)
    assert list(document["guarantee"]["accountants"]) == ["pld", "prv", "rdp"]
    assert sum(document["guarantee"]["delta_parts"].values()) == pytest.approx(DELTA, rel=1e-3)
    assert [release["purpose"] for release in document["releases"]] == ["item popularity", "training"]
    assert document["releases"][1] == {"purpose": "training", **TRAINING.describe()}
    assert document["guarantee"]["by_view"]["release"] == document["guarantee"]["epsilon"]
    assert document["guarantee"]["person_at_two_partners"] > document["guarantee"]["epsilon"]


def test_every_question_of_nist_has_its_row_with_an_answer_and_where_to_look(statement: Statement) -> None:
    rows = statement.document["nist_sp_800_226"]
    assert isinstance(rows, list)
    text = " ".join(row["question"] for row in rows).lower()
    for topic in (
        "epsilon and delta",
        "small enough",
        "unit of privacy",
        "neighbouring",
        "sensitivity and bound on contributions",
        "composition",
        "not private",
        "retraining",
        "bias",
        "trust model",
        "floating point, generators, timing",
        "tested",
        "data security",
        "collection",
    ):
        assert topic in text, topic
    assert all(row["answer"].strip() and row["evidence"].strip() for row in rows)
    for row in rows:
        assert f"| {row['question']} |" in statement.markdown


def test_people_read_what_programs_read(statement: Statement) -> None:
    spent = epsilon([COUNTS, TRAINING], DELTA)
    for words in (
        "# Privacy statement: autumn-3",
        f"| epsilon | {spent:.3f} (PLD) at delta 1e-05 |",
        "one person's whole record at a partner",
        "| item popularity | 10 | 1 | 1 | 1 |",
        "| 400 |",
        "Passed; largest lower bound on epsilon 1.25 (audit-7).",
        "Profiles, recommendations",
        "Choosing settings",
        "0.001 for 100 people, 0.1 for 1,000",
        "Nobody outside the partner",
        f"ledger head {'cd' * 8}",
    ):
        assert words in statement.markdown, words
    assert "simulation" not in str(statement.document["summary"])
    assert "**no**" not in statement.markdown
    assert "not claimed" not in statement.markdown


def test_a_simulation_says_that_its_noise_repeats_and_its_data_are_public() -> None:
    said = privacy_statement(SIMULATED)
    for words in (
        "This is a simulation on public data: its noise and sampling are repeatable from the plan's seed",
        "this run promises nobody anything",
        "Exact metrics are shown.",
        "low bits may tell more than epsilon says",
        "nothing adds up several runs",
        "No audit of this software and these settings is recorded.",
        "| of the sum, all partners honest and surviving | not claimed |",
    ):
        assert words in said.markdown, words
    holds = {row["assumption"]: row["holds"] for row in said.document["assumptions"]}  # type: ignore[attr-defined]
    assert holds["Noise is unpredictable and never used twice"] is False
    assert holds["Released numbers do not show the low bits of floating-point noise"] is False
    assert holds["People are Poisson-sampled, not shuffled"] is True


def test_in_mode_distributed_it_says_whom_to_trust_and_what_failure_would_cost() -> None:
    said = privacy_statement(replace(FACTS, mode="distributed"))
    assert "at most 3 of 10 partners are curious" in said.markdown
    assert "| if secure aggregation failed |" in said.markdown
    views = said.document["guarantee"]["by_view"]  # type: ignore[index]
    assert views["everybody"] < views["honest"] < views["release"]


def test_a_failed_audit_is_not_hidden() -> None:
    failed = replace(FACTS, audit=Audit(passed=False, lower_bound=None, reference="audit-8"))
    assert "FAILED (audit-8)." in privacy_statement(failed).markdown


def test_without_privacy_nothing_is_promised() -> None:
    said = privacy_statement(NONE)
    assert said.document["guarantee"] is None
    assert "No privacy. No noise was added" in said.markdown
    assert "What is promised" not in said.markdown
    assert said.markdown.count("No claim is made.") >= 5


def test_a_mode_that_does_not_fit_its_releases_is_refused() -> None:
    with pytest.raises(UsageError, match="expected releases exactly where there is privacy, got mode local and 0"):
        privacy_statement(replace(FACTS, releases=()))
    with pytest.raises(UsageError, match="got mode none and 2"):
        privacy_statement(replace(FACTS, mode="none"))
