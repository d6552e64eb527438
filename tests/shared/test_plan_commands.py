"""`silhouette plan`: a new plan is a plan, a checked one can be run, a priced one says what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from silhouette_shared.config import Plan, commented_toml, parse_plan, read_plan, with_changes, write_toml
from silhouette_shared.errors import UsageError
from silhouette_shared.plan_commands import plan


def run(*arguments: object) -> Result:
    return CliRunner().invoke(plan, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small plan."""
    path = tmp_path / "small.toml"
    path.write_text(write_toml(with_changes(Plan(name="small"), {"privacy.rounds": 10})), encoding="utf-8")
    return path


def test_a_new_plan_is_the_default_one_with_every_table_explained(tmp_path: Path) -> None:
    done = run("new", "mine", "--out", tmp_path / "plans")
    assert done.exit_code == 0, done.output
    path = tmp_path / "plans" / "mine.toml"
    assert str(path) in done.output
    assert read_plan(path) == Plan(name="mine")
    lines = path.read_text(encoding="utf-8").splitlines()
    tables = [number for number, line in enumerate(lines) if line.startswith("[")]
    assert len(tables) >= 7
    for table in ("data", "partition", "model", "training", "privacy", "replies", "evaluation"):
        assert lines[lines.index(f"[{table}]") - 1].startswith("# ")
    assert any(line.startswith("epsilon = 8.0  # ") for line in lines)


def test_comments_change_no_value() -> None:
    changed = with_changes(Plan(name="x", note='a # "quoted" note'), {"privacy.epsilon": 2.5, "model.width": 32})
    text = commented_toml(changed)
    assert parse_plan(tomllib.loads(text), source="here") == changed
    assert [line.split("  # ")[0] for line in text.splitlines() if not line.startswith("# ")] == write_toml(
        changed
    ).splitlines()


def test_a_file_that_is_there_is_left_alone(file: Path) -> None:
    before = file.read_bytes()
    refused = run("new", "small", "--out", file.parent)
    assert isinstance(refused.exception, UsageError)
    assert "expected a new file, found one" in str(refused.exception)
    assert file.read_bytes() == before


def test_a_name_that_is_no_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    refused = run("new", "a/b", "--out", tmp_path / "plans")
    assert isinstance(refused.exception, UsageError)
    assert not (tmp_path / "plans").exists()


def test_a_plan_that_can_be_run_says_what_was_checked(file: Path) -> None:
    done = run("check", file, "--people", 1000, "--parameters", 100_000, "--format", "json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["digest"] == read_plan(file).digest
    assert document["checked"] == ["settings", "noise for epsilon 8 at delta 1e-05", "sums of 32 bits"]
    assert "settings, noise for epsilon 8" in run("check", file).output


def test_sums_that_would_not_fit_and_broken_settings_are_found(file: Path) -> None:
    refused = run("check", file, "--people", 100_000, "--parameters", 100_000, "--partners", 50)
    assert isinstance(refused.exception, UsageError)
    assert "take privacy.grid_bits = " in str(refused.exception)
    file.write_text('name = "small"\n[privacy]\ngrid_bits = 40\n', encoding="utf-8")
    refused = run("check", file)
    assert "small.toml:3: not a plan: privacy.grid_bits: expected 6 to 24 bits, got 40" in str(refused.exception)


def test_a_plan_without_privacy_is_said_to_be_one(file: Path) -> None:
    file.write_text('name = "small"\n[privacy]\nmode = "none"\n', encoding="utf-8")
    assert "no privacy, for a simulation on public data only" in run("check", file).output
    assert "expected a mode with privacy" in str(run("price", file).exception)


def test_the_price_is_printed_for_people_and_for_programs(file: Path) -> None:
    shown = run("price", file, "--people", 1000, "--parameters", 100_000, "--persons-partners", 2)
    assert shown.exit_code == 0, shown.output
    for words in (
        "at delta 1e-05 for one person's whole record at a partner, added or removed; mode local",
        "accountants       PLD 7.9",
        "a person at 2 partners",
        "200.0 people expected, at most",
        "one round alone",
        "batch cap",
        "only if secure aggregation failed",
        "times the largest that the signal can have",
        "not charged       sums in float32 may lie 0.0",
    ):
        assert words in shown.output
    document = json.loads(run("price", file, "--format", "json").stdout)
    assert 7.95 < document["epsilon"] <= 8.0
    assert document["batch"] == {"expected": None, "cap": None, "overflow": None}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--people", 0), "--people"),
        (("--people", -5), "--people"),
        (("--parameters", 0), "--parameters"),
        (("--partners", 0), "--partners"),
        (("--partners", 3, "--persons-partners", 4), "expected a person at 1 to 3 partners, got 4"),
        (("--runs", 0), "--runs"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name(file: Path, arguments: tuple[object, ...], words: str) -> None:
    refused = run("price", file, *arguments)
    assert refused.exit_code != 0
    assert words in (refused.output if refused.exit_code == 2 else str(refused.exception))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epsilon = 0", "privacy.epsilon: expected a positive number"),
        ("epsilon = 1e-3", "expected a finite epsilon of at least 0.05"),
        ("epsilon = nan", "privacy.epsilon"),
        ("delta = 1e-12", "delta"),
        ("delta = 1.0", "privacy.delta: expected a number between 0 and 1"),
        ("sampling_rate = 0", "privacy.sampling_rate: expected a fraction above 0"),
        ("sampling_rate = 1.5", "privacy.sampling_rate: expected a fraction above 0"),
        ("rounds = -1", "privacy.rounds: expected 0 to 100000 rounds"),
        ("rounds = 0", "privacy.rounds: expected at least 1 round to price, got none"),
        ("rounds = 2.5", "privacy.rounds"),
        ("local_steps = 0", "privacy.local_steps: expected at least 1"),
        ("clip_norm = inf", "privacy.clip_norm"),
        ("clip_norm = -1", "privacy.clip_norm: expected a positive number"),
    ],
)
def test_a_plan_of_nonsense_has_no_price_and_names_the_setting(file: Path, setting: str, words: str) -> None:
    file.write_text(f'name = "small"\n[privacy]\n{setting}\n', encoding="utf-8")
    refused = run("price", file)
    assert isinstance(refused.exception, UsageError)
    assert words in str(refused.exception)


def test_the_noun_is_imported_without_anything_heavy() -> None:
    code = (
        "import sys; import silhouette_shared.plan_commands; "
        "print([name for name in ('torch', 'opacus', 'dp_accounting', 'numpy', 'flwr') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_price_says_what_a_run_moves_and_how_long_it_takes(file: Path) -> None:
    done = run("price", file, "--parameters", 1_000_000, "--round-seconds", 15, "--format", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["effort"] == {
        "rounds": 10,
        "bytes_a_round": 4_000_000,
        "bytes": 40_000_000,
        "seconds": 150.0,
    }
    text = run("price", file, "--parameters", 1_000_000, "--round-seconds", 15).output
    assert "4.00 MB up and as many down at a partner in a round, 40.0 MB each way" in text
    assert "10 rounds, 2.5 minutes" in text
    assert "--parameters D gives the bytes" in run("price", file).output
