"""Who may do what is read strictly, and a quota fills with time."""

from __future__ import annotations

from pathlib import Path

import pytest

from silhouette_client.serving.access import Quota, read_access
from silhouette_client.serving.service import Role
from silhouette_shared.errors import UsageError


def test_grants_are_read_and_whoever_is_not_named_has_none(tmp_path: Path) -> None:
    path = tmp_path / "serving.toml"
    path.write_text('[clients.shop]\nroles = ["tags", "vectors"]\nrequests_per_second = 5\n[clients.idle]\n')
    access = read_access(path)
    shop, idle = access.of("shop"), access.of("idle")
    assert shop is not None
    assert idle is not None
    assert shop.roles == {Role.tags, Role.vectors}
    assert shop.requests_per_second == 5
    assert idle.roles == frozenset()
    assert access.of("other") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[clients.shop]\nroles = ["admin"]', "roles are tags, vectors, write, erase, audit"),
        ("[clients.shop]\nrole = []", "clients.shop.role"),
        ("[clients.shop]\nrequests_per_second = 0", "clients.shop.requests_per_second"),
        ("[client.shop]\n", ".clients.NAME. only, got client"),
        ("clients = ", "expected a TOML file"),
    ],
)
def test_a_mistake_is_named_and_not_read_as_a_grant(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "serving.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_access(tmp_path / "serving.toml")


def test_no_file_is_no_grant(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected who may ask for what, found no file"):
        read_access(tmp_path / "serving.toml")


def test_a_quota_allows_a_second_of_requests_and_no_more() -> None:
    now = [0.0]
    quota = Quota(3, lambda: now[0])
    assert [quota.take() for _ in range(5)] == [True, True, True, False, False]
    now[0] = 0.34
    assert [quota.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [quota.take() for _ in range(4)] == [True, True, True, False]
