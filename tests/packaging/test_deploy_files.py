"""The files for systemd, containers and nginx parse, name commands that exist, and open no port but the gate's."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from silhouette_server.enrolment.office import DEFAULT_PORT
from silhouette_server.gate_rules import CALLS, FLEET, MAX_BODY_BYTES
from silhouette_shared.cli import app

ROOT = Path(__file__).parents[2]
UNITS = {
    "coordinator": ROOT / "server/deploy/silhouette-coordinator.service",
    "node": ROOT / "client/deploy/silhouette-node.service",
}
COMPOSES = {"coordinator": ROOT / "server/deploy/compose.yaml", "node": ROOT / "client/deploy/compose.yaml"}


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def is_command(words: list[str]) -> bool:
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.get_command(None, word) if hasattr(command, "get_command") else None
        if command is None:
            return False
    return True


def test_a_command_that_is_not_there_would_be_noticed() -> None:
    assert is_command(["coordinator", "start"])
    assert not is_command(["coordinator", "begin"])
    assert not is_command(["coordinator", "start", "now"])


@pytest.mark.parametrize("role", UNITS)
def test_a_unit_starts_our_command_as_a_user_of_its_own_and_without_core_dumps(role: str) -> None:
    service = unit(UNITS[role])["Service"]
    program, *words = service["ExecStart"].split()
    assert Path(program).name == "silhouette"
    assert words == [role, "start"]
    assert is_command(words)
    assert service["User"] not in ("", "root")
    assert (service["NoNewPrivileges"], service["LimitCORE"], service["UMask"]) == ("true", "0", "0077")
    home = re.fullmatch(r"SILHOUETTE_HOME=/var/lib/(\S+)", service["Environment"])
    assert home is not None
    assert home[1] == service["StateDirectory"]  # the one place that it may write to
    assert service["ProtectSystem"] == "strict"


def test_the_two_sides_are_different_users() -> None:
    users = {unit(path)["Service"]["User"] for path in UNITS.values()}
    containers = {
        next(iter(yaml.safe_load(path.read_text())["services"].values()))["user"] for path in COMPOSES.values()
    }
    assert len(users) == len(containers) == 2


@pytest.mark.parametrize("role", COMPOSES)
def test_a_container_starts_our_command_without_privileges(role: str) -> None:
    ((name, service),) = yaml.safe_load(COMPOSES[role].read_text(encoding="utf-8"))["services"].items()
    assert name == role
    assert service["command"] == ["silhouette", role, "start"]
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]
    dockerfile = ROOT / service["build"]["dockerfile"]
    assert service["user"] in dockerfile.read_text(encoding="utf-8")


def test_only_the_gates_port_is_published_and_a_node_publishes_none() -> None:
    found = {
        role: next(iter(yaml.safe_load(path.read_text())["services"].values())).get("ports", [])
        for role, path in COMPOSES.items()
    }
    assert found == {"coordinator": [f"{DEFAULT_PORT}:{DEFAULT_PORT}"], "node": []}


def test_nginx_lets_the_same_calls_pass_as_our_gate() -> None:
    text = (ROOT / "server/deploy/nginx.conf").read_text(encoding="utf-8")
    assert text.count("{") == text.count("}")
    calls = re.search(r"~\^/v1/fleet/\(([^)]*)\)\$ 1;", text)
    assert calls is not None
    assert {FLEET + call for call in calls[1].split("|")} == CALLS
    assert "ssl_verify_client on;" in text
    assert f"client_max_body_size {MAX_BODY_BYTES >> 20}m;" in text
    assert f"proxy_pass https://127.0.0.1:{DEFAULT_PORT + 1};" in text
    assert "location / {\n            return 404;" in text
