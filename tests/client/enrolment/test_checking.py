"""`node check` finds what is missing, expired, damaged or open to others, each on its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.enrolled import House

from silhouette_client.enrolment.checking import Finding, Outcome, examine
from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.making import make_node
from silhouette_server.enrolment.issuing import LIFE

NOW = datetime.now(UTC)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def found(home: NodeHome, now: datetime = NOW) -> dict[str, Finding]:
    return {one.name: one for one in examine(home, now)}


def test_an_installed_node_has_what_it_needs(house: House) -> None:
    node = house.open("south")
    node.close()
    findings = found(house.home("south"))
    assert {one.name for one in findings.values() if one.outcome is Outcome.failed} == set()
    assert findings["people"].outcome is Outcome.warning  # these have no tables
    assert findings["policy"].text.startswith("runs without privacy are allowed")
    assert findings["ledger"].text == "2 entries, whole"


def test_an_empty_home_and_one_without_a_kit_say_what_comes_next(tmp_path: Path) -> None:
    home = NodeHome.of(tmp_path)
    assert "silhouette node init" in found(home)["folder"].text
    assert found(home)["folder"].exit_code == 2
    make_node(home, "north", 10)
    findings = found(home)
    assert findings["keys"].outcome is Outcome.ok
    assert "silhouette node install" in findings["certificate"].text


@pytest.mark.parametrize(
    ("change", "check", "exit_code", "message"),
    [
        (lambda home: home.identity_path.chmod(0o604), "keys", 2, "mode 600"),
        (lambda home: home.folder.chmod(0o755), "folder", 2, "expected mode 700"),
        (lambda home: home.client_key_path.write_bytes(b"x"), "keys", 5, "elliptic-curve key"),
        (lambda home: home.certificate_path.write_bytes(home.authority_path.read_bytes()), "certificate", 5, "client"),
        (lambda home: home.roster_path.write_bytes(b"{}"), "roster", 5, "expected a roster"),
        (lambda home: home.policy_path.write_text("epsilon = 1"), "policy", 2, "unknown key"),
        (lambda home: (home.folder / "ledger.sqlite").write_bytes(b"x" * 100), "ledger", 5, "ledger"),
    ],
)
def test_each_fault_is_found_where_it_is(house: House, change, check: str, exit_code: int, message: str) -> None:  # type: ignore[no-untyped-def]
    node = house.open("south")
    node.close()
    home = house.home("south")
    change(home)
    finding = found(home)[check]
    assert finding.outcome is Outcome.failed
    assert finding.exit_code == exit_code, finding
    assert message in finding.text


def test_dates_revocation_and_the_clock(house: House) -> None:
    home = house.home("south")
    assert found(home, NOW + LIFE + timedelta(days=1))["certificate"].exit_code == 3
    assert found(home, NOW + LIFE - timedelta(days=20))["certificate"].outcome is Outcome.warning
    behind = found(home, NOW - timedelta(hours=1, minutes=30))
    assert behind["certificate"].outcome is Outcome.ok  # valid since two hours before it was made
    assert behind["clock"].exit_code == 4
    assert "set it" in behind["clock"].text
    house.office.revoke("south")
    home.roster_path.write_bytes(house.office.roster_bytes())
    assert found(home)["roster"].exit_code == 3
