"""The key file opens for whom it should, in whole, and for nobody else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tests.profiles import KEYRING

from silhouette_client.profiles.keys import (
    KeyFile,
    Keyring,
    Passphrase,
    WrappedKey,
    read_keyring,
    write_keyring,
)
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError

CHEAP = {"memory_kib": 64, "iterations": 1, "lanes": 1, "salt": "00" * 16}


def test_a_key_file_comes_back_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "profiles.key"
    write_keyring(path, KEYRING.with_new_key(), KeyFile())
    found, protector = read_keyring(path)
    assert found.wrapping[1] == KEYRING.wrapping[1]
    assert (found.active, found.person, found.audit, found.store) == (2, KEYRING.person, KEYRING.audit, KEYRING.store)
    assert protector.kind == "file"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(UsageError, match=r"expected a file for its owner alone \(mode 600\), got mode 640"):
        read_keyring(path)


def test_a_passphrase_opens_and_another_is_told_from_damage(tmp_path: Path) -> None:
    path = tmp_path / "profiles.key"
    write_keyring(path, KEYRING, Passphrase("correct horse", CHEAP))
    assert (b"k" * 32).hex().encode() not in path.read_bytes()
    found, _ = read_keyring(path, lambda: "correct horse")
    assert found == KEYRING
    before = path.read_bytes()
    with pytest.raises(UnavailableError, match="expected the passphrase of the profile keys, got another") as caught:
        read_keyring(path, lambda: "wrong")
    assert caught.value.exit_code == 4
    with pytest.raises(UnavailableError, match="expected a passphrase, got none"):
        read_keyring(path)
    with pytest.raises(UsageError, match="got an empty one"):
        read_keyring(path, lambda: "")
    assert path.read_bytes() == before


def test_a_new_passphrase_file_uses_argon2id_with_64_mebibytes() -> None:
    settings = Passphrase("x").settings
    assert (settings["memory_kib"], settings["iterations"], settings["lanes"]) == (65536, 3, 4)
    assert len(bytes.fromhex(settings["salt"])) == 16
    assert Passphrase("x", CHEAP).settings["salt"] != settings["salt"]


@pytest.mark.parametrize("change", [{"salt": "zz"}, {"iterations": 10**9}, {"memory_kib": 1 << 40}, {"lanes": None}])
def test_costs_that_cannot_be_are_refused_before_they_are_paid(change: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="expected the costs and salt of Argon2id"):
        Passphrase("x", {**CHEAP, **change})


@pytest.mark.parametrize("protector", [KeyFile(), Passphrase("x", CHEAP)], ids=["file", "passphrase"])
def test_a_flipped_byte_of_the_key_file_is_found_or_changes_nothing(
    tmp_path: Path, protector: KeyFile | Passphrase
) -> None:
    path = tmp_path / "profiles.key"
    write_keyring(path, KEYRING, protector)
    whole, draw, found = path.read_bytes(), random.Random(2), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_keyring(path, lambda: "x")[0] == KEYRING, place
        except IntegrityError as error:
            found += "expected a whole key file, got a changed one" in str(error)
    assert found > 0.95 * len(whole)


def test_lost_keys_a_newer_file_and_an_absent_protector_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "profiles.key"
    with pytest.raises(IntegrityError, match="expected the keys of the profile store, found none; put them back"):
        read_keyring(path)
    write_keyring(path, KEYRING, Vault(7))
    with pytest.raises(UnavailableError, match="expected a protection that is installed, got 'vault'"):
        read_keyring(path)
    assert read_keyring(path, protector=Vault(7))[0] == KEYRING
    document = json.loads(path.read_bytes())
    document.pop("sha256")
    document["format"] = 2
    from silhouette_client.profiles.keys import _checksum

    path.write_text(json.dumps({**document, "sha256": _checksum(document)}))
    with pytest.raises(UnavailableError, match="expected keys of format 1, got 2; update Silhouette"):
        read_keyring(path)


class Vault:
    """Stands for a key management service."""

    kind = "vault"

    def __init__(self, shift: int) -> None:
        self.settings = {"shift": shift}

    def seal(self, secret: bytes, context: bytes) -> bytes:
        return bytes((byte + self.settings["shift"]) % 256 for byte in secret)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        return bytes((byte - self.settings["shift"]) % 256 for byte in sealed)


def test_a_person_has_one_name_in_a_store_and_another_in_the_next() -> None:
    other = Keyring.generate()
    assert KEYRING.pseudonym("anna") == KEYRING.pseudonym("anna") != KEYRING.pseudonym("ben")
    assert KEYRING.pseudonym("anna") != other.pseudonym("anna")
    assert KEYRING.with_new_key().pseudonym("anna") == KEYRING.pseudonym("anna")


def test_a_wrapped_key_opens_in_its_context_only() -> None:
    wrapped = KEYRING.wrap(b"d" * 32, b"anna")
    assert KEYRING.unwrap(wrapped, b"anna") == b"d" * 32
    for wrong, context in [
        (wrapped, b"ben"),
        (WrappedKey(1, wrapped.content[:-1]), b"anna"),
        (WrappedKey(9, wrapped.content), b"anna"),
    ]:
        with pytest.raises(IntegrityError, match="expected"):
            KEYRING.unwrap(wrong, context)


def test_keys_do_not_show_in_a_representation() -> None:
    assert "6b6b" not in repr(KEYRING)
    assert "kkkk" not in repr(KEYRING)
    assert repr(KEYRING) == "Keyring(store=00010203, keys=[1], active=1)"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="expected to write the keys, got"):
        write_keyring(tmp_path / "file" / "profiles.key", KEYRING, KeyFile())
