"""Results accumulate, one line each; the same key gives way and a damaged file stays as it is."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from silhouette_shared.errors import IntegrityError
from silhouette_simulations.results import Result, add_result, commit_of, read_results

ONE = Result(
    what="rows",
    plan="tiny",
    plan_digest="a" * 64,
    seed=0,
    commit="abc",
    dataset_digest="b" * 64,
    target="test",
    seconds=1.5,
    values={"ndcg_at_10": 0.5},
)


def test_results_accumulate_and_the_same_key_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert read_results(path) == ()
    other, again = replace(ONE, seed=1), replace(ONE, values={"ndcg_at_10": 0.6})
    for result in (ONE, other, again):
        add_result(path, result)
    assert read_results(path) == (other, again)
    assert path.read_text().count("\n") == 2


@pytest.mark.parametrize("line", ["{", '{"what": "rows"}', "[]"])
def test_a_damaged_file_is_named_with_its_line_and_stays(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    add_result(path, ONE)
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match=r"results.jsonl:2: expected a result, got another line"):
        add_result(path, ONE)
    assert path.read_bytes() == before


def test_a_commit_is_named_and_marked_where_files_differ(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == ""

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    clean = commit_of(tmp_path)
    assert len(clean) == 12
    (tmp_path / "file").write_text("two")
    assert commit_of(tmp_path) == clean + "+"


def test_the_committed_results_can_be_read() -> None:
    committed = Path(__file__).parents[2] / "simulations" / "experiments" / "results.jsonl"
    kinds = {result.what.partition(" ")[0].rstrip(",") for result in read_results(committed)}
    assert kinds <= {"rows", "findings", "study", "mix", "federation", "peers"}
