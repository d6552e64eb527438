"""The files for systemd, containers and nginx parse, name commands that exist, and open no port but the gate's."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from silhouette_client.profiles.credential import CREDENTIAL
from silhouette_server.enrolment.office import DEFAULT_PORT
from silhouette_server.gate_rules import CALLS, FLEET, MAX_BODY_BYTES
from silhouette_shared.cli import app

ROOT = Path(__file__).parents[2]
UNITS = {
    "coordinator": ROOT / "server/deploy/silhouette-coordinator.service",
    "node": ROOT / "client/deploy/silhouette-node.service",
    "supernode": ROOT / "client/deploy/silhouette-supernode.service",
}
COMMANDS = {
    "coordinator": ["coordinator", "start"],
    "node": ["node", "start"],
    "supernode": ["node", "supernode", "--link", "/run/silhouette-link"],
}
COMPOSES = {"coordinator": ROOT / "server/deploy/compose.yaml", "node": ROOT / "client/deploy/compose.yaml"}


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def services(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSES[role].read_text(encoding="utf-8"))["services"]
    return found


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
    assert words == COMMANDS[role]
    assert is_command(words[:2])
    assert service["User"] not in ("", "root")
    assert (service["NoNewPrivileges"], service["LimitCORE"], service["UMask"]) == ("true", "0", "0077")
    home = re.fullmatch(r"SILHOUETTE_HOME=/var/lib/(\S+)", service["Environment"])
    assert home is not None
    assert home[1] == service["StateDirectory"]  # the one place that it may write to
    assert service["ProtectSystem"] == "strict"


def _with_a_program(path: Path, text: str) -> None:
    path.write_text(text.replace("/opt/silhouette/bin/silhouette", "/bin/true"), encoding="utf-8")


def complaints(text: str, folder: Path, name: str) -> list[str]:
    """What systemd itself says of a unit, with a program that is there in place of ours."""
    for unit_file in UNITS.values():  # one may ask for another
        _with_a_program(folder / unit_file.name, unit_file.read_text(encoding="utf-8"))
    path = folder / name
    _with_a_program(path, text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if name in line]
    return said or ([f"exit code {done.returncode}"] if done.returncode else [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("role", UNITS)
def test_systemd_takes_the_units_and_would_say_what_is_wrong(role: str, tmp_path: Path) -> None:
    text, name = UNITS[role].read_text(encoding="utf-8"), UNITS[role].name
    assert complaints(text, tmp_path, name) == []
    assert "Restat" in complaints(text.replace("Restart=always", "Restat=always"), tmp_path, name)[0]
    assert complaints(text.replace("/bin/silhouette ", "/bin/not-there-"), tmp_path, name)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_unit_of_a_node_takes_the_credential_that_opens_keys_under_a_passphrase(tmp_path: Path) -> None:
    text, name = UNITS["node"].read_text(encoding="utf-8"), UNITS["node"].name
    wanted = f"LoadCredentialEncrypted={CREDENTIAL}:"
    assert text.count(f"# {wanted}") == 1
    assert complaints(text.replace(f"# {wanted}", wanted), tmp_path, name) == []
    assert complaints(text.replace(f"# {wanted}/", f"{wanted}not/"), tmp_path, name)
    assert CREDENTIAL in COMPOSES["node"].read_text(encoding="utf-8")


def test_coordinator_agent_and_supernode_are_different_users() -> None:
    users = {unit(path)["Service"]["User"] for path in UNITS.values()}
    containers = {one["user"].split(":")[0] for role in COMPOSES for one in services(role).values()}
    assert len(users) == len(containers) == 3


def test_agent_and_supernode_share_the_link_folder_and_nothing_else() -> None:
    node, supernode = (unit(UNITS[role])["Service"] for role in ("node", "supernode"))
    assert node["RuntimeDirectory"] == "silhouette-link" == supernode["SupplementaryGroups"] == node["Group"]
    assert node["RuntimeDirectoryMode"] == "0750"
    assert "/var/lib/silhouette-node" in supernode["InaccessiblePaths"]
    assert unit(UNITS["supernode"])["Unit"]["After"] == "silhouette-node.service"
    inside = services("node")
    volumes = {name: {one.split(":")[0] for one in service["volumes"]} for name, service in inside.items()}
    assert volumes == {"node": {"node-home", "link"}, "supernode": {"supernode-home", "link"}}
    assert "link:/run/silhouette-link:ro" in inside["supernode"]["volumes"]
    assert inside["supernode"]["network_mode"] == "service:node"
    assert {one["user"].split(":")[1] for one in inside.values()} == {"10004"}  # the group of the link


@pytest.mark.parametrize("role", COMPOSES)
def test_a_container_starts_our_command_without_privileges(role: str) -> None:
    for name, service in services(role).items():
        assert service["command"] == ["silhouette", *COMMANDS[name]]
        user = service["user"].split(":")[0]
        assert user not in ("", "0", "root")
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "no-new-privileges:true" in service["security_opt"]
        dockerfile = ROOT / service["build"]["dockerfile"]
        assert f"--uid {user} " in dockerfile.read_text(encoding="utf-8")


def test_only_the_gates_port_is_published_and_a_node_publishes_none() -> None:
    found = {name: one.get("ports", []) for role in COMPOSES for name, one in services(role).items()}
    assert found == {"coordinator": [f"{DEFAULT_PORT}:{DEFAULT_PORT}"], "node": [], "supernode": []}


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
