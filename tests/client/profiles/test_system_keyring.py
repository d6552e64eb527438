"""Keys in the operating system's keyring, or under a service of a package: they open there and nowhere else."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked
from tests.profiles import profile, same

from silhouette_client.profiles.keys import PROTECTORS, KeyFile, installed_protector, read_keyring
from silhouette_client.profiles.system_keyring import SERVICE, SystemKeyring
from silhouette_client.profiles.vault import Vault, new_protector, rotate
from silhouette_shared.errors import UnavailableError, UsageError


class Locker(KeyringBackend):
    """A keyring in memory."""

    priority = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise KeyringLocked
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.held[service, username]


@pytest.fixture
def locker() -> Iterator[Locker]:
    before = keyring.get_keyring()
    made = Locker()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def test_a_store_opens_with_the_systems_keyring_and_its_file_holds_no_key(locker: Locker, tmp_path: Path) -> None:
    with Vault.open(tmp_path, make=SystemKeyring({})) as vault:
        vault.put_many([("anna", profile(1))], "test", "build")
        secrets = [vault._keyring.person, *vault._keyring.wrapping.values()]
    ((service, _),) = locker.held
    assert service == SERVICE
    content = (tmp_path / "profiles.key").read_bytes()
    assert not [one for one in secrets if one in content or one.hex().encode() in content]
    with Vault.open(tmp_path) as vault:  # nothing is asked
        assert same(vault.get("anna", "test", "check"), profile(1))


def test_a_locked_an_empty_and_another_keyring_say_what_to_do(locker: Locker, tmp_path: Path) -> None:
    with Vault.open(tmp_path, make=SystemKeyring({})):
        pass
    locker.locked = True
    with pytest.raises(UnavailableError, match="keyring to answer, got KeyringLocked; unlock it"):
        read_keyring(tmp_path / "profiles.key")
    locker.locked = False
    (place,) = locker.held
    kept = locker.held.pop(place)
    with pytest.raises(UnavailableError, match="in the keyring, found none; use the account that made the keys"):
        read_keyring(tmp_path / "profiles.key")
    locker.held[place] = kept[::-1]
    with pytest.raises(UnavailableError, match="the keyring has another; restore it there, nothing was changed"):
        read_keyring(tmp_path / "profiles.key")
    locker.held[place] = kept
    assert read_keyring(tmp_path / "profiles.key")[1].kind == "keyring"


def test_a_rotation_moves_the_keys_from_the_file_to_the_keyring(locker: Locker, tmp_path: Path) -> None:
    with Vault.open(tmp_path, make=KeyFile()) as vault:
        vault.put_many([("anna", profile(1))], "test", "build")
    assert rotate(tmp_path, "test", protector=SystemKeyring({})) == 1
    with Vault.open(tmp_path) as vault:
        assert same(vault.get("anna", "test", "check"), profile(1))
    locker.held.clear()
    with pytest.raises(UnavailableError, match="found none"):
        Vault.open(tmp_path)


def test_a_packages_service_is_found_by_its_name_and_an_absent_one_is_refused(
    locker: Locker, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = importlib.metadata.EntryPoint(
        "keyring", "silhouette_client.profiles.system_keyring:SystemKeyring", PROTECTORS
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (point,))
    assert new_protector(None, "keyring").kind == "keyring"
    assert installed_protector("keyring", {}).settings["entry"]
    with pytest.raises(UsageError, match="expected a protection out of keyring, got 'vault'; install the package"):
        new_protector(None, "vault")
