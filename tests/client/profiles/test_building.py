"""Profiles at a node follow its own data and its promoted model, and nothing is built that is there already."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.profiled import USERS, Profiled
from tests.profiles import same

from silhouette_client.profiles import building
from silhouette_client.profiles.build import build_profiles
from silhouette_client.profiles.building import Built, build_held, held_people
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.node_model import promoted_model
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.profiles.vault import Vault
from silhouette_shared.cli import main
from silhouette_shared.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture
def node(tmp_path: Path) -> Profiled:
    return Profiled(tmp_path)


def build(node: Profiled, **settings: Any) -> Built:
    with Vault.open(node.home, make=KeyFile()) as vault:
        model = promoted_model(node.home, CPU)
        return build_held(vault, model, held_people(node.home, vault, model, "profiling"), "test", **settings)


def records(node: Profiled) -> dict[str, ProfileRecord | None]:
    with Vault.open(node.home) as vault:
        return dict(zip(USERS, vault.get_many(USERS, "test", "check"), strict=True))


def test_everybody_has_the_profile_that_the_promoted_model_gives_their_own_events(node: Profiled) -> None:
    name = node.promote(1)
    assert build(node) == Built(written=len(USERS), unchanged=0, removed=0, expired=0)
    model = promoted_model(node.home, CPU)
    with Vault.open(node.home) as vault:
        held = held_people(node.home, vault, model, "profiling")
    (batch,) = build_profiles(model.encoder, held.histories, cutoff=20)
    for row, (user, found) in enumerate(records(node).items()):
        assert held.users[row] == user
        assert found is not None
        assert found.model == name
        assert found.vector == pytest.approx(batch.vectors[row].numpy(), abs=1e-6)
        assert found.recommendations is not None
        seen = set(held.histories.of_people(torch.tensor([row])).items.tolist())
        listed = [model.numbers[one.item] for one in found.recommendations]
        assert len(listed) == 20 - len(seen)  # all that the person has not seen, of the 20 there are
        assert seen.isdisjoint(listed)
        assert listed == [number for number in batch.recommended[row].tolist() if number]
        assert found.facts is not None
        assert found.facts["events"] == int(held.histories.lengths[row])
        assert found.evidence is not None
        assert len(found.evidence.events) == min(10, 8, int(held.histories.lengths[row]))  # the encoder reads 8
        assert [one.tag for one in found.evidence.tags] == list(found.tags or ())
        if len(found.evidence.events) == found.facts["events"]:
            assert sum(event.attention for event in found.evidence.events) == pytest.approx(1, abs=1e-5)


def test_the_same_again_builds_nobody_and_a_new_event_one_person(node: Profiled) -> None:
    node.promote(1)
    build(node)
    before = records(node)
    assert build(node) == Built(written=0, unchanged=len(USERS), removed=0, expired=0)
    node.ingest("events-2.csv", node.event(2, 500, 7))
    assert build(node) == Built(written=1, unchanged=len(USERS) - 1, removed=0, expired=0)
    after = records(node)
    assert not same(after[USERS[2]], before[USERS[2]])
    assert all(same(after[user], before[user]) for user in USERS if user != USERS[2])
    assert build(node, everybody=True).written == len(USERS)


def test_another_model_builds_everybody_and_the_profiles_of_the_one_before_go(node: Profiled) -> None:
    first = node.promote(1)
    build(node)
    second = node.promote(2, scale=1.5)
    assert first != second
    assert build(node) == Built(written=len(USERS), unchanged=0, removed=0, expired=0)
    assert {found.model for found in records(node).values() if found is not None} == {second}
    with Vault.open(node.home) as vault:
        vault.put_many([("stranger", next(iter(filter(None, records(node).values()))))], "test", "build")
        assert vault.verify(node.home / "profile-audit.log")[0].people == len(USERS) + 1
    assert build(node).removed == 1  # whose events are not held here


def test_a_build_that_was_killed_goes_on_where_it_was(node: Profiled, monkeypatch: pytest.MonkeyPatch) -> None:
    node.promote(1)
    monkeypatch.setattr(building, "PEOPLE_AT_ONCE", 2)

    def killed(done: int, of: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(node, progress=killed)
    assert build(node) == Built(written=len(USERS) - 4, unchanged=4, removed=0, expired=0)
    assert None not in records(node).values()


def test_who_withdraws_consent_or_is_excluded_has_no_profile_any_more(node: Profiled) -> None:
    node.promote(1)
    build(node)
    node.ingest("consent-1.csv", f"{USERS[1]},profiling,false,1700000000", header="who,purpose,granted,at")
    with Vault.open(node.home) as vault:
        vault.suppress(USERS[3], "test")
    assert build(node) == Built(written=0, unchanged=len(USERS) - 2, removed=1, expired=0)
    assert [user for user, found in records(node).items() if found is None] == [USERS[1], USERS[3]]
    with Vault.open(node.home) as vault:
        assert vault.export(USERS[3], "test")[0] is not None  # suppressed, not removed


def test_the_store_keeps_its_rows_in_the_order_they_were_built_in(node: Profiled) -> None:
    with Vault.open(node.home, make=KeyFile()) as vault:
        order = [vault.pseudonym(user) for user in vault.in_order(USERS)]
    assert order == sorted(order)
    node.promote(1)
    build(node)
    with sqlite3.connect(node.home / "profiles.sqlite") as connection:
        assert [row[0] for row in connection.execute("SELECT person FROM people")] == order


def test_without_a_promoted_model_or_its_run_the_command_says_what_is_missing(
    node: Profiled, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "build", "--home", str(node.home)]) == 2
    assert "expected a promoted model, found none; `silhouette node take` takes one" in capsys.readouterr().err
    assert not (node.home / "profiles.key").exists()
    node.promote(1)
    (node.home / "node" / "runs" / "run-1").rename(node.home / "elsewhere")
    with pytest.raises(UsageError, match="this node took no part in it"):
        promoted_model(node.home, CPU)


def test_the_command_builds_and_tells_what_it_did(node: Profiled, capsys: pytest.CaptureFixture[str]) -> None:
    name = node.promote(1)
    assert main(["profile", "build", "--home", str(node.home), "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "model": name,
        "written": len(USERS),
        "unchanged": 0,
        "left_out": 0,
        "removed": 0,
        "expired": 0,
    }
    assert not any(user in captured.err for user in USERS)
    assert main(["profile", "show", USERS[0], "--home", str(node.home)]) == 0
    assert name in capsys.readouterr().out
