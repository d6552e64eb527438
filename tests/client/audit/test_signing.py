"""The auditor's key is for its owner alone, and a result appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from silhouette_client.audit.code import PACKAGES, _digest, code_digests
from silhouette_client.audit.signing import KEY_NAME, read_result, signing_key, write_result
from silhouette_shared.errors import UnavailableError, UsageError
from silhouette_shared.privacy.audit.result import fingerprint


def public(path: Path, *, make: bool = False) -> str:
    return fingerprint(signing_key(path, make=make).public_key())


def test_the_first_audit_makes_a_key_and_the_next_one_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / KEY_NAME
    made = public(path, make=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public(path, make=True) == public(path) == made
    assert [file.name for file in path.parent.iterdir()] == [KEY_NAME]


def test_a_key_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the auditor's key, found none"):
        signing_key(tmp_path / "none.pem", make=False)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / KEY_NAME
    signing_key(path, make=True)
    path.chmod(0o640)
    with pytest.raises(UsageError, match=r"expected a key for its owner alone \(mode 600\), got mode 640"):
        signing_key(path, make=True)


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / KEY_NAME
    path.write_text("no key")
    with pytest.raises(UsageError, match="expected an Ed25519 key in PEM"):
        signing_key(path, make=True)
    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    with pytest.raises(UsageError, match="expected an Ed25519 key, got one of another kind"):
        signing_key(path, make=True)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="expected a key that can be read"):
        signing_key(path, make=False)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path / "a" / "result.json", "{}\n")
    assert read_result(tmp_path / "a" / "result.json") == "{}\n"
    with pytest.raises(UsageError, match="expected an audit result, found none"):
        read_result(tmp_path / "none.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match="expected an audit result that can be read"):
        read_result(tmp_path / "bytes")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="expected to write it, got"):
        write_result(tmp_path / "file" / "result.json", "{}")


def test_a_digest_of_code_changes_with_a_byte_a_name_and_a_boundary(tmp_path: Path) -> None:
    def tree(**files: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, content in files.items():
            path = folder / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (folder / "notes.txt").write_text(str(folder))  # no code
        return _digest(folder)

    first = tree(a="x", b="y")
    assert tree(b="y", a="x") == first
    others = [tree(a="x", b="z"), tree(a="x", c="y"), tree(a="xb", b=""), tree(a="x"), tree(a="x", s__b="y")]
    assert len({first, *others}) == 6


def test_the_code_of_both_packages_that_a_partner_installs_is_named() -> None:
    found = code_digests()
    assert set(found) == set(PACKAGES) == {"silhouette_client", "silhouette_shared"}
    assert all(len(digest) == 64 for digest in found.values())
    assert code_digests() == found
