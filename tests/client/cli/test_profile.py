"""`silhouette profile`, `recommend` and `subject`, from a finished run to a receipt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.ledgers import NODE, charge
from tests.simulations.run_folders import write_run_folder

from silhouette_client.policy.ledger_store import LEDGER_NAME, Ledger
from silhouette_client.policy.witness import MemoryWitness
from silhouette_client.profiles.rights import check
from silhouette_client.profiles.vault import excluded, hold
from silhouette_client.serving.client import ProfileClient
from silhouette_shared.cli import main
from silhouette_shared.errors import IntegrityError, RefusedError
from silhouette_shared.privacy.ledger import Limits

USER = "1"  # at partner-0 of the made-up run


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> Done:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with 30 people at 5 partners."""
    folder = write_run_folder(tmp_path_factory.mktemp("runs") / "run", people=30)
    (folder / "model" / "card.json").write_text(json.dumps({"sha256": "ab" * 32}))
    return folder


@pytest.fixture
def built(call: Call, finished: Path) -> Path:
    done = call("profile", "build", "--run", finished, "--partner", "partner-0", "--format", "json")
    assert done.code == 0, done.err
    assert done.document == {
        "model": "ab" * 8,
        "written": 6,
        "unchanged": 0,
        "left_out": 0,
        "removed": 0,
        "expired": 0,
    }
    return Path(os.environ["SILHOUETTE_HOME"])


def test_a_partner_sees_the_profiles_of_a_finished_run(call: Call, built: Path, finished: Path) -> None:
    import pandas as pd

    row = pd.read_parquet(finished / "partners/partner-0/profiles.parquet").set_index("user").loc[USER]
    listed = pd.read_parquet(finished / "partners/partner-0/recommendations.parquet").query("user == @USER")
    shown = call("profile", "show", USER, "--format", "json").document
    assert shown["vector"] == pytest.approx(list(row["vector"]))
    assert shown["tags"] == list(row["tags"])
    assert shown["weights"]["rhythm"] == pytest.approx(row["weight_rhythm"])
    assert shown["traits"]["gender"]["value"] == row["gender"]
    items = call("recommend", USER, "--count", 3, "--format", "json").document["items"]
    assert [one["title"] for one in items] == list(listed.sort_values("position")["title"][:3])
    explained = call("profile", "explain", USER, "--format", "json").document
    shares = [part["share"] for part in explained["parts"]]
    assert shares == sorted(shares, reverse=True)
    assert set(explained["parts"][0]) == {"dimension", "share", "meaning"}
    for verb in (("profile", "show"), ("profile", "explain"), ("recommend",)):
        done = call(*verb, USER)
        assert (done.code, done.err) == (0, "")
        assert done.out.strip()


def test_the_page_of_a_profile_needs_no_network_and_escapes_what_it_shows(call: Call, built: Path) -> None:
    page = built / "page.html"
    assert call("profile", "show", USER, "--html", page).code == 0
    text = page.read_text()
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "<script" not in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert "Profile of 1" in text
    assert page.stat().st_mode & 0o077 == 0


def test_somebody_else_has_no_profile_and_nothing_is_made_by_looking(call: Call, built: Path, tmp_path: Path) -> None:
    done = call("profile", "show", "2")  # of partner-1
    assert (done.code, done.out) == (3, "")
    assert "expected a person with a profile, got one without" in done.err
    empty = tmp_path / "empty"
    done = call("profile", "show", USER, "--home", empty)
    assert done.code == 2
    assert "expected a profile store, found none; make one with `silhouette profile build`" in done.err
    assert not empty.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--partner", "partner-9"), "expected --partner to be one of partner-0, "),
        ((), "got none; name one"),
        (("--partner", "partner-0", "--keep", "vector"), "expected --keep FIELD=DAYS"),
        (("--partner", "partner-0", "--keep", "vectors=3"), "expected a positive time for one of vector"),
    ],
)
def test_a_wrong_build_is_refused_and_makes_nothing(
    call: Call, finished: Path, home: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = call("profile", "build", "--run", finished, *arguments)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert list(home.iterdir()) == []


def test_a_run_that_is_not_finished_is_refused(call: Call, tmp_path: Path) -> None:
    done = call("profile", "build", "--run", tmp_path)
    assert done.code == 2
    assert "expected a finished run with a model" in done.err


def test_a_suppressed_person_is_answered_nowhere_until_it_is_lifted(call: Call, built: Path, finished: Path) -> None:
    assert call("subject", "suppress", USER).code == 0
    assert call("profile", "show", USER).code == 3
    assert call("recommend", USER).code == 3
    assert excluded(built)(USER)
    assert not excluded(built)("6")
    exported = call("subject", "export", USER).document
    assert exported["excluded"] == "suppressed"
    assert exported["profile"]["tags"]
    again = call("profile", "build", "--run", finished, "--partner", "partner-0", "--format", "json")
    assert again.document["left_out"] == 1
    assert call("subject", "unsuppress", USER).code == 0
    assert call("profile", "show", USER).code == 0
    assert len(excluded(built)) == 0
    assert call("subject", "unsuppress", USER).code == 2


def test_an_erased_person_is_gone_blocked_and_has_a_signed_receipt(call: Call, built: Path, finished: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (built / "identity.key").write_bytes(key.private_bytes_raw())
    limits = Limits(epsilon_per_run=8.0, epsilon_per_year=12.0, delta=1e-5)
    with Ledger.open(built / LEDGER_NAME, node=NODE, limits=limits, witness=MemoryWitness()) as ledger:
        for number in (1, 2):
            ledger.charge(charge(number))
    refused = call("subject", "erase", USER)  # nobody answers the question
    assert refused.code == 1
    assert call("profile", "show", USER).code == 0
    done = call("subject", "erase", USER, "--yes", "--format", "json")
    assert done.code == 0, done.err
    receipt = done.document
    assert receipt["removed"]["fields"] == ["vector", "weights", "traits", "tags", "recommendations", "user"]
    assert receipt["removed"]["data_key"]
    (run,) = receipt["took_part_in"]
    assert (run["run"], run["releases"], run["delta"]) == ("run-1", 2, 1e-5)
    assert 0 < run["epsilon"] < 8
    assert f"e^{run['epsilon']:.2f}" in receipt["meaning"]
    assert check(receipt) == key.public_key().public_bytes_raw().hex()
    with pytest.raises(IntegrityError, match="expected a receipt with the signature of its signer"):
        check({**receipt, "time": "2020-01-01T00:00:00Z"})
    for verb in (("profile", "show"), ("profile", "explain"), ("recommend",)):
        assert call(*verb, USER).code == 3
    again = call("profile", "build", "--run", finished, "--partner", "partner-0", "--format", "json").document
    assert (again["written"], again["left_out"]) == (5, 1)
    assert call("profile", "show", USER).code == 3
    assert call("subject", "receipt", USER, "--format", "json").document == receipt
    assert call("subject", "erase", USER, "--yes", "--format", "json").document == receipt
    assert call("subject", "receipt", "6").code == 2
    text = call("subject", "receipt", USER).out
    assert "shredded" in text
    assert "run-1: 2 releases" in text
    (path,) = (built / "receipts").iterdir()
    path.write_text(path.read_text().replace('"releases": 2', '"releases": 1'))
    assert call("subject", "receipt", USER).code == 5


def test_runs_that_ended_before_the_persons_first_event_are_left_out(call: Call, built: Path) -> None:
    limits = Limits(epsilon_per_run=8.0, epsilon_per_year=12.0, delta=1e-5)
    with Ledger.open(built / LEDGER_NAME, node=NODE, limits=limits, witness=MemoryWitness()) as ledger:
        ledger.charge(charge(1))
    receipt = call("subject", "erase", USER, "--yes", "--since", "2999-01-01", "--format", "json").document
    assert receipt["took_part_in"] == []
    assert "no released model rests on them" in receipt["meaning"]


def test_verify_and_log_tell_who_touched_whom(call: Call, built: Path, tmp_path: Path) -> None:
    call("profile", "show", USER)
    (tmp_path / "witness").mkdir()
    found = call("profile", "verify", "--witness", tmp_path / "witness", "--format", "json").document
    assert (found["people"], found["excluded"]) == (6, 0)
    entries = call("profile", "log", "--user", USER, "--format", "json").document["entries"]
    assert [entry["method"] for entry in entries] == ["build", "show"]
    assert all(entry["who"].startswith("cli:") for entry in entries)
    log = built / "profile-audit.log"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    done = call("profile", "verify", "--witness", tmp_path / "witness")
    assert done.code == 5
    assert "it was cut or replaced" in done.err


def test_keys_under_a_passphrase_are_rotated_and_lost_keys_are_an_integrity_error(
    call: Call, finished: Path, home: Path, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("correct horse\n")
    wrong.write_text("other\n")
    build = ("profile", "build", "--run", finished, "--partner", "partner-0")
    assert call(*build, "--protect", "--passphrase-file", right).code == 0
    assert call("profile", "show", USER, "--passphrase-file", right).code == 0
    done = call("profile", "show", USER, "--passphrase-file", wrong)
    assert (done.code, done.out) == (4, "")
    assert "expected the passphrase of the profile keys, got another; nothing was changed" in done.err
    with hold(home, exclusive=False):
        done = call("profile", "rotate", "--passphrase-file", right)
        assert done.code == 2
        assert "got a service or a rotation; stop it first" in done.err
    assert call("profile", "rotate", "--passphrase-file", right, "--format", "json").document == {"rewrapped": 6}
    assert call("profile", "show", USER, "--passphrase-file", right).code == 0
    (home / "profiles.key").unlink()
    done = call("profile", "show", USER, "--passphrase-file", right)
    assert done.code == 5
    assert "put them back from where they are kept" in done.err
    with pytest.raises(IntegrityError):
        excluded(home)


def test_a_store_that_is_gone_is_not_an_empty_one(call: Call, built: Path, finished: Path) -> None:
    (built / "profiles.sqlite").unlink()
    done = call("profile", "build", "--run", finished, "--partner", "partner-0")
    assert done.code == 5
    assert "expected the store that the audit log tells of, found none" in done.err
    with pytest.raises(IntegrityError, match="with its exclusion list, found none"):
        excluded(built)


def test_the_command_serves_over_its_socket_until_stopped(call: Call, built: Path) -> None:
    (built / "serving.toml").write_text('[clients.local]\nroles = ["tags"]\n')
    service = subprocess.Popen(
        [sys.executable, "-c", "from silhouette_shared.cli import main; raise SystemExit(main())", "profile", "serve"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stderr is not None
        assert service.stderr.readline().startswith("answering on")
        with ProfileClient.on_socket(built / "profiles.sock", 60) as client:
            assert client.recommend(USER).items
            assert not client.profile(USER).vector
            assert call("subject", "erase", USER, "--yes").code == 0  # beside the running service
            with pytest.raises(RefusedError, match="got one without"):
                client.profile(USER)
        service.send_signal(signal.SIGTERM)
        assert service.wait(120) == 0
    finally:
        service.kill()
        service.wait()
    assert not (built / "profiles.sock").exists()
