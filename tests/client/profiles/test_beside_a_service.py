"""A whole build at a node, beside promotions, a service, erasures and another build."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.children import in_a_child
from tests.profiled import USERS, Profiled

from silhouette_client.live.updater import LiveUpdater
from silhouette_client.profiles.building import build_node, held_people, sources_of
from silhouette_client.profiles.choices import Choices
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.local_parts import learn_parts
from silhouette_client.profiles.node_model import HeldModel, promoted_model
from silhouette_client.profiles.one_build import one_build
from silhouette_client.profiles.transitions import learn_transitions
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving.service import Event
from silhouette_shared.cli import main
from silhouette_shared.errors import UnavailableError
from silhouette_shared.model.histories import Histories

CPU = torch.device("cpu")
BUILDING, LOCAL_PARTS = "silhouette_client.profiles.building", "silhouette_client.profiles.local_parts"
PARTS = Path("node") / "local.safetensors"


@pytest.fixture(autouse=True)
def few_people_teach_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silhouette_client.profiles.tastes.LEAST_PEOPLE", 5)
    monkeypatch.setattr("silhouette_client.profiles.transitions.LEAST_PEOPLE", 5)


@pytest.fixture
def node(tmp_path: Path) -> Profiled:
    made = Profiled(tmp_path)
    made.promote(1)
    return made


@pytest.fixture
def vault(node: Profiled) -> Iterator[Vault]:
    with Vault.open(node.home, make=KeyFile()) as vault:
        yield vault


def build(node: Profiled, vault: Vault, **settings: Any) -> tuple[str, int]:
    """Name of the model that was built with in the end, and people written."""
    model, done = build_node(node.home, vault, HeldModel(node.home, CPU), Choices(count=20), "test", **settings)
    return model.name, done.written


def of_one_model(node: Profiled, vault: Vault) -> bool:
    """Whether everybody's profile is of the promoted model, with what was learnt on it, and of all their events."""
    model = promoted_model(node.home, CPU)
    held = held_people(node.home, vault, model, "profiling")
    sources = dict(zip(held.users, sources_of(held.histories), strict=True))
    return bool(model.parts) and vault.current(model.name, sources, model.parts) == set(held.users)


def event(user: str, number: int = 0) -> Event:
    return Event(user, "i7", "view", 1_750_000_000 + number)


def learning(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[int], object]) -> list[Histories]:
    """Has something done after each time it was learnt; gives from whom, each time."""
    seen: list[Histories] = []

    def learnt(name: str, encoder: Any, histories: Histories, *, private: bool) -> Any:
        parts = learn_parts(name, encoder, histories, private=private)
        seen.append(histories)
        meanwhile(len(seen))
        return parts

    monkeypatch.setattr(f"{BUILDING}.learn_parts", learnt)
    return seen


def test_a_promotion_during_a_build_leaves_everybody_with_the_new_model(node: Profiled, vault: Vault) -> None:
    names: list[str] = []

    def promote(done: int, of: int) -> None:
        if not names:
            names.append(node.promote(2, scale=1.5))
            updater = LiveUpdater.open(node.home, vault, promoted_model(node.home, CPU))
            updater.push([event(USERS[1])], "shop")
            updater.close()

    name, written = build(node, vault, progress=promote)
    assert (name, written) == (names[0], 2 * len(USERS))
    assert of_one_model(node, vault)
    records = vault.get_many(USERS, "test", "show")
    assert [None if one is None else one.model for one in records] == [name] * len(USERS)


def test_who_was_pushed_for_while_a_build_learnt_has_what_was_learnt(
    node: Profiled, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    updater = LiveUpdater.open(node.home, vault, promoted_model(node.home, CPU))  # with nothing learnt
    learning(monkeypatch, lambda _: updater.push([event(USERS[1])], "shop"))
    _, written = build(node, vault)
    updater.close()
    assert written == len(USERS)
    assert of_one_model(node, vault)
    record = vault.get(USERS[1], "test", "show")
    assert record is not None
    assert record.tastes is not None


def test_who_is_erased_while_a_build_learns_is_not_in_what_is_kept(
    node: Profiled, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []

    def erase(time: int) -> None:
        kept.append((node.home / PARTS).exists())
        if time == 1:
            vault.erase(USERS[1], "test")

    seen = learning(monkeypatch, erase)
    build(node, vault)
    assert kept == [False, False], "what was learnt from an erased person was never on the disk"
    assert [len(histories) for histories in seen] == [len(USERS), len(USERS) - 1]
    assert of_one_model(node, vault)


def test_learnt_again_while_somebody_is_erased_it_is_learnt_once_more(
    node: Profiled, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(node, vault)
    before = (node.home / PARTS).read_bytes()
    seen = learning(monkeypatch, lambda time: vault.erase(USERS[2], "test") if time == 1 else None)
    _, written = build(node, vault, everybody=True)
    assert [len(histories) for histories in seen] == [len(USERS), len(USERS) - 1]
    assert written == len(USERS) - 1
    assert (node.home / PARTS).read_bytes() != before


def test_profiles_that_others_write_otherwise_each_time_are_told(node: Profiled, vault: Vault) -> None:
    first = promoted_model(node.home, CPU)
    node.promote(2, scale=1.5)
    updater = LiveUpdater.open(node.home, vault, first)  # one that does not follow
    pushes: list[int] = []

    def push(done: int, of: int) -> None:
        pushes.append(done)
        updater.push([event(USERS[1], len(pushes))], "shop")

    with pytest.raises(UnavailableError, match="some that others wrote otherwise in each of 10 passes"):
        build(node, vault, progress=push)
    updater.close()
    build(node, vault)
    assert of_one_model(node, vault)


def test_a_second_build_waits_for_the_first_and_reads_what_to_go_by_after_it(
    node: Profiled, capsys: pytest.CaptureFixture[str]
) -> None:
    waits, done = threading.Event(), threading.Event()

    def second() -> None:
        with one_build(node.home, waits.set):
            done.set()

    with one_build(node.home):
        beside = threading.Thread(target=second)
        beside.start()
        assert waits.wait(30)
        assert not done.is_set()
    beside.join(30)
    assert done.is_set()
    child = os.fork()
    if child == 0:  # a killed build keeps nobody waiting
        with one_build(node.home):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert main(["profile", "build", "--home", str(node.home)]) == 0
    assert "another build" not in capsys.readouterr().err


def killed(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_when_it_is_moved(draft: Path, target: Path, _move: Callable[[Path, Path], Path] = Path.replace) -> Path:
    if target.name == PARTS.name:  # other files are written before
        killed()
    return _move(draft, target)


@pytest.mark.parametrize(
    ("place", "death"),
    [
        (f"{LOCAL_PARTS}.learn_transitions", killed),
        (f"{BUILDING}.pack_parts", killed),
        ("pathlib.Path.replace", killed_when_it_is_moved),
        (f"{BUILDING}._write_held", killed),
    ],
    ids=["learning", "packing", "keeping", "kept"],
)
def test_a_kill_while_own_transitions_are_learnt_leaves_nothing_half_and_the_next_build_the_same(
    node: Profiled, place: str, death: Callable[..., object]
) -> None:
    def build_killed() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, death)
            return main(["profile", "build", "--home", str(node.home)])

    assert in_a_child(build_killed) == -signal.SIGKILL
    left = (node.home / PARTS).read_bytes() if (node.home / PARTS).exists() else None
    assert (left is not None) == place.endswith("_write_held")
    assert main(["profile", "build", "--home", str(node.home)]) == 0
    with Vault.open(node.home) as vault:
        assert of_one_model(node, vault)
        vault.verify(node.home / "profile-audit.log")
    model = promoted_model(node.home, CPU)
    assert model.local is not None
    assert model.local.transitions is not None
    assert left in (None, (node.home / PARTS).read_bytes()), "what was whole is used and not learnt again"
    assert [path.name for path in (node.home / "node").iterdir() if "local" in path.name] == [PARTS.name]


def test_a_full_disk_while_own_transitions_are_kept_is_told_and_leaves_what_was_learnt_before(
    node: Profiled, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "build", "--home", str(node.home)]) == 0
    before = (node.home / PARTS).read_bytes()
    node.ingest("events-2.csv", *(node.event(2, 500 + hour, 7 + hour % 3) for hour in range(20)))

    def then_full(*given: Any, **more: Any) -> Any:
        found = learn_transitions(*given, **more)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        return found

    def build_full() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{LOCAL_PARTS}.learn_transitions", then_full)
            return main(["profile", "build", "--all", "--home", str(node.home)])

    capfd.readouterr()
    assert in_a_child(build_full) == 4
    assert "local.safetensors" in capfd.readouterr().err
    assert (node.home / PARTS).read_bytes() == before
    assert main(["profile", "build", "--all", "--home", str(node.home)]) == 0
    assert (node.home / PARTS).read_bytes() != before
    with Vault.open(node.home) as vault:
        assert of_one_model(node, vault)
