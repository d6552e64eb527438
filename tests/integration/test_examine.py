"""`silhouette sim examine` asks a finished run's model, writes down what it found, and refuses what is no such run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from tests.integration.desk import FILMS, PEOPLE, PLAN, Desk

from silhouette_simulations.results import read_results

BLIND = (
    PLAN.replace("rounds = 3\nbatch_size = 16", "rounds = 2\nbatch_size = 16\nattribute_weight = 0.0")
    .replace("content_width = 8", 'content_width = 8\ndimensions = ["activity", "interests"]')
    .replace("every_rounds = 2", 'every_rounds = 2\nrows = ["pooled"]')
)


def finished(desk: Desk, text: str) -> Path:
    done = desk.here("sim", "run", desk.plan(text), "--mode", "none", "--out", desk.out, "--format", "json")
    assert done.code == 0, done.err
    return Path(done.document["folder"])


def test_a_finished_run_is_examined_recorded_and_refused_when_its_model_is_another(desk: Desk) -> None:
    run, results = finished(desk, BLIND), desk.plans / "results.jsonl"
    done = desk.here("sim", "examine", run, "--people", 20, "--record", results, "--format", "json")
    assert done.code == 0, done.err
    found = done.document
    assert found["faithful"]["people"] == 20
    assert found["faithful"]["too_short"] == 0
    assert {(one["score"]["attribute"], one["source"]) for one in found["probes"]} == {
        (attribute, source)
        for attribute in ("gender", "age", "occupation")
        for source in ("profile", "encoder", "tastes", "tf-idf of the items")
    }
    assert all(one["score"]["people"] == PEOPLE for one in found["probes"])
    assert found["int8"]["bytes_before"] - found["int8"]["bytes_after"] == (FILMS + 1) * (3 * 16 - 4)
    about = json.loads((run / "run.json").read_text())
    rows, findings = read_results(results)
    assert (rows.what, findings.what) == ("rows", "findings")
    assert rows.plan_digest == findings.plan_digest == about["digest"]
    assert findings.values == found
    (pooled,) = cast("list[dict[str, object]]", rows.values["rows"])
    assert found["ndcg_at_10"] == pytest.approx(pooled["ndcg_at_10"])
    assert found["ndcg_at_10"] == found["int8"]["ndcg_before"]

    text = desk.here("sim", "examine", run, "--people", 5)
    assert text.code == 0, text.err
    assert "of 5 people" in text.out
    assert "eight bits:" in text.out

    model = run / "model" / "global.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    damaged = desk.here("sim", "examine", run)
    assert damaged.code == 5
    assert "expected the model of this run, got another" in " ".join(damaged.err.split())
    model.unlink()
    assert desk.here("sim", "examine", run).code == 2
    assert desk.here("sim", "examine", desk.plans / "none").code == 2


def test_a_model_that_was_trained_on_attributes_is_refused(desk: Desk) -> None:
    run = finished(desk, BLIND.replace("attribute_weight = 0.0", "attribute_weight = 0.1"))
    done = desk.here("sim", "examine", run)
    assert done.code == 2
    assert "expected a plan that reads no declared attribute" in " ".join(done.err.split())
