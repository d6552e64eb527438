"""A process that holds records leaves no core and lets nobody look into it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
from tests.children import in_a_child

from silhouette_client.hardening import is_protected, protect_process
from silhouette_shared.errors import UnavailableError


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_protected_process_is_neither_dumped_nor_looked_into() -> None:
    def body() -> int:
        before = is_protected()
        protect_process()
        owner = Path("/proc/self/environ").stat().st_uid  # an undumpable process's /proc is root's
        limits = resource.getrlimit(resource.RLIMIT_CORE)
        return 0 if (not before and is_protected() and owner == 0 and limits == (0, 0)) else 1

    assert in_a_child(body) == 0


def test_a_child_inherits_that_there_are_no_cores() -> None:
    def body() -> int:
        protect_process()
        return in_a_child(lambda: 0 if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else 1)

    assert in_a_child(body) == 0


def test_a_system_that_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr("silhouette_client.hardening.resource.setrlimit", refuse)
    with pytest.raises(UnavailableError, match="the system refused"):
        protect_process()
