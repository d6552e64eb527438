"""The records of secure rounds verify without the coordinator, and whatever was changed in them is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import typer.testing
from click.testing import Result
from tests.consortium import Consortium, secure_plan
from tests.shared.secagg.house import HEAD, RUN, House

from silhouette_client.audit.rounds import verify_rounds
from silhouette_client.cli import audit
from silhouette_client.node_folder import Fittings, ledger_on_disk
from silhouette_shared.config import Plan, Statistics, write_toml
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.budget import budget_of
from silhouette_shared.secagg import ForgedError, check_ledgers, verify_chain
from silhouette_shared.secagg.standing import Standing
from silhouette_shared.wire.transcripts import RecordFolder

PLAN: Plan = replace(
    secure_plan(rounds=2, partners=3), statistics=Statistics(popularity_share=0.2, transition_share=0.0)
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the records of one training, popularity and two rounds."""
    folder = tmp_path_factory.mktemp("run")
    house = Consortium(folder / "nodes", PLAN, budget_of(PLAN), partners=3, fittings=Fittings(ledger_on_disk))
    house.run()
    shutil.copytree(house.folder / "secure", folder / "run" / "secure" / "federated_private")
    (folder / "run" / "plan.toml").write_text(write_toml(PLAN))
    return folder / "run"


@pytest.fixture
def records(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run" / "secure" / "federated_private"


def invoke(*arguments: object) -> Result:
    return typer.testing.CliRunner().invoke(audit, [str(argument) for argument in arguments])


def test_whole_records_say_what_was_done_under_which_plan(made: Path, tmp_path: Path) -> None:
    about = json.loads((made / "secure" / "federated_private" / "about.json").read_text())
    (tmp_path / "pins.json").write_text(json.dumps(about["pins"]))
    answer = invoke("rounds", made, "--pins", tmp_path / "pins.json", "--format", "json")
    assert answer.exit_code == 0, answer.output
    (found,) = json.loads(answer.stdout)["trainings"]
    assert found["purposes"] == {"popularity": 1, "training": 2}
    assert (found["rounds"], found["partners"], found["fewest"], found["sums"]) == (3, 3, 3, 1)
    assert found["private"] is True
    text = invoke("rounds", made)
    assert "3 rounds, at least 3 of 3 partners in a sum, 1 sums kept, with the plan's noise" in text.stdout
    assert "add --pins FILE" in text.stderr


@pytest.mark.parametrize("name", ["about.json", "000001.transcript", "000003.transcript", "000001.sum"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_byte_that_was_changed_is_found_in_its_file(records: Path, name: str, share: float) -> None:
    path = records / name
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises((IntegrityError, UsageError)):
        verify_rounds(records, None, PLAN)
    assert invoke("rounds", records.parents[1]).exception is not None


def test_a_round_that_is_missing_or_exchanged_is_found(records: Path) -> None:
    first, second = records / "000001.transcript", records / "000002.transcript"
    kept = first.read_bytes()
    second.write_bytes(kept)
    with pytest.raises(IntegrityError, match=r"000002\.transcript: expected the record of a secure round of this run"):
        verify_rounds(records, None, PLAN)
    first.unlink()
    with pytest.raises(IntegrityError, match=r"000001\.transcript: expected the transcript of a secure round, found"):
        verify_rounds(records, None, PLAN)


def test_rounds_under_other_keys_or_another_plan_are_refused(records: Path) -> None:
    house = House(3)
    with pytest.raises(IntegrityError, match="expected rounds under the trusted keys, got others"):
        verify_rounds(records, house.pins, PLAN)
    noisier = replace(PLAN, privacy=replace(PLAN.privacy, epsilon=9.0))
    with pytest.raises(IntegrityError, match=r"expected round 1 \(popularity\) under the privacy terms of plan"):
        verify_rounds(records, None, noisier)
    assert verify_rounds(records, None, None).private is None


def test_a_folder_without_records_is_a_usage_error(tmp_path: Path) -> None:
    for error in (invoke("rounds", tmp_path).exception, invoke("rounds", tmp_path, "--pins", tmp_path / "x").exception):
        assert isinstance(error, UsageError)
    with pytest.raises(UsageError, match=r"expected records of secure rounds with an about\.json, found none"):
        RecordFolder(tmp_path).verify()


def test_a_ledger_that_went_back_between_rounds_is_named_in_the_records() -> None:
    house = House(3)
    house.round(1)
    house.round(2)
    chain = verify_chain(house.transcripts, house.pins, run=RUN)
    check_ledgers(chain)
    for entries, mark in ((HEAD.entries - 1, 7), (HEAD.entries, 8)):
        older = Standing(entries, bytes([mark]) * 32).encode()
        first, *others = chain[1].transcript.adverts
        changed = replace(chain[1].transcript, adverts=(replace(first, ledger=older), *others))
        with pytest.raises(ForgedError, match="expected its ledger to hold the entry 3") as caught:
            check_ledgers((chain[0], replace(chain[1], transcript=changed)))
        assert caught.value.partner == "partner-00"
