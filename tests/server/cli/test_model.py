"""`silhouette model` as somebody types it, and `run` after a change of the signing key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.server.registry.house import OPEN, PRIVATE, measured
from tests.server.registry.offices import enrolled, run_rounds

from silhouette_server.enrolment.office import Office
from silhouette_server.registry.home import open_registry
from silhouette_shared.cli import main


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o700)
    with open_registry(enrolled(home), write=True) as registry:
        run_rounds(registry, OPEN, 2, evaluation=measured(0.10, 0.08))
        run_rounds(registry, OPEN, 1, evaluation=measured(0.09, 0.08))
        run_rounds(registry, PRIVATE, 1)
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "home"
    shutil.copytree(prepared, copy)
    return copy


class Terminal:
    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a command printed, on standard output or, if it failed, on standard error."""
        found = main([*words, "--home", str(self.home)])
        captured = self._capsys.readouterr()
        assert found == code, captured.err
        return " ".join((captured.out if code == 0 else captured.err).split())


@pytest.fixture
def terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(home, capsys)


def test_models_are_listed_with_what_they_cost_and_their_alias(terminal: Terminal) -> None:
    terminal("model", "promote", "open-1:2")
    found = json.loads(terminal("model", "list", "--format", "json"))["models"]
    assert [(one["model"], one["alias"]) for one in found] == [
        ("open-1:1", None),
        ("open-1:2", "promoted"),
        ("open-2:1", None),
        ("private-1:1", None),
    ]
    assert [one["epsilon"] is None for one in found] == [True, True, True, False]
    assert "without privacy promoted" in terminal("model", "list", "--run", "open-1")


def test_a_card_is_shown_for_people_and_for_programs(terminal: Terminal) -> None:
    text = terminal("model", "card", "private-1")
    assert "private-1:1, edition 1 of the card" in text
    assert "which promises at most 8); mode local" in text
    card = json.loads(terminal("model", "card", "open-1:2", "--format", "json"))
    assert card["evaluation"]["quality"]["worst"] == {"value": 0.08, "noise_std": 0.0}
    assert "privacy none: the model may hold traces of single people" in terminal("model", "card", "open-1:2")


def test_a_worse_model_is_refused_and_rollback_is_one_command(terminal: Terminal) -> None:
    terminal("model", "promote", "open-1:2")
    refused = terminal("model", "promote", "open-2", code=3)
    assert "expected a model no worse than open-1:2 by more than 0.005, got ndcg@10 -0.0100 (overall" in refused
    assert "expected a model that is previous, got none" in terminal("model", "rollback", code=2)
    assert "got none; run one" in terminal("model", "promote", "open-1:1", code=2)


def test_promotion_and_rollback_say_the_number_that_nodes_compare(terminal: Terminal) -> None:
    with open_registry(Office.of(terminal.home), write=True) as registry:
        registry.amend("open-1:1", evaluation=measured(0.1, 0.08))
    terminal("model", "promote", "open-1:1")
    assert "promoted: open-1:2 (number 2); ndcg@10 against open-1:1" in terminal("model", "promote", "open-1:2")
    assert "promoted: open-1:1 (number 3)" in terminal("model", "rollback")
    assert json.loads(terminal("model", "list", "--format", "json"))["models"][0]["alias"] == "promoted"


def test_an_audit_that_is_required_or_half_given_is_asked_for(terminal: Terminal) -> None:
    assert "expected an audit that was passed" in terminal("model", "promote", "open-1", "--require-audit", code=3)
    audit = terminal.home / "audit.json"
    assert "give both" in terminal("model", "promote", "open-1", "--audit", str(audit), code=2)
    audit.write_text("{}")
    refused = terminal("model", "promote", "open-1", "--audit", str(audit), "--auditor", "ab" * 32, code=5)
    assert "expected a signed audit result" in refused


def test_an_exported_model_is_verified_in_a_home_without_a_coordinator(terminal: Terminal, tmp_path: Path) -> None:
    terminal("model", "promote", "open-1:2")
    folder, nowhere = tmp_path / "exported", tmp_path / "nowhere"
    terminal("model", "export", "promoted", str(folder))
    key = (folder / "coordinator.pub").read_text().strip()
    assert key == Office.of(terminal.home).identity().public.hex()
    assert sorted(path.name for path in folder.iterdir()) == [
        "alias.json",
        "card.json",
        "coordinator.pub",
        "model.safetensors",
    ]
    terminal.home = nowhere
    found = terminal("model", "verify", str(folder), "--key", key)
    assert found == "open-1:2: signature, bytes and epsilon fit, promoted as number 1"
    assert not nowhere.exists()
    told = terminal("model", "verify", str(folder), "--key", "ab" * 32, code=5)
    assert "expected the signature of the key that is known here" in told
    assert "expected the coordinator's public key" in terminal("model", "verify", str(folder), "--key", "abc", code=2)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + b"\x01")
    assert "expected a model with the SHA-256" in terminal("model", "verify", str(folder), "--key", key, code=5)
    (folder / "card.json").unlink()
    assert "expected a file of an exported model" in terminal("model", "verify", str(folder), "--key", key, code=2)


def test_a_model_that_is_not_promoted_is_exported_without_an_alias(terminal: Terminal, tmp_path: Path) -> None:
    terminal("model", "promote", "open-1:2")
    terminal("model", "export", "private-1", str(tmp_path / "exported"))
    assert not (tmp_path / "exported" / "alias.json").exists()
    assert terminal("model", "verify", str(tmp_path / "exported")) == "private-1:1: signature, bytes and epsilon fit"
    assert "expected no such folder yet" in terminal("model", "export", "private-1", str(tmp_path / "exported"), code=2)


def test_the_whole_registry_is_verified_and_each_fault_named(terminal: Terminal) -> None:
    assert terminal("model", "verify") == "the registry and its 4 models are as they were signed"
    assert terminal("model", "verify", "private-1") == "private-1:1: signature, bytes and epsilon fit"
    model = terminal.home / "coordinator" / "models" / "open-1" / "000001.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    assert "got 1 faults" in terminal("model", "verify", code=5)
    assert "expected a model with the SHA-256" in terminal("model", "verify", "open-1:1", code=5)


def test_after_a_change_of_the_signing_key_everything_before_still_verifies(terminal: Terminal) -> None:
    office = Office.of(terminal.home)
    terminal("model", "promote", "open-1:2")
    office.rotate_signing()
    assert "4 models are as they were signed" in terminal("model", "verify")
    with open_registry(office, write=True) as registry:
        run_rounds(registry, OPEN, 1)
    assert "5 models are as they were signed" in terminal("model", "verify")
    assert "open-3" in terminal("run", "list")
