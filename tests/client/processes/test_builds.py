"""Profiles follow the promoted model by themselves, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.profiled import USERS, Profiled

from silhouette_client.processes.__main__ import main as run_process
from silhouette_client.processes.builds import BUILT, Builder, build_all
from silhouette_client.processes.services import places_of, prepare
from silhouette_client.profiles.credential import CREDENTIAL
from silhouette_client.profiles.keys import KeyFile, Passphrase
from silhouette_client.profiles.vault import Vault
from silhouette_shared.errors import UnavailableError

DONE, FAILS = (sys.executable, "-c", ""), (sys.executable, "-c", "raise SystemExit(4)")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    made = Profiled(tmp_path_factory.mktemp("builds"))
    made.promote(1)
    return made


@pytest.fixture
def kept(node: Profiled) -> Profiled:
    """The node with a store, whichever test came before."""
    Vault.open(node.home, make=None if (node.home / "profiles.key").exists() else KeyFile()).close()
    return node


def models(home: Path) -> set[str | None]:
    with Vault.open(home) as vault:
        return {None if record is None else record.model for record in vault.get_many(USERS, "test", "show")}


def test_the_first_build_is_the_operators_and_later_ones_follow_the_promoted_model(
    node: Profiled, tmp_path: Path
) -> None:
    builder = Builder(node.home, tmp_path)
    assert not builder.is_due(), "nobody chose how the keys are protected"
    from silhouette_shared.cli import main

    assert main(["profile", "build", "--home", str(node.home)]) == 0
    assert builder.is_due()
    assert builder.build(), "as a process of its own"
    assert not builder.is_due()
    second = node.promote(2, scale=1.5)
    assert builder.is_due()
    assert builder.build()
    assert models(node.home) == {second}
    assert not Builder(node.home, tmp_path).is_due(), "nor after a restart of the agent"
    (tmp_path / BUILT).write_text("torn", encoding="utf-8")
    assert Builder(node.home, tmp_path).is_due()


def test_a_build_that_fails_is_tried_again_later_and_for_another_model_at_once(kept: Profiled, tmp_path: Path) -> None:
    now = [0.0]
    failing = Builder(kept.home, tmp_path, command=FAILS, clock=lambda: now[0])
    assert failing.is_due()
    assert not failing.build()
    assert not failing.is_due()
    now[0] = 601.0
    assert failing.is_due()
    assert not failing.build()
    kept.promote(3, scale=2.0)
    assert failing.is_due()


def test_a_model_that_comes_during_a_build_is_built_for_after_it(kept: Profiled, tmp_path: Path) -> None:
    alias = kept.house.home("east").folder / "model" / "alias.json"
    new = f"{alias}.new"
    swap = f"import os, shutil; shutil.copy({str(alias)!r}, {new!r}); os.replace({new!r}, {str(alias)!r})"
    builder = Builder(kept.home, tmp_path, command=(sys.executable, "-c", swap))
    assert builder.build()
    assert builder.is_due()
    assert json.loads((tmp_path / BUILT).read_text(encoding="ascii"))


def test_leaving_ends_a_running_build_and_it_counts_as_not_done(kept: Profiled, tmp_path: Path) -> None:
    slow = (sys.executable, "-c", "import time; time.sleep(60)")
    with Builder(kept.home, tmp_path, seconds=0.01, command=slow) as builder:
        assert builder.is_due()
        time.sleep(0.5)
    assert not (tmp_path / BUILT).exists()
    assert builder.is_due()


def test_a_service_opens_keys_under_a_passphrase_by_its_systemd_credential(
    kept: Profiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silhouette_client.profiles.vault import rotate

    monkeypatch.setattr(os, "nice", lambda by: by)  # of the test run itself
    rotate(kept.home, "test", protector=Passphrase("correct horse"))
    with pytest.raises(UnavailableError, match=f"to a service as the systemd credential {CREDENTIAL}"):
        build_all(kept.home)
    monkeypatch.setattr(sys, "argv", ["processes", "profiles", "--home", str(kept.home)])
    monkeypatch.setattr("silhouette_client.hardening.protect_process", lambda: None)
    assert run_process() == 4
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert run_process() == 4, "the folder has another credential"
    (tmp_path / CREDENTIAL).write_text("correct horse\n", encoding="utf-8")
    assert run_process() == 0
    (tmp_path / CREDENTIAL).write_text("wrong\n", encoding="utf-8")
    assert run_process() == 4


def test_the_real_agent_builds_after_it_took_a_promoted_model(tmp_path: Path) -> None:
    node = Profiled(tmp_path)
    home = node.house.home("east")
    prepare(home, places_of(home))
    Vault.open(node.home, make=KeyFile()).close()
    with subprocess.Popen(
        [sys.executable, "-m", "silhouette_client.processes", "agent", "--home", str(node.home)],
        stderr=subprocess.DEVNULL,
    ) as agent:
        try:
            name, built = node.promote(1), places_of(home).work / BUILT
            until = time.monotonic() + 400
            while not built.exists() and agent.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
            assert built.exists()
        finally:
            agent.terminate()
            assert agent.wait(180) == 0
    assert models(node.home) == {name}
