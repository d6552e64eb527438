"""What federating costs is told of the people and partners it says; runs that do not belong together are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.simulations.run_folders import ndcg_at_10, plan_for, write_run_folder

from silhouette_shared.cli import main
from silhouette_shared.config import Partition, read_plan, with_changes, write_toml
from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import Interval
from silhouette_simulations.federation import federation
from silhouette_simulations.results import read_results

PARAMETERS = 1000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path / "run", mode="none")


def finished(folder: Path, *, partners: int = 5, prefix: str = "", state: str = "complete", mode: str = "none") -> Path:
    made = write_run_folder(
        folder,
        plan=plan_for(mode=mode, partition=Partition(partners=partners)),
        partners=partners,
        prefix=prefix,
        state=state,
    )
    (made / "model" / "card.json").write_text(json.dumps({"trained_as": "federated", "parameters": PARAMETERS}))
    return made


def test_every_partner_has_its_own_people_their_means_and_its_bytes(run: Path) -> None:
    table = federation(run, run, run)
    assert [row["partner"] for row in table.rows] == ["everybody", *(f"partner-{n}" for n in range(5))]
    ranks = pq.read_table(run / "ranks.parquet").to_pandas()
    rounds = (run / "rounds.csv").read_text().count("\nfederated,")
    for line in table.rows:
        own = ranks if line["partner"] == "everybody" else ranks[ranks["partner"] == line["partner"]]
        means = {
            name: ndcg_at_10(np.asarray(own.loc[own["row"] == row, "rank"]))
            for name, row in (("local only", "local_only"), ("federated", "federated"), ("pooled", "pooled"))
        }
        assert {name: line[name] for name in means} == pytest.approx(means)
        assert line["of pooled"] == pytest.approx(means["federated"] / means["pooled"])
        assert line["people"] == (own["row"] == "federated").sum()
        less = line["less local only"]
        assert isinstance(less, Interval)
        assert less.mean == pytest.approx(means["federated"] - means["local only"])
        assert less.low < less.mean < less.high
        expected = None if line["partner"] == "everybody" else rounds * PARAMETERS * 4
        assert (line["bytes down"], line["bytes up"]) == (expected, expected)
    assert rounds > 0


def test_rows_may_stand_in_several_runs_and_local_training_may_be_left_out(run: Path, tmp_path: Path) -> None:
    other = finished(tmp_path / "other", partners=3)  # pooled training does not depend on the partners
    table = federation(run, other)
    assert "local only" not in table.columns
    assert len(table.rows) == 6


def test_with_counts_the_rows_are_those_with_counts_and_the_counts_bytes_are_added(run: Path) -> None:
    with pytest.raises(UsageError, match="expected a run with the row federated_with_counts"):
        federation(run, run, run, {})
    table = pq.read_table(run / "ranks.parquet").to_pandas()
    for row, rank in (("local_only", 5), ("federated", 1), ("pooled", 0)):
        counted = table[table["row"] == row].assign(row=f"{row}_with_counts", rank=rank)
        table = pd.concat([table, counted])
    table.to_parquet(run / "ranks.parquet")
    alone = federation(run, run, run)
    found = federation(run, run, run, {f"partner-{number}": (100, number) for number in range(5)})
    assert found.title.endswith("with transition counts, weight 1")
    for number, (line, before) in enumerate(zip(found.rows[1:], alone.rows[1:], strict=True)):
        assert line["federated"] == pytest.approx(1 / np.log2(3))
        assert line["pooled"] == 1.0
        assert line["local only"] == pytest.approx(1 / np.log2(7))
        bytes_before = before["bytes down"]
        assert isinstance(bytes_before, int)
        assert (line["bytes down"], line["bytes up"]) == (bytes_before + 100, bytes_before + number)


def test_runs_that_do_not_belong_together_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the people of the federated run"):
        federation(run, finished(tmp_path / "others", prefix="x"))
    with pytest.raises(UsageError, match="expected a complete run"):
        federation(run, finished(tmp_path / "half", state="running"))
    with pytest.raises(UsageError, match="expected the partners of the federated run"):
        federation(run, run, finished(tmp_path / "three", partners=3))
    renamed = json.loads((run / "run.json").read_text()) | {"dataset_digest": "e" * 64}
    elsewhere = finished(tmp_path / "elsewhere")
    (elsewhere / "run.json").write_text(json.dumps(renamed))
    with pytest.raises(UsageError, match="expected the data set of the federated run"):
        federation(run, elsewhere)
    table = pq.read_table(elsewhere / "ranks.parquet").to_pandas()
    table[table["row"] != "federated"].to_parquet(elsewhere / "ranks.parquet")
    with pytest.raises(UsageError, match="expected a run with the row federated"):
        federation(elsewhere, run)


def with_counts(run: Path, *, weight: float = 1.0, alone: bool = False) -> Path:
    """The run with rows that have counts, and if `alone` no others."""
    table = pq.read_table(run / "ranks.parquet").to_pandas()
    table = table[table["row"].isin(("federated", "pooled"))]
    counted = table.assign(row=table["row"] + "_with_counts")
    (counted if alone else pd.concat([table, counted])).to_parquet(run / "ranks.parquet")
    plan = with_changes(read_plan(run / "plan.toml"), {"evaluation.counts_weight": weight})
    (run / "plan.toml").write_text(write_toml(plan), encoding="utf-8")
    return run


def test_counts_of_another_weight_and_models_whose_rounds_are_not_told_are_refused(run: Path, tmp_path: Path) -> None:
    traffic = {f"partner-{number}": (0, 0) for number in range(5)}
    with_counts(run)
    assert len(federation(run, run, None, traffic).rows) == 6
    heavier = with_counts(finished(tmp_path / "heavier"), weight=2.0)
    with pytest.raises(UsageError, match="expected the weight of the counts of the federated run, got another"):
        federation(run, heavier, None, traffic)
    assert len(federation(run, heavier).rows) == 6  # the models alone have no weight
    alone = with_counts(finished(tmp_path / "alone"), alone=True)
    with pytest.raises(UsageError, match="expected a run with the row federated, got"):
        federation(alone, alone, None, traffic)


def asking_several_things(run: Path, seed: int) -> Path:
    """The run with the split `random`, in which everybody is asked for two things."""
    table = pq.read_table(run / "ranks.parquet").to_pandas()
    pd.concat([table, table.assign(rank=0)]).to_parquet(run / "ranks.parquet")
    plan = with_changes(read_plan(run / "plan.toml"), {"evaluation.split": "random", "seed": seed})
    (run / "plan.toml").write_text(write_toml(plan), encoding="utf-8")
    return run


def test_people_who_are_asked_for_several_things_are_compared_and_by_another_seed_refused(
    run: Path, tmp_path: Path
) -> None:
    once = federation(run, run).rows
    several = federation(asking_several_things(run, 0), run).rows
    assert [line["people"] for line in several] == [line["people"] for line in once]
    for line, before in zip(several, once, strict=True):
        assert isinstance(line["federated"], float)
        assert isinstance(before["federated"], float)
        assert before["federated"] < line["federated"] < 1  # one of two things comes first
    with pytest.raises(UsageError, match="expected the evaluation of the federated run, got another"):
        federation(run, asking_several_things(finished(tmp_path / "other"), 1))


def test_rows_over_other_kinds_of_events_are_refused(run: Path, tmp_path: Path) -> None:
    other = finished(tmp_path / "purchases")
    plan = with_changes(read_plan(other / "plan.toml"), {"data.behaviours": ["purchase"]})
    (other / "plan.toml").write_text(write_toml(plan), encoding="utf-8")
    with pytest.raises(UsageError, match="expected the events of the federated run, got another"):
        federation(run, other)


def test_the_rounds_that_are_told_are_those_that_were_run(run: Path) -> None:
    rounds = (run / "rounds.csv").read_text().count("\nfederated,")
    longer = with_changes(read_plan(run / "plan.toml"), {"training.rounds": rounds + 30})
    (run / "plan.toml").write_text(write_toml(longer), encoding="utf-8")
    assert f"whole run, {rounds} rounds" in federation(run, run).notes[1]


def test_the_command_prints_and_records_the_table(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "results.jsonl"
    command = ["sim", "federation", str(run), "--local", str(run), "--record", str(kept)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "partner-4" in shown
    assert "bytes of a partner in the whole run" in " ".join(shown.split())
    assert main([*command, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (result,) = read_results(kept)
    assert (result.what, result.values) == ("federation", document)
