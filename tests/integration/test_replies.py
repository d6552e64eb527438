"""A partner that fails costs its own answer; too few answers end the run, and it goes on from there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.integration.desk import PLAN, Desk

TWO_NEEDED = PLAN + "\n[replies]\nminimum = 2\n"
ONLY_FEDERATED = '[evaluation]\nrows = ["popularity", "federated"]\n'
PLANNED = TWO_NEEDED.replace("[evaluation]\n", ONLY_FEDERATED)


def failing(partners: tuple[str, ...], rounds: tuple[int, ...]) -> str:
    """A fault planted in the agents of some partners in some rounds."""
    return f"""
from silhouette_client.agent import Agent
train = Agent.train
def fail_or_train(self, request):
    if self.partner in {partners!r} and request.round in {rounds!r}:
        raise RuntimeError("planted")
    return train(self, request)
Agent.train = fail_or_train
"""


DAMAGED = """
import silhouette_simulations.training as training
write = training.write_node_folder
def write_and_damage(folder, **arguments):
    write(folder, **arguments)
    path = folder / "partner-1" / "histories.safetensors"
    path.write_bytes(path.read_bytes()[:200])
training.write_node_folder = write_and_damage
"""


def rounds_of(folder: Path) -> list[tuple[int, int, int]]:
    table = pd.read_csv(folder / "rounds.csv")
    return [(int(row["round"]), int(row["replies"]), int(row["refused"])) for _, row in table.iterrows()]


def test_one_partner_that_fails_costs_its_answer_of_that_round(desk: Desk) -> None:
    done = desk.run(desk.plan(PLANNED), script=failing(("partner-1",), (2,)))
    assert done.code == 0, done.err
    assert rounds_of(Path(done.document["folder"])) == [(1, 3, 0), (2, 2, 1), (3, 3, 0)]
    assert "round 2: partner-1: error 2: SilhouetteError: the partner failed with RuntimeError" in done.err


def test_too_few_answers_end_the_run_and_it_goes_on_with_the_same_rows(desk: Desk) -> None:
    done = desk.run(desk.plan(PLANNED), script=failing(("partner-0", "partner-2"), (2,)))
    assert done.code == 4, done.err
    (folder,) = desk.out.iterdir()
    assert "error: round 2: expected at least 2 valid answers, got 1 (partner-0: error 2:" in done.err
    assert "the model of round 1 is kept: resume the run" in done.err
    assert f"to go on: silhouette sim run --resume {folder}" in done.err
    assert done.out == ""
    assert not (folder / "rows.csv").exists()
    resumed = desk.here("sim", "run", "--resume", folder, "--format", "json")
    assert resumed.code == 0, resumed.err
    assert rounds_of(folder) == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
    undisturbed = desk.here("sim", "run", desk.plan(PLANNED), "--mode", "none", "--out", desk.out, "--format", "json")
    assert resumed.document["rows"] == undisturbed.document["rows"]


@pytest.mark.slow
def test_a_partner_whose_data_are_damaged_is_left_out_and_counted(desk: Desk) -> None:
    done = desk.run(desk.plan(PLANNED), script=DAMAGED)
    assert done.code == 0, done.err
    assert "left out: node" in done.err
    assert "expected whole histories of partner-1" in done.err
    assert rounds_of(Path(done.document["folder"])) == [(1, 2, 1), (2, 2, 1), (3, 2, 1)]


@pytest.mark.slow
def test_too_few_partners_that_can_take_part_end_the_run_before_the_first_round(desk: Desk) -> None:
    done = desk.run(desk.plan(PLANNED.replace("minimum = 2", "minimum = 3")), script=DAMAGED)
    assert done.code == 4, done.err
    assert "error: expected at least 3 partners, got 2" in done.err
    (folder,) = desk.out.iterdir()
    resumed = desk.here("sim", "run", "--resume", folder, "--format", "json")
    assert resumed.code == 0, resumed.err
    assert rounds_of(folder) == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
