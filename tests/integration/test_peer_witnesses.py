"""Real agents with ledgers on disk: an older copy put back stops the rounds before anything is charged or sent."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from flwr.app import Message
from tests.consortium import LOCAL, Consortium, Passed, secure_plan

from silhouette_client.node_folder import PEERS_FILE, Fittings, ledger_on_disk
from silhouette_client.peers import OldLedgerError, PeerMemory
from silhouette_shared.errors import UnavailableError
from silhouette_shared.privacy.ledger import Charge

VICTIM = "partner-1"
BOOKS = ("ledger.sqlite", "witness")


def charged(house: Consortium, name: str) -> list[int]:
    ledger = house.agent(name)._ledger
    assert ledger is not None
    return [entry.content.round for entry in ledger.entries if isinstance(entry.content, Charge)]


def copy(source: Path, target: Path) -> None:
    for name in BOOKS:
        place = target / name
        if place.is_dir():
            shutil.rmtree(place)
        if (source / name).is_dir():
            shutil.copytree(source / name, place)
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(source / name, place)


def run_with_an_old_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture, put_back: bool) -> tuple[Consortium, str]:
    """Three rounds, the copy of one partner's books from the second put back, and the run gone on with."""
    house = Consortium(tmp_path / "a", secure_plan(rounds=6), LOCAL, partners=3, fittings=Fittings(ledger_on_disk))

    def until_the_third(passed: Passed, message: Message) -> Message:
        if passed.group == "training 2" and passed.kind == "train.agree" and passed.partner == VICTIM:
            copy(house.folder / VICTIM, tmp_path / "old")  # two charges are in it
        if passed.group == "training 4":
            raise KeyboardInterrupt
        return message

    house.wire.trouble = until_the_third
    with pytest.raises(KeyboardInterrupt):
        house.run()
    assert charged(house, VICTIM) == [1, 2, 3]
    if put_back:
        copy(tmp_path / "old", house.folder / VICTIM)  # with its own witness: nothing at this partner can notice
    house.restart_partners()
    house.wire.passed.clear()
    house.wire.trouble = lambda passed, message: message
    with caplog.at_level(logging.WARNING):
        try:
            house.run()
        except UnavailableError as error:
            return house, str(error)
    return house, ""


def test_an_old_ledger_put_back_with_its_witness_is_noticed_by_every_peer_and_by_its_own_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house, error = run_with_an_old_copy(tmp_path, caplog, put_back=True)
    assert "3 rounds in a row are void" in error
    for peer in ("partner-0", "partner-2"):
        assert f"{peer}, share: error" in error
    assert error.count(f"expected the ledger of {VICTIM} to hold the entry") >= 2
    assert f"{VICTIM}, share: error" in error
    assert "an older copy was put back; stop the node" in error
    assert {step for _, step in house.wire.steps()} == {"advertise", "share"}, "no masked vector was asked for"
    assert charged(house, VICTIM) == [1, 2], "the old copy: nothing was charged to it, and so no noise drawn"
    assert charged(house, "partner-0") == [1, 2, 3]
    # The peers keep what they saw, whatever was shown to them since.
    kept = PeerMemory(house.folder / "partner-0" / PEERS_FILE).seen[VICTIM]
    with pytest.raises(OldLedgerError):
        PeerMemory(house.folder / "partner-2" / PEERS_FILE).take({VICTIM: type(kept)(kept.entries - 1, kept.head)})


def test_the_same_run_goes_on_where_no_copy_was_put_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    house, error = run_with_an_old_copy(tmp_path, caplog, put_back=False)
    assert error == ""
    assert charged(house, VICTIM) == [1, 2, 3, 4, 5, 6]
