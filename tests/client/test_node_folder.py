"""A node's folder is data: it comes back as it was, and damage is told from absence."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from tests.client.test_agent import MODEL
from tests.people import MECHANISM, agent, histories, only, plan, training_budget, vocabulary

from silhouette_client.agent import Agent
from silhouette_client.node_folder import (
    FOLDER_VARIABLE,
    AgentCache,
    Fittings,
    ledger_on_disk,
    open_agent,
    open_agent_of,
    write_node_folder,
)
from silhouette_shared.errors import IntegrityError, RefusedError, UsageError
from silhouette_shared.model.histories import Histories
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.wire import DescribeRequest, TrainRequest
from silhouette_simulations.nodes import simulated

CPU = torch.device("cpu")
SIMULATED = simulated("bookkeeping")
PEOPLE = {"partner-1": histories(), "partner-0": only(histories(has_times=False), [1, 3, 4])}


def context(index: int) -> Context:
    return Context(run_id=1, node_id=7, node_config={"partition-id": index}, state=RecordDict(), run_config={})


def write(folder: Path, mechanism: SampledGaussian | None = None) -> Path:
    write_node_folder(
        folder,
        plan=plan(),
        vocabulary=vocabulary(),
        partners=PEOPLE,
        declared_people=dict.fromkeys(PEOPLE, 10),
        budget=training_budget(mechanism),
        seed_path=("training",),
    )
    return folder


def name_of(opened: Agent) -> str:
    return opened.describe(DescribeRequest(run="r", plan_digest="p")).partner


def test_people_come_back_as_they_were_in_the_order_of_the_partners_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "nodes")
    for index, name in enumerate(sorted(PEOPLE)):
        opened = open_agent(folder, index, CPU, SIMULATED)
        assert name_of(opened) == name
        for field in fields(Histories):
            one, other = getattr(opened._histories, field.name), getattr(PEOPLE[name], field.name)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("mechanism", [None, MECHANISM], ids=["plain", "private"])
def test_an_opened_agent_answers_as_one_that_was_never_written(
    mechanism: SampledGaussian | None, tmp_path: Path
) -> None:
    opened = open_agent(write(tmp_path, mechanism), 1, CPU, SIMULATED)
    built = agent(PEOPLE["partner-1"], partner="partner-1", mechanism=mechanism)
    request = TrainRequest(run="r", round=1, plan_digest=plan().digest, parameters=MODEL)
    assert np.array_equal(opened.train(request).update, built.train(request).update)


def test_a_partner_remembers_on_disk_what_it_charged_and_never_repeats_its_noise(tmp_path: Path) -> None:
    request = TrainRequest(run="r", round=1, plan_digest=plan().digest, parameters=MODEL)
    real = Fittings(ledger_on_disk)
    answers = []
    for name in ("one", "two"):
        folder = write(tmp_path / name, MECHANISM)
        answers.append(open_agent(folder, 1, CPU, real).train(request).update)
        again = open_agent(folder, 1, CPU, real)
        with pytest.raises(RefusedError, match="round 1"):
            again.train(request)
    assert not np.array_equal(answers[0], answers[1])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_holds_tensors_json_and_toml_only(tmp_path: Path) -> None:
    assert files(write(tmp_path)) == [
        "catalogue.safetensors",
        "partner-0/histories.safetensors",
        "partner-1/histories.safetensors",
        "plan.toml",
        "terms.json",
    ]


NAMES = ["catalogue.safetensors", "partner-0/histories.safetensors", "plan.toml", "terms.json"]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_a_question_of_use(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UsageError, match="expected"):
        open_agent(folder, 0, CPU, SIMULATED)


def test_a_folder_that_is_not_there_is_a_question_of_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected"):
        open_agent(tmp_path / "nowhere", 0, CPU, SIMULATED)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "plan.toml"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_file_is_a_failed_check(name: str, damage: str, tmp_path: Path) -> None:
    path = write(tmp_path) / name
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": os.urandom(len(whole))}[damage])
    with pytest.raises(IntegrityError, match=r"expected (a )?whole"):
        open_agent(tmp_path, 0, CPU, SIMULATED)


def test_terms_without_an_entry_or_of_another_kind_are_a_failed_check(tmp_path: Path) -> None:
    path = write(tmp_path) / "terms.json"
    terms = json.loads(path.read_text())
    for key in terms:
        path.write_text(json.dumps({name: value for name, value in terms.items() if name != key}))
        with pytest.raises(IntegrityError, match="expected a whole"):
            open_agent(tmp_path, 0, CPU, SIMULATED)
    path.write_text(json.dumps(terms | {"declared_people": 3}))
    with pytest.raises(IntegrityError, match="expected a whole"):
        open_agent(tmp_path, 0, CPU, SIMULATED)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.path, "caught"))


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_in_the_place_of_a_file_is_never_loaded(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "nodes") / name
    for save in (lambda trap: path.write_bytes(pickle.dumps(trap)), lambda trap: torch.save(trap, path)):
        save(Trap(tmp_path / "caught"))
        with pytest.raises((IntegrityError, UsageError)):
            open_agent(tmp_path / "nodes", 0, CPU, SIMULATED)
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize("index", [-1, 2])
def test_there_is_no_partner_beyond_the_list(index: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"expected a partner from 0 to 1, got {index}"):
        open_agent(write(tmp_path), index, CPU, SIMULATED)


def test_an_agent_is_opened_once_and_kept_warm(tmp_path: Path) -> None:
    cache = AgentCache(write(tmp_path), CPU, SIMULATED)
    assert cache.of(context(0)) is cache.of(context(0))
    assert [name_of(cache.of(context(index))) for index in (0, 1)] == ["partner-0", "partner-1"]


def test_the_folder_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(UsageError, match=f"expected {FOLDER_VARIABLE} to name a node folder, got nothing"):
        open_agent_of(context(0))
    monkeypatch.setenv(FOLDER_VARIABLE, str(write(tmp_path)))
    assert name_of(open_agent_of(context(1))) == "partner-1"
    assert open_agent_of(context(1)) is open_agent_of(context(1))
