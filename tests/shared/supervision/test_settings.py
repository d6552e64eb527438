from __future__ import annotations

from pathlib import Path

import pytest

from silhouette_shared.errors import UsageError
from silhouette_shared.supervision.settings import as_port, read_settings

KNOWN = {"listen": str, "superlink_port": int}


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "processes.toml", KNOWN) == {}


def test_what_is_set_is_read(tmp_path: Path) -> None:
    path = tmp_path / "processes.toml"
    path.write_text('listen = "127.0.0.1"\nsuperlink_port = 9444\n')
    assert read_settings(path, KNOWN) == {"listen": "127.0.0.1", "superlink_port": 9444}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listen = ", "expected settings in TOML"),
        ("port = 1", "port: expected listen or superlink_port, got another setting; remove it"),
        ("listen = 1", "listen: expected str, got int; correct it"),
        ("superlink_port = true", "superlink_port: expected int, got bool; correct it"),
    ],
)
def test_anything_else_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "processes.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as told:
        read_settings(path, KNOWN)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("port", [0, 65536, -1, "9443"])
def test_a_number_that_is_no_port_is_refused(port: object) -> None:
    with pytest.raises(UsageError, match="expected a port from 1 to 65535, got"):
        as_port(Path("processes.toml"), "superlink_port", port)
