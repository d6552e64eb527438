"""A ledger that goes back is noticed by the others and told to its owner."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.people import MECHANISM

from silhouette_client.peers import OldLedgerError, PeerMemory, check_told, standing_of
from silhouette_client.policy.ledger_store import Ledger
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.ledger import Charge, Limits
from silhouette_shared.secagg.standing import NOWHERE, Standing, decode_seen, encode_seen

LIMITS = Limits(epsilon_per_run=100.0, epsilon_per_year=None, delta=1e-5)
STANDINGS = st.builds(Standing, st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))


def at(entries: int, mark: int = 0) -> Standing:
    return Standing(entries, bytes([mark]) * 31 + bytes([entries % 256]))


def ledger(charges: int = 0) -> Ledger:
    found = Ledger.in_memory(LIMITS, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    for number in range(1, charges + 1):
        charge(found, number)
    return found


def charge(found: Ledger, number: int) -> None:
    found.charge(
        Charge(
            run="run",
            round=number,
            purpose="training",
            mechanism=MECHANISM.after(1),
            delta=1e-5,
            plan_digest="a" * 64,
            model_digest="b" * 64,
        )
    )


def test_what_is_newer_is_kept_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    memory = PeerMemory(path)
    memory.take({"a": at(1), "b": at(7)})
    memory.take({"a": at(4)})
    assert PeerMemory(path).seen == {"a": at(4), "b": at(7)}


def test_the_same_standing_again_is_fine_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    PeerMemory(path).take({"a": at(3)})
    path.chmod(0o400)
    before = path.stat().st_mtime_ns
    PeerMemory(path).take({"a": at(3)})
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("shown", "got"), [(at(4), "one that ends at 4"), (at(5, mark=9), "another one"), (NOWHERE, "one that ends at 0")]
)
def test_a_ledger_that_went_back_is_named_and_what_was_seen_stays(tmp_path: Path, shown: Standing, got: str) -> None:
    path = tmp_path / "peers.json"
    memory = PeerMemory(path)
    memory.take({"a": at(5), "b": at(2)})
    expected = f"the ledger of a to hold the entry 5 that was seen here, got {got}.*its operator.*peers.json"
    for known in (memory, PeerMemory(path)):
        with pytest.raises(OldLedgerError, match=expected):
            known.take({"a": shown, "b": at(3)})
        assert known.seen == {"a": at(5), "b": at(3)}, "the others' news are kept"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 3}', '{"a": [3]}', '{"a": [0, ""]}', '{"a": ["3", "00"]}', '{"a": [3, "0g"]}']
)
def test_a_damaged_memory_is_refused_and_not_taken_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    with pytest.raises(IntegrityError, match="expected where every partner's ledger was last seen"):
        PeerMemory(path)


def test_a_partner_is_told_that_its_ledger_is_an_older_copy() -> None:
    old, new = ledger(2), ledger(4)
    with pytest.raises(OldLedgerError, match="with the entry 6 that b has seen, got one that ends at 4"):
        check_told(old, {"b": standing_of(new)})
    before = standing_of(new)
    charge(new, 5)
    check_told(new, {"b": standing_of(new), "c": before})


def test_a_ledger_that_has_grown_past_what_was_seen_but_is_another_one_is_noticed_by_its_owner() -> None:
    seen = standing_of(ledger(2))
    another = ledger(5)  # with another key and opening: no entry is the same
    with pytest.raises(OldLedgerError, match="the entry 4 that c has seen, got another"):
        check_told(another, {"c": seen})


@given(st.lists(st.one_of(st.just(NOWHERE), STANDINGS), min_size=3, max_size=50))
def test_what_was_seen_comes_back_in_the_rosters_order(standings: list[Standing]) -> None:
    names = [f"partner-{number:02d}" for number in range(len(standings))]
    seen = dict(zip(names, standings, strict=True))
    found = decode_seen(names, encode_seen(names, seen))
    assert found == {name: one for name, one in seen.items() if one != NOWHERE}


def test_standings_of_another_number_of_partners_are_refused() -> None:
    with pytest.raises(UsageError, match="expected 40 bytes for each of 2 partners, got 120"):
        decode_seen(["a", "b"], bytes(120))
    with pytest.raises(UsageError, match="hash of 32 bytes"):
        Standing(1, b"short")
    with pytest.raises(UsageError, match="expected the number of an entry"):
        Standing(-1, bytes(32))
    assert json.dumps(decode_seen(["a", "b"], b"")) == "{}"
