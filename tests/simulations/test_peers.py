"""The peers get the split that everybody gets, and their answers are ranked as ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from tests.simulations.test_probes import PEOPLE, world

SCRIPT = Path(__file__).parents[2] / "simulations" / "peers" / "run.py"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_exported_is_the_known_part_in_its_order_and_what_is_asked_is_not_in_it(
    peers: ModuleType, tmp_path: Path
) -> None:
    made = world()
    asked = peers.export(made, tmp_path)
    known = pd.read_csv(tmp_path / "known.csv", dtype={"user": str})
    (partner,) = made.partners
    assert known["item"].tolist() == partner.known.items.tolist()
    assert known.groupby("user", sort=False)["position"].max().tolist() == (partner.known.lengths - 1).tolist()
    assert asked["user"].tolist() == list(partner.users)
    assert asked["item"].tolist() == partner.targets.tolist()
    assert len(known) == 8 * PEOPLE


def test_an_item_that_was_not_recommended_has_the_rank_behind_the_last(peers: ModuleType) -> None:
    asked = pd.DataFrame({"user": ["a", "b", "c"], "item": [5, 6, 7]})
    recommended = pd.DataFrame({"user": ["a", "a", "b", "c"], "item": [4, 5, 1, 7], "rank": [0, 1, 0, 0]})
    assert torch.equal(peers.ranks_of(asked, recommended), torch.tensor([1, 10, 0]))


def test_people_who_are_asked_for_several_items_count_once_each_as_in_our_rows(peers: ModuleType) -> None:
    asked = pd.DataFrame({"user": ["b", "b", "b", "a"], "item": [1, 2, 3, 9]})
    recommended = pd.DataFrame({"user": ["a", "b"], "item": [9, 7], "rank": [0, 0]})
    hits, gains = peers.figures_of(asked, recommended)
    assert hits.tolist() == [0.0, 1.0]
    assert gains.tolist() == [0.0, 1.0]


def test_the_peers_environment_wants_what_ours_cannot_have() -> None:
    lines = (SCRIPT.parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in wanted)
    assert any(line.startswith("numpy==1.") for line in wanted)
