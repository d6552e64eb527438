"""The ServerApp that Flower's tooling loads runs the job of its folder, and says what is missing."""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from tests.people import MECHANISM, histories, plan, training_budget, vocabulary

from silhouette_client.app import make_client_app
from silhouette_client.node_folder import AgentCache, write_node_folder
from silhouette_server.app import JOB_VARIABLE, app, counting_of, open_job
from silhouette_server.coordination.checkpoints import read_checkpoint
from silhouette_shared.config import Statistics
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.budget import budget_of
from silhouette_simulations.backend import run_in_process
from silhouette_simulations.nodes import simulated


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two partners that train without privacy."""
    path = tmp_path / "job"
    people = {f"partner-{number}": histories(seed=number) for number in range(2)}
    write_node_folder(
        path,
        plan=plan(),
        vocabulary=vocabulary(),
        partners=people,
        declared_people=dict.fromkeys(people, 10),
        budget=None,
        seed_path=("training", "federated"),
    )
    return path


def test_the_app_named_in_the_project_file_is_a_server_app() -> None:
    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, name = document["tool"]["flwr"]["app"]["components"]["serverapp"].partition(":")
    assert getattr(importlib.import_module(module), name) is app
    assert isinstance(app, ServerApp)


def test_the_app_runs_the_job_of_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_VARIABLE, str(folder))
    agents = make_client_app(AgentCache(folder, torch.device("cpu"), simulated("bookkeeping")).of)
    run_in_process(app, agents, nodes=2, workers=1)
    checkpoint = read_checkpoint(folder / "checkpoint.safetensors")
    assert checkpoint is not None
    assert checkpoint.round == plan().training.rounds
    assert not torch.equal(checkpoint.tensors["parameters"], open_job(folder).initial)


def test_without_a_folder_it_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    with pytest.raises(UsageError, match=JOB_VARIABLE):
        run_in_process(app, ClientApp(), nodes=1, workers=1)


def test_a_job_with_privacy_has_the_schedule_of_the_private_training(folder: Path) -> None:
    assert open_job(folder).schedule == plan().training
    write_node_folder(
        folder,
        plan=plan(),
        vocabulary=vocabulary(),
        partners={},
        declared_people={},
        budget=training_budget(MECHANISM),
        seed_path=("training", "x"),
    )
    assert open_job(folder).schedule == plan().privacy


@pytest.mark.parametrize("name", ["plan.toml", "catalogue.safetensors", "terms.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        open_job(folder)


@pytest.mark.parametrize("name", ["catalogue.safetensors", "terms.json"])
def test_a_file_cut_in_the_middle_is_noticed(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match="whole folder"):
        open_job(folder)


def test_the_coordinator_counts_between_as_many_items_as_the_plan_allows_at_its_epsilon() -> None:
    own = plan(statistics=Statistics(active_items=10, active_power=0.5))
    own = replace(own, privacy=replace(own.privacy, mode="local", epsilon=2.0, rounds=0))
    counting = counting_of(own, vocabulary(), budget_of(own))
    assert counting is not None
    assert counting.settings.active_items == 5
