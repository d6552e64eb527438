"""A process that nobody watches opens keys under a passphrase by the credential of its service manager alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.enrolled import House
from tests.profiles import KEYRING

from silhouette_client.cli.opening import passphrase
from silhouette_client.enrolment.checking import Outcome, examine
from silhouette_client.offers.people import IngestedPeople, pack_for
from silhouette_client.profiles.credential import CREDENTIAL, FOLDER_VARIABLE
from silhouette_client.profiles.exclusions import Exclusion
from silhouette_client.profiles.keys import KEYS_NAME, KeyFile, Passphrase, read_keyring, write_keyring
from silhouette_client.profiles.store import STORE_NAME, ProfileStore
from silhouette_client.profiles.vault import excluded
from silhouette_shared.enrolment.refusals import CodedRefusalError
from silhouette_shared.errors import UnavailableError

CHEAP = {"memory_kib": 64, "iterations": 1, "lanes": 1, "salt": "00" * 16}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which systemd puts the credential; it is not there yet."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder / CREDENTIAL


def protected(home: Path) -> Path:
    """A home whose store and keys are under a passphrase, with one person suppressed."""
    home.mkdir(exist_ok=True)
    write_keyring(home / KEYS_NAME, KEYRING, Passphrase("correct horse", CHEAP))
    with ProfileStore.open(home / STORE_NAME, KEYRING) as store:
        store.exclude(KEYRING.pseudonym("anna"), Exclusion.suppressed)
    return home


def test_without_a_person_the_credential_opens_the_keys_and_its_first_line_is_the_passphrase(
    given: Path, tmp_path: Path
) -> None:
    home = protected(tmp_path / "home")
    with pytest.raises(UnavailableError, match=f"to a service as the systemd credential {CREDENTIAL}"):
        excluded(home)
    given.write_text("correct horse\nsomething else\n", encoding="utf-8")
    left_out = excluded(home)
    assert left_out("anna")
    assert not left_out("berta")
    given.write_text("wrong\n", encoding="utf-8")
    with pytest.raises(UnavailableError, match="expected the passphrase of the profile keys, got another"):
        excluded(home)
    given.write_bytes(b"\xff\xfe")
    with pytest.raises(UnavailableError, match="expected a passphrase as the first line, got UnicodeDecodeError"):
        excluded(home)


def test_a_round_is_refused_rather_than_trained_with_people_who_are_left_out(
    given: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = protected(tmp_path / "home")
    with pytest.raises(CodedRefusalError, match="people_tables") as caught:
        pack_for(IngestedPeople(home), {"i1": 1}, {}, "run-1")
    assert "passphrase" not in str(caught.value), "that is this partner's matter"
    assert "expected a passphrase, got none" in caplog.text
    given.write_text("correct horse\n", encoding="utf-8")
    caplog.clear()
    with pytest.raises(CodedRefusalError, match="people_tables"):
        pack_for(IngestedPeople(home), {"i1": 1}, {}, "run-1")
    assert "passphrase" not in caplog.text, "the keys are open, and what lacks now are people"


def test_a_command_takes_the_file_before_the_credential_and_the_credential_before_the_terminal(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def prompt(*_: object, confirmation_prompt: bool, **__: object) -> str:
        asked.append(confirmation_prompt)
        return "typed"

    monkeypatch.setattr("typer.prompt", prompt)
    assert passphrase(None) == "typed"
    given.write_text("handed over\n", encoding="utf-8")
    assert passphrase(None) == "handed over"
    file = tmp_path / "file"
    file.write_text("in a file\n", encoding="utf-8")
    assert passphrase(file) == "in a file"
    assert asked == [False]
    assert passphrase(None, confirm=True) == "typed", "a new one is chosen by a person"
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert passphrase(None) == "typed"
    assert asked == [False, True, False]


def test_node_check_says_whether_a_service_could_open_the_keys(given: Path, tmp_path: Path) -> None:
    house = House(tmp_path / "house")
    node = house.home("south")
    home = node.folder.parent

    def finding() -> tuple[Outcome, str, int]:
        (one,) = (one for one in examine(node, datetime.now(UTC)) if one.name == "profiles")
        return one.outcome, one.text, one.exit_code

    assert finding() == (Outcome.ok, "no keys yet: `silhouette profile build` makes them", 0)
    protected(home)
    outcome, text, _ = finding()
    assert outcome is Outcome.warning
    assert f"no credential {CREDENTIAL} is here" in text
    given.write_text("correct horse\n", encoding="utf-8")
    assert finding() == (Outcome.ok, "the keys open without a person, protected by passphrase", 0)
    given.write_text("wrong\n", encoding="utf-8")
    outcome, text, code = finding()
    assert (outcome, code) == (Outcome.failed, 4)
    assert "got another" in text
    write_keyring(home / KEYS_NAME, KEYRING, KeyFile())
    assert finding() == (Outcome.ok, "the keys open without a person, protected by their mode alone", 0)
    assert read_keyring(home / KEYS_NAME)[0] == KEYRING
