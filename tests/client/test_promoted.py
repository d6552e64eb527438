"""A node takes the promoted model from the coordinator's hands, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.enrolled import House
from tests.server.registry.house import OPEN, measured
from tests.server.registry.offices import run_rounds

from silhouette_client.promoted import held_model, signing_keys, take_promoted
from silhouette_server.exports import write_export
from silhouette_server.registry.home import open_registry
from silhouette_shared.cards import Card, OlderAliasError, check_privacy
from silhouette_shared.cli import main
from silhouette_shared.enrolment.refusals import ForgedDocumentError
from silhouette_shared.errors import IntegrityError, UsageError

Export = Callable[[str, str], Path]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def export(house: House) -> Export:
    """Promotes a model, or rolls back, and exports what is promoted then."""
    with open_registry(house.office, write=True) as registry:
        for _ in range(2):
            run_rounds(registry, OPEN, 1, evaluation=measured(0.1, 0.1))

    def promote(model: str, name: str) -> Path:
        with open_registry(house.office, write=True) as registry:
            if model == "back":
                registry.rollback()
            else:
                registry.promote(model)
            folder = house.folder / name
            write_export(folder, registry.model("promoted"), registry.alias(), house.office.identity().public)
        return folder

    return promote


def test_a_node_takes_each_promoted_model_and_no_older_one_again(house: House, export: Export) -> None:
    home = house.home("north")
    assert held_model(home) is None
    first, second = export("open-1", "first"), export("open-2", "second")
    assert take_promoted(home, first).card.run == "open-1"
    assert take_promoted(home, second).card.run == "open-2"
    with pytest.raises(OlderAliasError, match="number 2 or a later one, got 1"):
        take_promoted(home, first)
    held = held_model(home)
    assert held is not None
    assert (held.card.run, held.alias.number) == ("open-2", 2)
    back = take_promoted(home, export("back", "third"))
    assert (back.card.run, back.alias.number, back.alias.reason) == ("open-1", 3, "rollback")
    assert sorted(path.name for path in (home.folder / "model").iterdir()) == ["3", "alias.json"]


def test_what_is_not_signed_by_the_pinned_coordinator_is_refused_and_what_is_held_stays(
    house: House, export: Export, tmp_path: Path
) -> None:
    home, folder = house.home("north"), export("open-1", "first")
    take_promoted(home, folder)
    stranger = House(tmp_path / "stranger", names=("north", "south", "west"))
    with pytest.raises(ForgedDocumentError):
        take_promoted(stranger.home("north"), folder)
    second = export("open-2", "second")
    for name in ("model.safetensors", "card.json", "alias.json"):
        content = (second / name).read_bytes()
        (second / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(IntegrityError):
            take_promoted(home, second)
        (second / name).write_bytes(content)
    held = held_model(home)
    assert held is not None
    assert held.card.run == "open-1"


def test_a_model_that_is_not_promoted_is_not_taken(house: House, export: Export) -> None:
    folder = export("open-1", "first")
    (folder / "alias.json").unlink()
    with pytest.raises(UsageError, match="ask the coordinator for `silhouette model export promoted`"):
        take_promoted(house.home("north"), folder)


def test_a_damaged_model_at_the_node_is_noticed(house: House, export: Export) -> None:
    home = house.home("north")
    take_promoted(home, export("open-1", "first"))
    (home.folder / "model" / "1" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="expected a model with the SHA-256"):
        held_model(home)


def test_the_command_says_what_is_held_and_ends_with_3_for_an_older_one(
    house: House, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(house.folder / "north")
    first, second = export("open-1", "first"), export("open-2", "second")
    assert main(["node", "take", str(second), "--home", home]) == 0
    assert "open-2:1 is the model of this node now (number 2)" in capsys.readouterr().out
    assert main(["node", "take", str(first), "--home", home]) == 3
    assert "promoted no more" in capsys.readouterr().err


def test_a_model_signed_before_the_signing_key_changed_is_still_taken(house: House, export: Export) -> None:
    from silhouette_client.enrolment.installing import update_roster

    folder, home = export("open-1", "first"), house.home("north")
    house.office.rotate_signing()
    update_roster(home, house.office.roster_bytes())
    assert take_promoted(home, folder).card.run == "open-1"
    assert take_promoted(home, export("open-2", "second")).alias.number == 2


def test_of_two_that_are_taken_at_once_the_newer_stays(
    house: House, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = house.home("north")
    older, newer = export("open-1", "first"), export("open-2", "second")
    beside = threading.Thread(target=take_promoted, args=(home, newer))

    def checked(card: Card) -> None:
        monkeypatch.setattr("silhouette_client.promoted.check_privacy", check_privacy)
        check_privacy(card)
        beside.start()
        beside.join(0.5)  # it has to wait for this one; if it did not, it would be done by then

    monkeypatch.setattr("silhouette_client.promoted.check_privacy", checked)
    take_promoted(home, older)
    beside.join()
    held = held_model(home)
    assert held is not None
    assert held.alias.number == 2


def test_a_model_is_read_whole_while_another_is_taken(
    house: House, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = house.home("north")
    take_promoted(home, export("open-1", "first"))
    second = export("open-2", "second")

    def taken_meanwhile(of: object) -> tuple[bytes, ...]:
        monkeypatch.setattr("silhouette_client.promoted.signing_keys", signing_keys)
        take_promoted(home, second)  # the files of the first one go
        return signing_keys(home)

    monkeypatch.setattr("silhouette_client.promoted.signing_keys", taken_meanwhile)
    held = held_model(home)
    assert held is not None
    assert held.card.run == "open-2"
