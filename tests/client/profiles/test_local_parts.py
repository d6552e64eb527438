"""What a node learns of its own people reaches every profile, stays at the node, and needs nobody else afterwards."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.client.profiles.test_heads import MOMENT, many
from tests.people import encoder, histories, only
from tests.profiled import USERS, Profiled
from tests.profiles import same

from silhouette_client.live.updater import LiveUpdater
from silhouette_client.profiles.audit_log import LOG_NAME
from silhouette_client.profiles.heads import HEADS
from silhouette_client.profiles.local_parts import LocalParts, learn_parts, pack_parts, unpack_parts
from silhouette_client.profiles.node_model import promoted_model
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.profiles.transitions import OwnTransitions
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving.access import Access, Grant
from silhouette_client.serving.client import ProfileClient
from silhouette_client.serving.grpc_server import serving
from silhouette_client.serving.service import Event, Role, Service
from silhouette_shared.cli import main
from silhouette_shared.errors import IntegrityError

CPU = torch.device("cpu")
BARE = ProfileRecord(model="m", traits={})
EXTRA = tuple(f"extra-{number}" for number in range(50))


def learnt() -> LocalParts:
    return learn_parts("m", encoder(scale=5.0), many(), private=False)


def test_a_record_gets_every_score_and_the_tastes_and_one_person_alone_gets_the_same() -> None:
    parts, model, made = learnt(), encoder(scale=5.0), many()
    whole = parts.completed(model, made, [BARE] * len(made))
    assert parts.until == int(made.timestamps.max()) + 1
    for row in (0, 7):
        (alone,) = parts.completed(model, only(made, [row]), [BARE])
        assert set(alone.traits or {}) == {head.name for head in HEADS}
        together = whole[row].traits or {}
        for name, trait in (alone.traits or {}).items():
            assert trait.value == together[name].value
            assert trait.confidence == pytest.approx(together[name].confidence, abs=1e-4)
        assert same(replace(alone, traits={}), replace(whole[row], traits={}))
    silent = [record.traits["churn"].value == "yes" for record in whole[1::2] if record.traits]
    lively = [record.traits["churn"].value == "yes" for record in whole[0::2] if record.traits]
    assert np.mean(silent) > np.mean(lively) + 0.3  # who fell silent on day 20 of 30


def test_a_later_event_moves_a_persons_scores_to_its_own_time() -> None:
    parts, model, made = learnt(), encoder(scale=5.0), many()
    one = only(made, [1])
    later = replace(one, timestamps=torch.cat([one.timestamps[:-1], torch.tensor([parts.until + 86_400])]))
    (before,), (after,) = (parts.completed(model, own, [BARE]) for own in (one, later))
    assert before.traits is not None
    assert after.traits is not None
    assert after.traits["churn"] != before.traits["churn"]


def test_parts_come_back_from_their_bytes_and_damaged_ones_are_refused() -> None:
    parts, model, made = learnt(), encoder(scale=5.0), many()
    back = unpack_parts(pack_parts(parts), CPU)
    assert (back.model, back.until) == ("m", parts.until)
    for one, other in zip(
        parts.completed(model, made, [BARE] * len(made)),
        back.completed(model, made, [BARE] * len(made)),
        strict=True,
    ):
        assert one.traits == other.traits
        assert np.array_equal(one.tastes, other.tastes)  # type: ignore[arg-type]
    believed = replace(parts, transitions=replace(OwnTransitions.count(many(), 20), scale=0.25, weight=0.5))
    own, again = believed.transitions, unpack_parts(pack_parts(believed), CPU).transitions
    assert own is not None
    assert again is not None
    scores = torch.randn(len(made), 21)
    assert torch.equal(own(scores, made), again(scores, made))
    for damaged in (b"", pack_parts(parts)[:-9], b"\x00" * 64):
        with pytest.raises(IntegrityError, match=r"learnt of its own people, got something else .*learns it anew"):
            unpack_parts(damaged, CPU)


def test_what_the_people_cannot_teach_is_missing() -> None:
    few = learn_parts("m", encoder(), histories(), private=False)
    assert (few.heads.heads, few.heads.risk, few.tastes, few.transitions) == ({}, None, None, None)
    (record,) = few.completed(encoder(), only(histories(), [2]), [BARE])
    assert (record.traits, record.tastes) == ({}, None)
    timeless = learn_parts("m", encoder(), histories([5] * 60, has_times=False), private=False)
    (record,) = timeless.completed(encoder(), histories([5], has_times=False), [BARE])
    assert record.traits == {}
    assert record.tastes is not None
    assert unpack_parts(pack_parts(timeless), CPU).tastes is not None


@pytest.fixture
def node(tmp_path: Path) -> Profiled:
    made = Profiled(tmp_path)
    rows = [
        f"{user},i{1 + (number * 7 + event * 3) % 20},{'view' if event % 2 else 'purchase'},"
        f"{1_700_000_000 + 40_000 * event + number},2.5"
        for number, user in enumerate(EXTRA)
        for event in range(3 + number % 6)
    ]
    made.ingest("events-extra.csv", *rows)
    made.promote(1)
    return made


def build(node: Profiled, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    assert main(["profile", "build", "--home", str(node.home), "--format", "json", *more]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def stored(node: Profiled, user: str) -> ProfileRecord:
    with Vault.open(node.home) as vault:
        found = vault.get(user, "test", "check")
    assert found is not None
    return found


def test_a_build_learns_once_for_a_model_and_every_profile_has_scores_and_tastes(
    node: Profiled, capsys: pytest.CaptureFixture[str]
) -> None:
    everybody = len(USERS) + len(EXTRA)
    assert build(node, capsys)["written"] == everybody
    kept = node.home / "node" / "local.safetensors"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    first = kept.read_bytes()
    model = promoted_model(node.home, CPU)
    assert model.local is not None
    assert model.local.transitions is not None
    assert "transitions" not in {name.split(".")[0] for name in model.encoder.state_dict()}
    record = stored(node, EXTRA[3])
    assert "risk" in (record.traits or {})
    assert record.tastes is not None
    assert len(record.tastes) == everybody // 4
    assert main(["profile", "show", EXTRA[3], "--home", str(node.home), "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["traits"]["risk"]["value"] in ("usual", "unusual")
    assert len(shown["tastes"]) == len(record.tastes)
    node.ingest("events-3.csv", f"{EXTRA[3]},i5,view,1700900000,1.0")
    assert (build(node, capsys)["written"], kept.read_bytes()) == (1, first)
    assert (build(node, capsys, "--all")["written"], kept.read_bytes() == first) == (everybody, False)
    node.promote(2, scale=1.5)
    assert build(node, capsys)["written"] == everybody
    assert unpack_parts(kept.read_bytes(), CPU).model == stored(node, EXTRA[3]).model


def test_a_pushed_event_moves_tastes_and_scores_without_reading_anybody_else(
    node: Profiled, capsys: pytest.CaptureFixture[str]
) -> None:
    build(node, capsys)
    before = stored(node, EXTRA[4])
    with Vault.open(node.home) as vault:
        updater = LiveUpdater.open(node.home, vault, promoted_model(node.home, CPU))
        try:
            event = Event(user=EXTRA[4], item="i20", behaviour="view", timestamp=1_700_800_000)
            assert updater.push([event], "test").profiles == 1
        finally:
            updater.close()
        access = Access({"local": Grant(roles=frozenset({Role.vectors}))})
        with (
            serving(Service(vault), vault, log=node.home / LOG_NAME, access=access, socket=node.home / "s"),
            ProfileClient.on_socket(node.home / "s") as asking,
        ):
            answered = list(asking.profile(EXTRA[4]).tastes)
    after = stored(node, EXTRA[4])
    assert after.tastes is not None
    assert answered == after.tastes.tolist()
    assert set(after.traits or {}) == set(before.traits or {})
    assert "risk" in (after.traits or {})
    assert before.tastes is not None
    assert not np.array_equal(after.tastes, before.tastes)


def test_a_damaged_file_is_refused_and_learnt_anew_without_it(
    node: Profiled, capsys: pytest.CaptureFixture[str]
) -> None:
    build(node, capsys)
    kept = node.home / "node" / "local.safetensors"
    kept.write_bytes(kept.read_bytes()[:-5])
    assert main(["profile", "build", "--home", str(node.home)]) == 5
    assert "remove the file, and the next `silhouette profile build`" in " ".join(capsys.readouterr().err.split())
    kept.unlink()
    assert build(node, capsys)["unchanged"] == len(USERS) + len(EXTRA)  # the same people teach the same
    assert kept.exists()


def test_scores_of_the_moment_are_those_of_the_study() -> None:
    """`LocalParts` scores as `Heads` does at the end of what was recorded."""
    parts, model, made = learnt(), encoder(scale=5.0), many()
    direct = parts.heads.scores(model, made, parts.until)
    moved = parts.heads.scores(model, made, torch.full((len(made),), parts.until))
    assert parts.until <= MOMENT + 86_400
    for name, values in direct.items():
        assert torch.equal(values, moved[name])
