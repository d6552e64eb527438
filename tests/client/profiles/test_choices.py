"""What somebody chose at the last build holds for what the node builds and updates by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tests.profiled import USERS, Profiled

from silhouette_client.cli.opening import open_vault
from silhouette_client.live.updater import LiveUpdater
from silhouette_client.processes.builds import build_all
from silhouette_client.profiles.choices import CHOICES_NAME, Choices, read_choices, write_choices
from silhouette_client.profiles.node_model import promoted_model
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving.service import Event
from silhouette_shared.cli import main
from silhouette_shared.errors import IntegrityError

_DAY = 86_400


def records(home: Path, after_days: float = 0) -> list[ProfileRecord | None]:
    with Vault.open(home, clock=lambda: time.time() + after_days * _DAY) as vault:
        return vault.get_many(USERS, "test", "check")


def test_choices_come_back_and_without_a_file_what_the_command_takes_by_default_holds(tmp_path: Path) -> None:
    assert read_choices(tmp_path) == Choices() == Choices(purpose="profiling", count=50, keep={})
    chosen = Choices(purpose="advice", count=7, keep={"vector": 30 * _DAY})
    write_choices(tmp_path, chosen)
    assert read_choices(tmp_path) == chosen
    assert (tmp_path / CHOICES_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"purpose": 1}', b'{"count": 0}', b'{"count": "9"}', b'{"keep": {"soul": 1}}', b'{"more": 1}'],
)
def test_a_damaged_file_is_named_and_is_not_taken_for_the_defaults(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHOICES_NAME).write_bytes(content)
    with pytest.raises(IntegrityError, match="expected the options of the last build, got something else"):
        read_choices(tmp_path)


def test_the_build_after_a_promotion_and_a_push_do_as_the_last_build_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("silhouette_client.processes.builds.os.nice", lambda by: by)  # of the test run itself
    node = Profiled(tmp_path)
    node.promote(1)
    command = ["profile", "build", "--home", str(node.home), "--count", "3", "--keep", "vector=30"]
    assert main([*command, "--purpose", "advice"]) == 0
    second = node.promote(2, scale=1.5)
    assert read_choices(node.home) == Choices(purpose="advice", count=3, keep={"vector": 30 * _DAY})
    build_all(node.home)
    model = promoted_model(node.home, torch.device("cpu"))
    with open_vault(node.home, None) as vault:
        updater = LiveUpdater.open(node.home, vault, model)
        assert updater.push([Event(USERS[0], "i3", "click", 1_750_000_000)], "test").profiles == 1
        updater.close()
    for found in records(node.home):
        assert found is not None
        assert found.model == second
        assert len(found.recommendations or ()) <= 3
        assert found.vector is not None
    assert any(len(found.recommendations or ()) == 3 for found in records(node.home) if found is not None)
    assert all(found is not None and found.vector is None for found in records(node.home, after_days=31))
