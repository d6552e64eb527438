"""`silhouette sim run`: what it prints, what it leaves, and that it repeats."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file
from tests.client.audit.results import KEY, result_of
from tests.integration.desk import PEOPLE, PLAN, WITH_TIMES, Desk, Reference, tree
from tests.shared.privacy.audit.evidences import evidence

from silhouette_shared.config import read_plan, with_changes
from silhouette_shared.privacy.audit.result import sign
from silhouette_simulations.results import read_results

ROWS = ["popularity", "transition_counts", "ease", "local_only", "federated", "pooled"]
SHORT = PLAN.replace("rounds = 3", "rounds = 2").replace(
    "[evaluation]\n", '[evaluation]\nrows = ["popularity", "federated", "federated_private"]\n'
)


def test_standard_output_is_one_json_document_and_progress_is_elsewhere(reference: Reference) -> None:
    document = reference.done.document
    assert [row["name"] for row in document["rows"]] == ROWS
    for row in document["rows"]:
        assert 0 <= row["worst_partner_ndcg"] <= row["ndcg_at_10"] <= row["hr_at_10"] <= 1
        assert row["ndcg_low"] <= row["ndcg_at_10"] <= row["ndcg_high"]
        assert row["worst_partner"] in {"partner-0", "partner-1", "partner-2"}
        assert row["users"] == PEOPLE
        assert row["private"] is False
    assert document["privacy"]["mode"] == "none"
    assert document["seconds"] > 0
    assert Path(document["report"]).read_text().lstrip().lower().startswith("<!doctype html")
    for word in ("counting: popularity", "Federated: round 3 of 3", "writing profiles", str(reference.folder)):
        assert word in reference.done.err
    assert "Traceback" not in reference.done.err


def test_the_run_folder_holds_what_it_should_and_pandas_reads_it(reference: Reference) -> None:
    folder = reference.folder
    partners = {f"partners/partner-{number}" for number in range(3)}
    kept = {"profiles.parquet", "details.parquet", "recommendations.parquet", "recent.parquet"}
    assert set(tree(folder)) == {
        *(".lock", "plan.toml", "run.json", "rounds.csv", "rows.csv", "partners.csv", "ranks.parquet"),
        *("attributes.csv", "privacy.json", "report.html"),
        *("privacy-statement.json", "privacy-statement.md"),
        *("model", "model/global.safetensors", "model/card.json", "partners"),
        *partners,
        *(f"{partner}/{name}" for partner in partners for name in kept),
    }
    rows = pd.read_csv(folder / "rows.csv")
    assert list(rows["name"]) == ROWS
    assert "seconds" not in rows
    assert set(json.loads((folder / "run.json").read_text())["row_seconds"]) == set(ROWS)
    assert len(pd.read_csv(folder / "partners.csv")) == 3 * len(ROWS)
    rounds = pd.read_csv(folder / "rounds.csv")
    trainings = ["federated", "pooled", *(f"local_only/partner-{number}" for number in range(3))]
    assert list(rounds["row"].drop_duplicates()) == trainings
    assert list(rounds["round"]) == [1, 2, 3] * len(trainings)
    assert rounds["ndcg_at_10"].notna().tolist() == [False, True, True] * len(trainings)
    ranks = pd.read_parquet(folder / "ranks.parquet")
    assert len(ranks) == PEOPLE * len(ROWS)
    assert ranks.groupby("row")["user"].nunique().eq(PEOPLE).all()
    assert set(pd.read_csv(folder / "attributes.csv")["attribute"]) == {"gender", "age", "occupation"}


def test_each_partner_has_its_own_people_and_nobody_elses(reference: Reference) -> None:
    ranks = pd.read_parquet(reference.folder / "ranks.parquet")
    seen: set[str] = set()
    for partner, own in ranks.groupby("partner"):
        users = set(own["user"])
        for name in ("profiles", "details", "recommendations", "recent"):
            table = pd.read_parquet(reference.folder / "partners" / str(partner) / f"{name}.parquet")
            assert set(table["user"]) == users
        assert not users & seen
        seen |= users
        profiles = pd.read_parquet(reference.folder / "partners" / str(partner) / "profiles.parquet")
        weights = profiles.filter(like="weight_")
        assert weights.shape[1] == 5
        assert weights.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
        top = pd.read_parquet(reference.folder / "partners" / str(partner) / "recommendations.parquet")
        recent = pd.read_parquet(reference.folder / "partners" / str(partner) / "recent.parquet")
        assert top.groupby("user")["position"].apply(list).map(lambda found: found == list(range(1, 11))).all()
        assert not set(zip(top["user"], top["item"], strict=True)) & set(
            zip(recent["user"], recent["item"], strict=True)
        )
    assert len(seen) == PEOPLE


def test_no_table_outside_the_partners_names_a_person(desk: Desk, reference: Reference) -> None:
    for name in ("rows.csv", "partners.csv", "rounds.csv", "attributes.csv"):
        assert "user" not in pd.read_csv(reference.folder / name)
    card = json.loads((reference.folder / "model/card.json").read_text())
    assert card["partners"] == {"partner-0": 20, "partner-1": 20, "partner-2": 20}
    assert not (reference.folder / "state").exists()  # it held the histories


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(desk: Desk, reference: Reference) -> None:
    again = desk.run(desk.plan(), "--workers", 1)
    assert again.code == 0, again.err
    folder = Path(again.document["folder"])
    assert tree(folder, leave_out=WITH_TIMES) == tree(reference.folder, leave_out=WITH_TIMES)
    columns = ["row", "round", "replies", "refused", "update_norm", "hr_at_10", "ndcg_at_10"]
    rounds = pd.read_csv(folder / "rounds.csv")[columns]
    pd.testing.assert_frame_equal(rounds, pd.read_csv(reference.folder / "rounds.csv")[columns], check_exact=True)
    assert again.document["rows"] == reference.done.document["rows"]

    other = desk.here("sim", "run", desk.plan(), "--mode", "none", "--seed", 1, "--out", desk.out, "--format", "json")
    assert other.code == 0, other.err
    changed = Path(other.document["folder"])
    assert changed.name == folder.name.removesuffix("-s0") + "-s1"
    for name in ("rows.csv", "partners.csv", "ranks.parquet", "model/global.safetensors"):
        assert (changed / name).read_bytes() != (folder / name).read_bytes()


def test_with_privacy_the_document_says_what_was_spent_and_a_second_run_gets_a_number(desk: Desk) -> None:
    first = desk.run(desk.plan(SHORT), "--mode", "local", "--epsilon", 4)
    assert first.code == 0, first.err
    document = first.document
    assert [row["name"] for row in document["rows"]] == ["popularity", "federated", "federated_private"]
    assert [row["private"] for row in document["rows"]] == [False, False, True]
    privacy = document["privacy"]
    assert privacy["mode"] == "local"
    assert 3.9 < privacy["epsilon"] <= 4.0
    assert (privacy["delta"], privacy["sampling_rate"], privacy["steps"]) == (1e-5, 0.5, 2)
    assert privacy["noise_multiplier"] > 0
    assert privacy["accountant"] == "pld"
    for partner in ("partner-0", "partner-1", "partner-2"):
        assert privacy["partners"][partner]["epsilon"] == privacy["epsilon"]
    assert "not cryptographic" in privacy["warning"].replace("\n", " ")
    folder = Path(document["folder"])
    stated = json.loads((folder / "privacy-statement.json").read_text())
    assert stated["guarantee"]["epsilon"] == privacy["epsilon"]
    assert stated["audit"] is None
    assert "No audit of this software and these settings is recorded." in (folder / "privacy-statement.md").read_text()
    assert "this run promises nobody anything" in (folder / "privacy-statement.md").read_text()
    assert "privacy-statement.md" in (folder / "report.html").read_text()
    spent = pd.read_csv(folder / "rounds.csv").query("row == 'federated_private'")["epsilon"]
    assert spent.is_monotonic_increasing
    assert spent.iloc[-1] == pytest.approx(privacy["epsilon"], rel=1e-6)

    second = desk.here("sim", "run", desk.plan(SHORT), "--epsilon", 4, "--out", desk.out)
    assert second.code == 0, second.err
    assert f"{folder}-2" in second.err
    assert (folder.parent / f"{folder.name}-2" / "rows.csv").read_bytes() == (folder / "rows.csv").read_bytes()
    for word in ("Federated with privacy", "epsilon", "not cryptographic", "report.html", "interval", "worst", "gap"):
        assert word in second.out
    assert len([line for line in second.out.splitlines() if "Federated" in line]) == 2


def test_the_statement_says_what_an_audit_of_the_same_plan_found_and_another_audit_is_refused(
    desk: Desk, tmp_path: Path
) -> None:
    plan = desk.plan(SHORT)
    audited, other = tmp_path / "audit.json", tmp_path / "other.json"
    audited.write_text(sign(result_of(evidence(), read_plan(plan)), KEY))
    other.write_text(sign(result_of(evidence(), with_changes(read_plan(plan), {"seed": 1})), KEY))

    refused = desk.here("sim", "run", plan, "--audit", other, "--out", desk.out)
    assert refused.code == 5
    assert "expected an audit of plan" in refused.err
    assert not desk.out.exists()

    with_one = desk.here("sim", "run", plan, "--audit", audited, "--out", desk.out, "--format", "json")
    assert with_one.code == 0, with_one.err
    folder = Path(with_one.document["folder"])
    stated = json.loads((folder / "privacy-statement.json").read_text())["audit"]
    assert stated["passed"] is True
    assert stated["reference"] == f"SHA-256 {hashlib.sha256(audited.read_bytes()).hexdigest()}"
    assert (
        f"Passed; largest lower bound on epsilon {stated['lower_bound']:.3g}"
        in (folder / "privacy-statement.md").read_text()
    )
    assert (folder / "audit.json").read_bytes() == audited.read_bytes()


def test_the_default_folder_is_runs_and_the_plan_in_it_runs_again(desk: Desk, reference: Reference) -> None:
    # plan.toml of a run is whole: its own mode and seed, every default written out.
    again = desk.here("sim", "run", reference.folder / "plan.toml", "--out", desk.out, "--format", "json")
    assert again.code == 0, again.err
    assert again.document["digest"] == reference.done.document["digest"]
    assert Path(again.document["folder"]).name == reference.folder.name


PAIR = PLAN + 'rows = ["popularity", "federated"]\n'


def test_with_secure_aggregation_the_model_is_the_same_to_the_precision_of_the_grid(desk: Desk) -> None:
    plan = desk.plan(PAIR)
    in_the_open = desk.here("sim", "run", plan, "--mode", "none", "--out", desk.out, "--format", "json")
    securely = desk.here(
        "sim", "run", plan, "--mode", "none", "--secure-aggregation", "--out", desk.out, "--format", "json"
    )
    assert in_the_open.code == securely.code == 0, securely.err
    one, other = (Path(done.document["folder"]) for done in (in_the_open, securely))
    models = [load_file(folder / "model/global.safetensors") for folder in (one, other)]
    # A round's mean is rounded by 3 partners x half a step of 3 x 20 x 1.0 / 2^31 over 60 people: below 1e-9, and
    # float32 takes 6e-8 of a coordinate. Two further rounds train on from there, which makes more of it.
    for name, part in models[0].items():
        assert abs(part - models[1][name]).max() <= 2e-6, name
    scores = [pd.read_csv(folder / "rows.csv")["ndcg_at_10"] for folder in (one, other)]
    assert scores[0].tolist() == pytest.approx(scores[1].tolist(), abs=1e-3)

    steps = pd.read_csv(other / "secure-steps.csv")
    assert steps.groupby("round")["step"].agg(list).tolist() == [
        ["advertise", "share", "mask", "agree", "unmask"],
        ["mask", "agree", "unmask"],
        ["mask", "agree", "unmask"],
    ]
    parameters = json.loads((other / "model/card.json").read_text())["parameters"]
    masked = steps.query("step == 'mask'")["received"]
    assert (masked > 3 * 4 * (parameters + 1)).all(), "four bytes a parameter and one weight from each partner"
    assert (masked < 3 * 4 * (parameters + 1) + 2000).all()
    assert (steps["unevenness"].abs() < 6).all(), "masked vectors have even bytes"
    page = (other / "report.html").read_text()
    for words in ("<h2>Secure aggregation</h2>", "1 round took five exchanges, 2 took three", "No round was void."):
        assert words in page
    assert "Secure aggregation" not in (one / "report.html").read_text()
    assert not (one / "secure-steps.csv").exists()


def test_the_mode_distributed_runs_over_secure_aggregation_and_says_who_is_trusted(desk: Desk) -> None:
    plan = desk.plan(SHORT)
    alone = desk.here("sim", "run", plan, "--mode", "distributed", "--out", desk.out)
    assert alone.code == 2
    assert "sa-1 with the mode distributed" in alone.err.replace("\n", " ")
    done = desk.here(
        *("sim", "run", plan, "--mode", "distributed", "--secure-aggregation"),
        *("--epsilon", 4, "--out", desk.out, "--format", "json"),
    )
    assert done.code == 0, done.err
    privacy = done.document["privacy"]
    assert privacy["mode"] == "distributed"
    assert "whole in the sum over 2 honest partners" in privacy["trust"]
    steps = pd.read_csv(Path(done.document["folder"]) / "secure-steps.csv")
    assert set(steps["row"]) == {"federated", "federated_private"}


COUNTED = PLAN.replace("[privacy]\nrounds = 3", "[privacy]\nrounds = 0").replace(
    "[evaluation]\n", '[evaluation]\nrows = ["popularity", "private_statistics", "federated_private"]\n'
)
OWN = COUNTED.replace("partners = 3", "partners = 1").replace(
    '"federated_private"]', '"own_counts", "private_statistics_with_own_counts", "federated_with_counts"]'
)


def test_own_counts_stand_beside_and_with_what_was_released(desk: Desk) -> None:
    kept = desk.out.parent / "results.jsonl"
    done = desk.run(desk.plan(OWN), "--mode", "local", "--epsilon", 4)
    assert done.code == 0, done.err
    for _ in range(2):  # the same result once
        assert desk.run("--resume", done.document["folder"], "--record", kept).code == 0
    (result,) = read_results(kept)
    assert (result.what, result.plan_digest) == ("rows, local, epsilon 4", done.document["digest"])
    assert result.values["rows"] == done.document["rows"]
    rows = {row["name"]: row for row in done.document["rows"]}
    assert {name: row["private"] for name, row in rows.items()} == {
        "popularity": False,
        "private_statistics": True,
        "own_counts": False,
        "private_statistics_with_own_counts": True,
    }, "and none with counts of all"
    assert re.search(r"partner-0: model [\d.]+, own counts [\d.]+", done.err)
    assert done.document["privacy"]["epsilon"] <= 4.0
    ranks = pd.read_parquet(Path(done.document["folder"]) / "ranks.parquet")
    assert {name: len(own) for name, own in ranks.groupby("row")} == dict.fromkeys(rows, PEOPLE)


def test_the_rounds_of_a_model_are_told_also_where_it_stands_with_counts_alone(desk: Desk) -> None:
    plan = PLAN.replace(
        "[evaluation]\n", '[evaluation]\nrows = ["federated_with_own_counts", "local_only_with_counts"]\n'
    )
    done = desk.run(desk.plan(plan), "--mode", "none")
    assert done.code == 0, done.err
    rounds = pd.read_csv(Path(done.document["folder"]) / "rounds.csv")
    assert {name: list(own) for name, own in rounds.groupby("row")["round"]} == {
        name: [1, 2, 3] for name in ("federated", *(f"local_only/partner-{number}" for number in range(3)))
    }
    assert "federated" in (Path(done.document["folder"]) / "report.html").read_text()


def test_a_plan_without_private_rounds_spends_everything_on_the_statistics(desk: Desk) -> None:
    done = desk.run(desk.plan(COUNTED), "--mode", "local", "--epsilon", 4)
    assert done.code == 0, done.err
    document = done.document
    assert [(row["name"], row["private"]) for row in document["rows"]] == [
        ("popularity", False),
        ("private_statistics", True),
        ("federated_private", True),
    ]
    privacy = document["privacy"]
    assert 3.9 < privacy["epsilon"] <= 4.0
    assert (privacy["steps"], privacy["noise_multiplier"]) == (0, None)
    spent = sum(part["noise_multiplier"] ** -2 for part in privacy["statistics"].values())
    assert spent**-0.5 == pytest.approx(1.08, abs=0.01)  # one Gaussian release at epsilon 4 and delta 1e-5
    folder = Path(document["folder"])
    assert json.loads((folder / "privacy.json").read_text())["curve"] == []
    card = json.loads((folder / "model" / "card.json").read_text())
    assert card["prior"] > 0
    assert card["privacy"]["epsilon"] == privacy["epsilon"]
    printed = desk.here("sim", "run", "--resume", folder)
    assert printed.code == 0, printed.err
    assert "popularity: one release, noise multiplier" in " ".join(printed.out.split())
    assert "training: noise multiplier" not in printed.out


def test_without_statistics_there_is_no_row_of_theirs_and_no_prior(desk: Desk) -> None:
    plan = (
        SHORT.replace('"federated"', '"private_statistics"')
        + "[statistics]\npopularity_share = 0.0\ntransition_share = 0.0\n"
    )
    done = desk.run(desk.plan(plan), "--mode", "local", "--epsilon", 4)
    assert done.code == 0, done.err
    assert [row["name"] for row in done.document["rows"]] == ["popularity", "federated_private"]
    assert done.document["privacy"]["statistics"] == {"popularity": None, "transitions": None}
    assert json.loads((Path(done.document["folder"]) / "model" / "card.json").read_text())["prior"] == 0
