"""The commands of an enrolment, as people type them, each with what it prints and the code it ends with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from silhouette_server.enrolment.office import Office
from silhouette_shared.cli import main
from silhouette_shared.enrolment import grouped


class Desk:
    """Runs commands in homes of their own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, home: str, *arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--home", str(self.folder / home)])
        out, err = self.capsys.readouterr()
        return code, out, err

    def json(self, home: str, *arguments: str) -> Any:
        code, out, err = self(home, *arguments, "--format", "json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def enrol(desk: Desk, name: str, fingerprint: str, *more: str) -> None:
    request = desk.json(name, "node", "init", name, "--people", "200")["request"]
    kit = str(desk.folder / f"{name}.kit.json")
    signed = desk.json("office", "coordinator", "sign", request, "--out", kit)
    assert signed["name"] == name
    installed = desk.json(name, "node", "install", kit, "--fingerprint", fingerprint)
    assert installed["consortium"] == "demo"


def test_three_partners_are_enrolled_by_the_commands_of_the_readme(desk: Desk) -> None:
    made = desk.json("office", "coordinator", "init", "--name", "demo", "--host", "gate.example")
    code, out, _ = desk("office", "coordinator", "invite", "north")
    assert code == 0
    assert grouped(made["fingerprint"]) in out
    assert "silhouette node init north --people NUMBER" in out
    for name in ("north", "south", "east"):
        enrol(desk, name, grouped(made["fingerprint"]))
    status = desk.json("office", "coordinator", "status")
    assert {name: one["state"] for name, one in status["members"].items()} == dict.fromkeys(
        ("north", "south", "east"), "active"
    )
    assert {one["state"] for one in status["certificates"].values()} == {"valid"}
    checks = desk.json("east", "node", "check")
    assert checks["ready"]
    assert {one["name"] for one in checks["checks"]} >= {"keys", "certificate", "roster", "policy", "clock"}


def test_each_refusal_has_its_code_and_says_what_to_do(desk: Desk) -> None:
    fingerprint = desk.json("office", "coordinator", "init", "--name", "demo", "--host", "127.0.0.1")["fingerprint"]
    enrol(desk, "north", fingerprint)
    kit, request = str(desk.folder / "north.kit.json"), str(desk.folder / "north" / "node" / "request.json")
    wrong = ("0" if fingerprint[0] != "0" else "1") + fingerprint[1:]
    refusals = [
        (("office", "coordinator", "init", "--name", "demo", "--host", "x"), 2, "nothing is overwritten"),
        (("other", "coordinator", "init", "--name", "demo"), 2, "--host: expected"),
        (("north", "node", "init", "north", "--people", "10"), 2, "nothing is overwritten"),
        (("other", "node", "init", "a/b", "--people", "10"), 2, "NAME: expected"),
        (("north", "node", "install", kit, "--fingerprint", wrong), 5, "ask the coordinator by telephone"),
        (("north", "node", "install", kit, "--fingerprint", "12"), 2, "have all of it read out"),
        (("north", "node", "install", request, "--fingerprint", fingerprint), 5, "give the right file"),
        (("north", "node", "install", "nowhere", "--fingerprint", fingerprint), 2, "check the path"),
        (("office", "coordinator", "sign", request), 3, "--renew"),
        (("office", "coordinator", "invite", "north"), 3, "take another"),
        (("office", "coordinator", "revoke", "west", "--yes"), 3, "found nobody of this name"),
        (("office", "coordinator", "rotate", "--yes"), 2, "say what is to be replaced"),
        (("nowhere", "coordinator", "status"), 2, "coordinator init"),
    ]
    for arguments, expected, message in refusals:
        code, out, err = desk(*arguments)
        assert (code, out) == (expected, ""), arguments
        assert message in " ".join(err.split()), err
    tampered = desk.folder / "tampered.json"
    tampered.write_bytes(Path(request).read_bytes().replace(b'"people":200', b'"people":900'))
    assert desk("office", "coordinator", "sign", str(tampered))[0] == 5
    code, out, _ = desk("other", "node", "check", "--format", "json")
    assert code == 2
    assert not json.loads(out)["ready"]


def test_a_member_is_revoked_and_keys_are_replaced_only_when_it_was_confirmed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = desk.json("office", "coordinator", "init", "--name", "demo", "--host", "127.0.0.1")["fingerprint"]
    enrol(desk, "north", fingerprint)
    assert desk("office", "coordinator", "revoke", "north")[0] == 1  # nobody answered the question
    assert desk.json("office", "coordinator", "status")["members"]["north"]["state"] == "active"
    assert desk.json("office", "coordinator", "revoke", "north", "--yes")["active"] == []
    rotated = desk.json("office", "coordinator", "rotate", "--server", "--signing", "--yes")
    assert rotated["fingerprint"] != fingerprint
    assert desk.json("office", "coordinator", "status")["fingerprint"] == rotated["fingerprint"]


def test_a_declaration_is_changed_by_a_request_with_the_same_keys(desk: Desk) -> None:
    fingerprint = desk.json("office", "coordinator", "init", "--name", "demo", "--host", "127.0.0.1")["fingerprint"]
    enrol(desk, "north", fingerprint)
    request = desk.json("north", "node", "declare", "300")["request"]
    code, _, _ = desk("north", "node", "check")
    assert code == 5  # not what the roster says, until the coordinator has signed it
    kit = str(desk.folder / "again.json")
    desk.json("office", "coordinator", "sign", request, "--renew", "--out", kit)
    desk.json("north", "node", "install", kit, "--fingerprint", fingerprint)
    assert desk.json("office", "coordinator", "status")["members"]["north"]["people"] == 300
    assert desk.json("north", "node", "check")["ready"]


def test_the_policy_is_shown_and_tested(desk: Desk) -> None:
    code, out, err = desk("north", "policy", "show")
    assert code == 0
    assert "these are the defaults" in " ".join(err.split())
    folder = desk.folder / "north" / "node"
    folder.mkdir(parents=True)
    (folder / "policy.toml").write_text(out.replace("partners_minimum = 3", "partners_minimum = 5"))
    assert desk.json("north", "policy", "show")["policy"]["partners_minimum"] == 5
    played = desk.json("north", "policy", "test")["offers"]
    assert len([one for one in played if one["code"]]) >= 6
    assert all(one["passed"] for one in played)
    (folder / "policy.toml").write_text("modes = 3")
    assert desk("north", "policy", "test")[0] == 2


@pytest.mark.parametrize(("days", "code", "state"), [(10, 0, "valid"), (380, 0, "expires soon"), (400, 3, "expired")])
def test_the_status_says_what_expires(desk: Desk, days: int, code: int, state: str) -> None:
    made = datetime.now(UTC) - timedelta(days=days)
    Office(desk.folder / "office" / "coordinator", lambda: made).init("demo", ["127.0.0.1"])
    found, out, err = desk("office", "coordinator", "status", "--format", "json")
    assert found == code
    certificates = json.loads(out)["certificates"]
    assert {name: one["state"] for name, one in certificates.items()} == {
        "authority": "valid",
        "server": state,
        "internal": state,
    }
    assert ("expires soon: run" in " ".join(err.split())) is (state == "expires soon")
