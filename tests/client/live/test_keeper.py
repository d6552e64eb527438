"""A running service follows its node: another promoted model, other profiles and segments, without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.profiled import USERS, Profiled

from silhouette_client.live.keeper import Keeper
from silhouette_client.processes.builds import build_all
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.node_model import HeldModel
from silhouette_client.profiles.record import FIELDS
from silhouette_client.profiles.vault import Vault, rotate
from silhouette_client.segments.segment import Segment
from silhouette_client.serving.service import Event, NotReadyError, Role
from silhouette_shared.errors import IntegrityError, UsageError

NEW = "known-from-live-events-alone"


@pytest.fixture(scope="module", autouse=True)
def enough_people() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("silhouette_client.profiles.tastes.LEAST_PEOPLE", len(USERS))
        yield


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    return Profiled(tmp_path_factory.mktemp("keeper"))


@pytest.fixture(scope="module")
def vault(node: Profiled) -> Iterator[Vault]:
    with Vault.open(node.home, make=KeyFile()) as vault:
        yield vault


@pytest.fixture(scope="module")
def keeper(node: Profiled, vault: Vault) -> Iterator[Keeper]:
    with Keeper(node.home, vault, HeldModel(node.home, torch.device("cpu")), seconds=3600) as keeper:  # by hand
        yield keeper


def event(user: str, item: str, timestamp: int) -> Event:
    return Event(user, item, "purchase", timestamp, 2.5)


def test_it_starts_without_a_model_takes_the_first_one_and_then_another(
    node: Profiled, vault: Vault, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("silhouette_client.processes.builds.os.nice", lambda by: by)  # of the test run itself
    service = keeper.service
    assert not keeper.takes_events
    with pytest.raises(NotReadyError, match="take one with `silhouette node take`, then push again"):
        service.push([event(USERS[0], "i3", 1_750_000_000)], "shop")
    first = node.promote(1)
    keeper.follow()
    assert service.push([event(USERS[0], "i3", 1_750_000_000)], "shop").profiles == 1
    assert service.profile(USERS[0], "shop", {Role.vectors}).model == first
    build_all(node.home)
    assert service.profile(USERS[1], "shop", {Role.vectors}).model == first, "what was built is answered at once"
    second = node.promote(2, scale=1.5)
    keeper.follow()
    assert service.push([event(USERS[0], "i4", 1_750_000_001)], "shop").profiles == 1
    assert service.profile(USERS[0], "shop", {Role.vectors}).model == second
    build_all(node.home)
    assert {service.profile(user, "shop", {Role.vectors}).model for user in USERS} == {second}


def test_a_person_known_from_a_push_alone_has_every_field_of_a_profile(vault: Vault, keeper: Keeper) -> None:
    keeper.follow()  # the build before has learnt what tells tastes
    assert keeper.service.push([event(NEW, f"i{k}", 1_750_000_100 + k) for k in range(1, 6)], "shop").profiles == 1
    record = vault.get(NEW, "test", "show")
    assert record is not None
    assert record.present == FIELDS
    assert record.facts is not None
    assert record.facts["events"] == record.facts["count.purchase"] == 5
    assert record.evidence is not None
    assert len(record.evidence.events) == 5
    assert record.items == ("i5", "i4", "i3", "i2", "i1")


def test_whoever_had_an_event_while_the_model_changed_gets_a_profile_of_the_new_one(
    node: Profiled, vault: Vault, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silhouette_client.live import updater as module

    load, third = module._load, node.promote(3, scale=2.0)

    def slowly(*given: object) -> object:
        read = load(*given)  # type: ignore[arg-type]
        monkeypatch.setattr(module, "_load", load)
        keeper.service.push([event(USERS[2], "i9", 1_750_000_200)], "shop")
        return read

    monkeypatch.setattr(module, "_load", slowly)
    before = vault.get(USERS[2], "test", "show")
    keeper.follow()
    record = vault.get(USERS[2], "test", "show")
    assert record is not None
    assert before is not None
    assert (before.model, record.model) != (third, before.model)
    assert record.model == third
    assert record.items is not None
    assert record.items[0] == "i9"


def test_segments_made_meanwhile_are_answered(vault: Vault, keeper: Keeper) -> None:
    assert keeper.service.similar_segments(USERS[0], "shop") == []
    record = vault.get(USERS[0], "test", "show")
    assert record is not None
    assert record.vector is not None
    people = tuple(sorted(map(vault.pseudonym, USERS)))
    segment = Segment(
        name="like-the-first",
        model=record.model,
        made_by="rule",
        rule="events >= 1",
        members=people,
        centre=np.asarray(record.vector, dtype=np.float32),
        least=5,
        created=0,
    )
    vault.put_segment(segment, "test")
    keeper.follow()
    ((name, cosine),) = keeper.service.similar_segments(USERS[0], "shop")
    assert (name, round(cosine, 5)) == ("like-the-first", 1.0)
    vault.drop_segment("like-the-first", "test")
    keeper.follow()
    assert keeper.service.similar_segments(USERS[0], "shop") == []


def test_a_model_that_cannot_be_used_is_told_and_the_one_before_goes_on(
    node: Profiled, keeper: Keeper, tmp_path: Path
) -> None:
    node.promote(4, scale=3.0)
    model = node.house.home("east").folder / "model" / "4" / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        keeper.follow()
    keeper.follow()  # not at every round again
    assert keeper.service.push([event(USERS[3], "i5", 1_750_000_300)], "shop").profiles == 1
    model.write_bytes(whole)


def test_keys_are_not_rotated_while_somebody_writes_profiles(node: Profiled, vault: Vault) -> None:
    with pytest.raises(UsageError, match="expected nobody to be using the profile keys"):
        rotate(node.home, "test")
