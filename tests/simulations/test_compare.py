"""Paired comparisons find planted differences, no others, and refuse what cannot be compared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.simulations.run_folders import ROWS, ndcg_at_10, plan_for, write_run_folder

from silhouette_shared.cli import main
from silhouette_shared.config import Evaluation, Plan, SplitName
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_simulations.report import compare

QUICK = 200


def run(folder: Path, plan: Plan | None = None, **more: object) -> Path:
    return write_run_folder(folder, plan=plan, **more)  # type: ignore[arg-type]


def other_plan(name: str = "other", seed: int = 0) -> Plan:
    plan = plan_for(name, seed=seed)
    return replace(plan, model=replace(plan.model, width=32))


def test_identical_runs_do_not_differ(tmp_path: Path) -> None:
    found = compare([run(tmp_path / "a"), run(tmp_path / "b")], "federated", resamples=QUICK)
    assert [group.label for group in found.groups] == ["tiny", "tiny (2)"]
    (one,) = found.differences
    assert one.difference == 0
    assert one.low <= 0 <= one.high
    assert one.verdict == "unclear"


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    first = run(tmp_path / "a", chances={"federated": 0.2}, people=500)
    second = run(tmp_path / "b", other_plan(), chances={"federated": 0.8}, people=500)
    (one,) = compare([first, second], "federated", resamples=QUICK).differences
    assert one.left.group.startswith("other")
    assert one.low > 0
    assert one.verdict == "higher"
    (back,) = compare([second, first], "federated", resamples=QUICK).differences
    assert back.difference == pytest.approx(-one.difference)
    assert back.verdict == "lower"


def test_the_difference_is_that_of_the_means(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    found = compare([folder], resamples=QUICK)
    ranks = pq.read_table(folder / "ranks.parquet").to_pandas()
    means = {name: ndcg_at_10(part["rank"].to_numpy()) for name, part in ranks.groupby("row")}
    assert [one.right.row for one in found.differences] == [n for n in ROWS if n != "federated"]
    for one in found.differences:
        assert one.left.row == "federated"
        assert one.left.ndcg == pytest.approx(means["federated"])
        assert one.difference == pytest.approx(means["federated"] - means[one.right.row])
        assert one.low <= one.difference <= one.high


def test_people_are_joined_by_their_id_and_not_by_their_place(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    table = pq.read_table(second / "ranks.parquet")
    backwards = table.take(list(range(table.num_rows))[::-1])
    pq.write_table(backwards, second / "ranks.parquet")
    (one,) = compare([first, second], "federated", resamples=QUICK).differences
    assert (one.difference, one.low, one.high) == (0, 0, 0)


def test_seeds_of_one_plan_are_averaged_person_by_person(tmp_path: Path) -> None:
    folders = [run(tmp_path / f"s{seed}", plan_for(seed=seed)) for seed in range(3)]
    found = compare(folders, "federated", resamples=QUICK)
    assert [group.seeds for group in found.groups] == [(0, 1, 2)]
    expected = 0.0
    for folder in folders:
        ranks = pq.read_table(folder / "ranks.parquet").to_pandas()
        expected += ndcg_at_10(ranks[ranks["row"] == "federated"]["rank"].to_numpy()) / 3
    assert found.differences[0].left.ndcg == pytest.approx(expected)


def test_sets_of_seeds_of_two_plans_are_compared(tmp_path: Path) -> None:
    folders = [run(tmp_path / f"a{seed}", plan_for(seed=seed)) for seed in range(2)]
    folders += [run(tmp_path / f"b{seed}", other_plan("tiny", seed)) for seed in range(2)]
    found = compare(folders, resamples=QUICK)
    assert [group.label for group in found.groups] == [
        "tiny model.width=64",
        "tiny model.width=32",
    ]
    assert [one.left.row for one in found.differences] == list(ROWS)
    assert {one.right.group for one in found.differences} == {"tiny model.width=64"}


def test_the_same_seed_gives_the_same_intervals(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    first = compare([folder], resamples=QUICK, seed=3)
    assert compare([folder], resamples=QUICK, seed=3) == first
    assert compare([folder], resamples=QUICK, seed=4) != first


def test_a_cutoff_changes_what_counts(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    at_one, at_forty = (compare([folder], cutoff=k, resamples=QUICK) for k in (1, 40))
    assert at_one.differences[0].left.ndcg < at_forty.differences[0].left.ndcg


def test_the_document_is_plain_json(tmp_path: Path) -> None:
    document = compare([run(tmp_path / "a")], resamples=QUICK).to_document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["metric"] == "ndcg_at_10"
    assert document["users"] == 200
    assert {"left", "right", "difference", "low", "high", "verdict"} == set(
        document["differences"][0]  # type: ignore[index]
    )


def test_other_people_are_refused(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", other_plan(), prefix="x")]
    with pytest.raises(UsageError, match=r"the same 200 people .* of whom 0 are the same"):
        compare(folders, resamples=QUICK)


def test_another_number_of_people_is_refused(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", other_plan(), people=100)]
    with pytest.raises(UsageError, match=r"expected the number of users 200 of .* got 100"):
        compare(folders, resamples=QUICK)


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b", other_plan())
    document = json.loads((second / "run.json").read_text(encoding="utf-8"))
    document["dataset_digest"] = "e" * 64
    (second / "run.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UsageError, match="expected the data set digest"):
        compare([first, second], resamples=QUICK)


def test_another_share_held_out_is_refused_where_the_split_reads_it(tmp_path: Path) -> None:
    def held_out(split: SplitName, share: float) -> Path:
        plan = plan_for(evaluation=Evaluation(split=split, held_out_share=share))
        return write_run_folder(tmp_path / f"{split}-{share}", plan=plan)

    compare([held_out("last", 0.1), held_out("last", 0.2)], resamples=QUICK)
    with pytest.raises(UsageError, match=r"expected the share held out 0\.1 of .* got 0\.2"):
        compare([held_out("random", 0.1), held_out("random", 0.2)], resamples=QUICK)


def test_another_target_is_refused(tmp_path: Path) -> None:
    validation = plan_for(evaluation=Evaluation(target="validation"))
    folders = [run(tmp_path / "a"), run(tmp_path / "b", validation)]
    with pytest.raises(UsageError, match=r"expected the target test of .* got validation"):
        compare(folders, resamples=QUICK)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a complete run.*--resume"):
        compare([run(tmp_path / "a", state="running")], resamples=QUICK)


def test_an_unknown_row_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"popularity, transition_counts.*got 'sasrec'"):
        compare([run(tmp_path / "a")], "sasrec", resamples=QUICK)


def test_a_row_that_only_one_run_has_is_refused(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", plan_for("none", mode="none"))]
    with pytest.raises(UsageError, match="a row that every run has"):
        compare(folders, "federated_private", resamples=QUICK)


@pytest.mark.parametrize("name", ["rows.csv", "ranks.parquet", "run.json", "plan.toml"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = run(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(UsageError, match=re.escape(str(folder / name))):
        compare([folder], resamples=QUICK)


def test_damaged_ranks_are_named(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    (folder / "ranks.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(IntegrityError, match=r"ranks\.parquet: expected a Parquet file"):
        compare([folder], resamples=QUICK)


@pytest.mark.parametrize("settings", [{"cutoff": 0}, {"resamples": 0}, {"seed": -1}])
def test_a_setting_out_of_range_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected cutoff and resamples of at least 1"):
        compare([tmp_path], **settings)
    with pytest.raises(UsageError, match="at least one run folder"):
        compare([])


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(run(tmp_path / "a")), str(run(tmp_path / "b", other_plan()))]
    arguments = ["sim", "compare", *folders, "--row", "federated", "--resamples", "100"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "NDCG@10 on ml-100k, 200 people" in printed
    assert "Federated" in printed
    assert "other" in printed
    assert main([*arguments, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["left"]["row"] for one in document["differences"]] == ["federated"]


def test_the_command_refuses_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "compare", str(tmp_path / "nothing")]) == UsageError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "run.json" in captured.err
