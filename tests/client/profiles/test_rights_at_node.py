"""A person at a node can see everything, be forgotten everywhere, and stays forgotten until it is lifted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.enrolled import GENEROUS, public_catalogue
from tests.ledgers import charge
from tests.people import agent, encoder, plan
from tests.profiled import MAPPING, USERS, Profiled

from silhouette_client.ingest.reading import people
from silhouette_client.offers.people import TablesOnDisk
from silhouette_client.policy.ledger_store import LEDGER_NAME, Ledger
from silhouette_client.policy.witness import FileWitness
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.rights import check
from silhouette_client.profiles.vault import Vault, excluded
from silhouette_shared.cli import main
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.wire.messages import TrainRequest

ANNA = USERS[3]  # twelve events

Call = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profiled:
    made = Profiled(tmp_path)
    monkeypatch.setenv("SILHOUETTE_HOME", str(made.home))
    made.promote(1)
    return made


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, Any, str]:
        words = [str(one) for one in arguments]
        code = main(words if "export" in words else [*words, "--format", "json"])  # which is JSON anyway
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return run


def files_with(folder: Path, marker: bytes) -> list[str]:
    return [
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and marker in path.read_bytes()
    ]


def held(home: Path) -> Histories:
    words = public_catalogue()
    return people(home, words.catalogue.index, words.attributes, exclusions=excluded(home))


def test_an_erased_person_is_in_no_table_no_profile_no_segment_and_the_receipt_says_so(
    node: Profiled, call: Call
) -> None:
    limits = GENEROUS.limits
    folder = node.home / "node"
    with Ledger.open(
        folder / LEDGER_NAME, node="east", limits=limits, witness=FileWitness(folder / "witness")
    ) as ledger:
        ledger.charge(charge(1, delta=limits.delta))
    assert call("profile", "build")[0] == 0
    assert call("segment", "create", "all", "--rule", "events >= 1", "--least", 5)[0] == 0
    export = call("subject", "export", ANNA)[1]
    assert export["segments"] == ["all"]
    assert len(export["records"]["events"]) == 12
    assert export["records"]["users"][0]["gender"] == "m"
    assert export["profile"]["facts"]["events"] == 12
    code, receipt, _ = call("subject", "erase", ANNA, "--yes")
    assert code == 0
    assert receipt["removed"]["rows"] == {"events": 12, "users": 1}
    assert receipt["removed"]["segments"] == 1
    assert receipt["removed"]["data_key"]
    assert "vector" in receipt["removed"]["fields"]
    (run,) = receipt["took_part_in"]  # the ledger is the enrolled node's own
    assert (run["run"], run["releases"]) == ("run-1", 1)
    assert f"e^{run['epsilon']:.2f}" in receipt["meaning"]
    assert check(receipt) == node.house.home("east").identity().public.hex()
    for verb in (("profile", "show"), ("profile", "explain"), ("recommend",)):
        assert call(*verb, ANNA)[0] == 3
    after = call("subject", "export", ANNA)[1]
    assert (after["profile"], after["segments"], after["records"], after["excluded"]) == (None, [], {}, "erased")
    assert ANNA not in call("segment", "show", "all", "--users")[1]["users"]
    assert len(held(node.home)) == len(USERS) - 1
    assert call("subject", "erase", ANNA, "--yes")[1] == receipt  # again changes nothing


def test_an_erasure_that_was_killed_is_ended_by_the_next_and_the_receipt_has_both(
    node: Profiled, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silhouette_client.ingest import removal

    assert call("profile", "build")[0] == 0
    whole = removal.remove_people

    def killed(*_: object) -> dict[str, int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(removal, "remove_people", killed)
    assert call("subject", "erase", ANNA, "--yes")[0] != 0
    monkeypatch.setattr(removal, "remove_people", whole)
    assert call("subject", "receipt", ANNA)[1]["removed"]["rows"] == {}
    receipt = call("subject", "erase", ANNA, "--yes")[1]
    assert receipt["removed"]["rows"] == {"events": 12, "users": 1}
    assert receipt["removed"]["data_key"]
    assert check(receipt) == node.house.home("east").identity().public.hex()


def test_an_erased_persons_rows_do_not_come_back_until_it_is_lifted(node: Profiled, call: Call) -> None:
    assert call("profile", "build")[0] == 0
    assert call("subject", "erase", ANNA, "--yes")[0] == 0
    before = len(held(node.home))

    def take(name: str, hour: int) -> int:
        (node.files / name).write_text(f"who,what,how,at,price\n{node.event(3, hour, 5)}\n")
        (node.files / "mapping.toml").write_text(MAPPING)
        code, found, _ = call("node", "ingest", "--mapping", node.files / "mapping.toml", node.files / name)
        assert code == 0
        return int(found["files"][0]["kept"])

    assert take("events-8.csv", 900) == 0
    assert len(held(node.home)) == before
    assert call("subject", "unsuppress", ANNA)[0] == 0
    assert take("events-9.csv", 901) == 1
    assert len(held(node.home)) == before + 1


def test_what_is_trained_without_noise_after_an_erasure_is_as_if_the_person_had_never_been_there(
    node: Profiled, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    never = Profiled(tmp_path / "other" / "house", without={3})
    assert call("profile", "build")[0] == 0
    with_anna = trained(held(node.home))
    assert call("subject", "erase", ANNA, "--yes")[0] == 0
    erased, absent = held(node.home), held(never.home)
    for name in ("items", "behaviours", "values", "timestamps", "offsets", "attributes"):
        assert torch.equal(getattr(erased, name), getattr(absent, name)), name
    assert np.array_equal(trained(erased), trained(absent))
    assert not np.array_equal(trained(erased), with_anna)


def trained(histories: Histories) -> np.ndarray[Any, Any]:
    """A round without noise, its update."""
    start = read_vector(encoder(), Layout.of(encoder())).numpy()
    request = TrainRequest(run="r", round=1, plan_digest=plan().digest, parameters=start)
    return np.asarray(agent(histories).train(request).update)


def test_an_agent_that_holds_tensors_reads_them_again_once_somebody_is_erased(node: Profiled, call: Call) -> None:
    from silhouette_client.offers import Node

    with Vault.open(node.home, make=KeyFile()):
        pass
    opened = Node.open(node.home)
    try:
        before = opened._of("run-1").agent
        opened._forget_changed_people()
        assert opened._of("run-1").agent is before
        assert len(before._histories) == len(USERS)
        assert call("subject", "erase", ANNA, "--yes")[0] == 0
        opened._forget_changed_people()
        after = opened._of("run-1").agent
        assert after is not before
        assert len(after._histories) == len(USERS) - 1
        assert call("subject", "suppress", USERS[1])[0] == 0
        opened._forget_changed_people()
        assert len(opened._of("run-1").agent._histories) == len(USERS) - 2
    finally:
        opened.close()


def test_tables_that_were_put_there_by_hand_are_read_without_who_is_excluded(tmp_path: Path) -> None:
    import pandas as pd

    folder = tmp_path / "node" / "people"
    folder.mkdir(parents=True)
    pd.DataFrame(
        {"user": ["a", "b"], "item": ["i1", "i2"], "behaviour": "view", "timestamp": [1, 2], "value": [1.0, 1.0]}
    ).to_parquet(folder / "events.parquet")
    pd.DataFrame({"user": ["a", "b"]}).to_parquet(folder / "users.parquet")
    tables = TablesOnDisk(folder, tmp_path)
    assert len(tables.histories({"i1": 1, "i2": 2}, {})) == 2
    with Vault.open(tmp_path, make=KeyFile()) as vault:
        vault.suppress("a", "test")
    assert tables.histories({"i1": 1, "i2": 2}, {}).items.tolist() == [2]


def test_nothing_planted_is_readable_in_any_file_of_the_home_and_after_an_erasure_it_is_nowhere(
    node: Profiled, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    assert call("profile", "build")[0] == 0
    assert call("segment", "create", "everybody-here", "--rule", "events >= 1", "--least", 5)[0] == 0
    with Vault.open(node.home) as vault:
        record = vault.get(ANNA, "test", "check")
        assert record is not None
        assert record.vector is not None
        keys = [*vault._keyring.wrapping.values()]
        data_key = (
            vault._store._connection()
            .execute("SELECT wrapped FROM people WHERE person = ?", (vault.pseudonym(ANNA),))
            .fetchone()[0]
        )
    markers = [ANNA.encode(), b"everybody-here", record.vector.tobytes(), b"events >= 1", *keys]
    assert len(files_with(node.files, ANNA.encode())) >= 2  # the search finds what is there in clear
    key_files = {"profiles.key", "node/people/key"}
    for marker in markers:
        assert set(files_with(node.home, marker)) <= key_files, marker
    assert not any(marker.hex() in caplog.text or str(marker) in caplog.text for marker in markers)
    assert ANNA not in caplog.text
    assert data_key in (node.home / "profiles.sqlite").read_bytes()
    assert call("subject", "erase", ANNA, "--yes")[0] == 0
    for marker in (ANNA.encode(), record.vector.tobytes(), data_key):
        assert files_with(node.home, marker) == [], marker
    assert ANNA not in json.dumps(call("segment", "show", "everybody-here", "--users")[1])
