"""Help that reads well, a doctor that says what to do, and one JSON document wherever a result is printed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from tests.integration.desk import Desk, Reference

VERBS = [
    (),
    ("version",),
    ("doctor",),
    ("budget",),
    *(("budget", verb) for verb in ("show", "forecast", "verify")),
    ("data",),
    *(("data", verb) for verb in ("get", "list", "describe")),
    ("sim",),
    *(("sim", verb) for verb in ("run", "sweep", "compare", "report")),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_is_filled_to_the_terminal_and_shows_no_plumbing(
    desk: Desk, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 90)
    done = desk.here(*verb, "--help")
    assert done.code == 0
    assert "completion" not in done.out
    assert f"Usage: {' '.join(('silhouette', *verb))}" in done.out
    lines = [line.strip() for line in done.out.split("╭")[0].splitlines()]
    for line, following in pairwise(lines):
        if line and following:  # inside a paragraph: the next word did not fit
            assert len(line) + 1 + len(following.split()[0]) > 86, (line, following)
    assert done.err == ""


def test_the_exit_codes_are_in_the_help(desk: Desk) -> None:
    text = " ".join(desk.here("--help").out.split())
    assert "0 done, 1 unexpected, 2 usage, 3 refused by policy or budget, 4 unavailable" in text


def checks(desk: Desk, *arguments: object, script: str = "") -> tuple[int, dict[str, dict[str, str]]]:
    done = desk.call("doctor", "--format", "json", *arguments, script=script)
    return done.code, {check["name"]: check for check in done.document["checks"]}


MISSING_RAY = """
import importlib.metadata as metadata
version = metadata.version
def without_ray(name):
    if name == "ray":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without_ray
"""

OTHER_FLWR = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: "1.30.0" if name == "flwr" else version(name)
"""

BROKEN_OPACUS = """
import sys
sys.modules["opacus"] = None
"""


def test_a_missing_ray_is_optional_and_named_with_its_remedy(desk: Desk) -> None:
    code, found = checks(desk, script=MISSING_RAY)
    assert code == 0
    assert found["ray"]["state"] == "optional"
    assert found["ray"]["remedy"].startswith("pip install ray==")
    assert "--backend ray" in found["ray"]["finding"]
    assert found["ml-100k"]["state"] == "optional"
    assert found["ml-100k"]["remedy"] == "silhouette data get ml-100k"


def test_another_flwr_is_missing_and_the_right_one_named(desk: Desk) -> None:
    code, found = checks(desk, script=OTHER_FLWR)
    assert code == 4
    assert found["flwr"] == {
        "name": "flwr",
        "state": "missing",
        "finding": "1.30.0, expected 1.41.0",
        "remedy": "pip install flwr==1.41.0",
    }


def test_a_library_that_cannot_be_imported_is_missing(desk: Desk) -> None:
    code, found = checks(desk, script=BROKEN_OPACUS)
    assert code == 4
    assert found["opacus"]["state"] == "missing"
    assert "pip install -r requirements.txt" in found["opacus"]["remedy"]


def test_a_home_that_cannot_be_written_is_missing(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    # Root may write anywhere but where the kernel keeps its own files.
    for home in (tmp_path / "file", tmp_path / "file/home", Path("/proc/silhouette")):
        done = desk.here("doctor", "--home", home)
        assert done.code == 4
        lines = [line for line in done.out.splitlines() if line.startswith("missing")]
        assert lines[0].split()[1] == "home"
        assert str(home) in lines[0]
        assert "-> choose another folder with --home or SILHOUETTE_HOME" in done.out


def test_damaged_data_in_the_cache_are_not_called_fine_by_the_verbs_that_read_them(desk: Desk) -> None:
    assert desk.here("data", "describe", "ml-100k").code == 2
    assert "silhouette data get ml-100k" in desk.here("data", "describe", "ml-100k").err


@pytest.mark.parametrize(
    "arguments",
    [("version",), ("doctor",), ("data", "list"), ("data", "describe", "ml-1m")],
    ids=" ".join,
)
def test_json_is_one_document_on_standard_output(desk: Desk, arguments: tuple[str, ...]) -> None:
    done = desk.here(*arguments, "--format", "json")
    assert done.code == 0, done.err
    assert isinstance(json.loads(done.out), dict)
    assert done.err == ""


def test_json_of_a_run_read_again(desk: Desk, reference: Reference) -> None:
    for arguments in (("report", reference.folder), ("compare", reference.folder)):
        done = desk.here("sim", *arguments, "--format", "json")
        assert done.code == 0, done.err
        assert isinstance(done.document, dict)
