"""`silhouette budget`: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.ledgers import NODE, STEP, Place, charge, steps

from silhouette_client.cli import budget
from silhouette_shared.errors import SilhouetteError
from silhouette_shared.privacy.ledger import Limits

LIMITS = Limits(epsilon_per_run=8.0, epsilon_per_year=12.0, delta=1e-5)
PLAN = """\
name = "tiny"

[privacy]
rounds = 20
sampling_rate = 0.2
epsilon = 4.0
"""


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a verb the way the root command does, whether or not the noun is installed yet."""

    def run(*arguments: object) -> Done:
        command = typer.main.get_command(budget)
        message = ""
        try:
            result = command.main([str(part) for part in arguments], standalone_mode=False)
            code = result if isinstance(result, int) else 0
        except SilhouetteError as error:
            code, message = error.exit_code, str(error)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err + message)

    return run


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    with made.open(LIMITS) as ledger:
        for number in range(1, 4):
            ledger.charge(charge(number)).redeem(STEP)
        ledger.charge(charge(1, purpose="statistics", mechanism=steps(5)))
    return made


def test_show_prints_what_was_spent_and_what_is_left(place: Place, call: Call) -> None:
    done = call("show", "--home", place.home)
    assert done.code == 0
    assert done.err == ""
    assert "6 entries of north" in done.out
    assert "limits  epsilon 8.000 a run, 12.000 a year, at delta 1e-05" in done.out
    for text in ("training: 3 charges, epsilon ", "statistics: 1 charges", " by pld, ", " by rdp", " left"):
        assert text in done.out


def test_show_prints_one_json_document(place: Place, call: Call) -> None:
    document = call("show", "--home", place.home, "--format", "json").document
    assert document["node"] == NODE
    assert document["limits"] == {"epsilon_per_run": 8.0, "epsilon_per_year": 12.0, "delta": 1e-5}
    assert document["year"]["charges"] == 4
    (run,) = document["runs"]
    assert run["epsilon"]["pld"] < run["epsilon"]["rdp"]
    assert run["left"] == pytest.approx(8.0 - run["spent"])
    assert document["all"]["charges"] == 4


def test_the_home_may_come_from_the_environment(place: Place, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILHOUETTE_HOME", str(place.home))
    assert call("show").code == 0


def test_forecast_says_how_much_of_a_plan_fits(place: Place, call: Call, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    document = call("forecast", plan, "--home", place.home, "--format", "json").document
    assert document["plan_rounds"] == 20
    assert 20 < document["rounds"] < 200
    assert document["runs"] >= 1
    done = call("forecast", plan, "--home", place.home)
    assert f"rounds  {document['rounds']} of a new run fit today" in done.out
    assert done.code == 0


def test_forecast_of_a_plan_that_does_not_fit_ends_with_three(place: Place, call: Call, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("4.0", "20.0"))
    done = call("forecast", plan, "--home", place.home)
    assert done.code == 3
    assert "then the run limit stops it" in done.out
    assert "runs    0 whole ones fit today" in done.out
    plan.write_text(PLAN + 'mode = "none"\n')
    done = call("forecast", plan, "--home", place.home)
    assert done.code == 2
    assert "expected a plan with privacy" in done.err


def test_verify_of_a_whole_ledger(place: Place, call: Call) -> None:
    done = call("verify", "--home", place.home, "--witness", place.witness_folder)
    assert done.code == 0
    assert "whole   6 entries of north" in done.out
    assert "seen    up to entry 6" in done.out
    document = call("verify", "--home", place.home, "--witness", place.witness_folder, "--format", "json").document
    assert document["whole"] is True
    assert document["witness"]["sequence"] == 6


def test_verify_without_a_witness_says_what_it_cannot_see(place: Place, call: Call) -> None:
    done = call("verify", "--home", place.home, "--format", "json")
    assert done.code == 0
    assert done.document["witness"] is None
    assert "no witness was asked" in done.err


def test_verify_names_the_entry_that_is_wrong(place: Place, call: Call) -> None:
    content = place.path.read_bytes()
    place.path.write_bytes(content.replace(b'"round":2', b'"round":7'))
    done = call("verify", "--home", place.home, "--witness", place.witness_folder)
    assert done.code == 5
    assert "ledger entry 4: " in done.err
    assert done.out == ""
    assert call("show", "--home", place.home).code == 5


def test_verify_notices_an_older_copy(place: Place, call: Call, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(place.home, old)
    with place.open(LIMITS) as ledger:
        ledger.charge(charge(9))
    done = call("verify", "--home", old, "--witness", place.witness_folder)
    assert done.code == 5
    assert "an older copy was put back" in done.err
    empty = tmp_path / "empty"
    empty.mkdir()
    done = call("verify", "--home", place.home, "--witness", empty)
    assert done.code == 5
    assert "got one that never has" in done.err
    assert call("verify", "--home", place.home, "--witness", tmp_path / "none").code == 4


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_a_home_without_a_ledger_is_bad_input(call: Call, tmp_path: Path, verb: str) -> None:
    done = call(verb, "--home", tmp_path)
    assert done.code == 2
    assert "expected a ledger, found none; a node makes it when it first starts" in done.err
