"""The root command: what it prints where, which code it ends with, what a broken plugin does."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from silhouette_shared import cli, doctor
from silhouette_shared.errors import (
    IntegrityError,
    RefusedError,
    SilhouetteError,
    UnavailableError,
    UsageError,
)

Raise = Callable[[BaseException], int]


def entry_point(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name=name, value=value, group=cli.COMMAND_GROUP)


@pytest.fixture
def nouns(monkeypatch: pytest.MonkeyPatch) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points the root sees; empty until a test adds some."""
    points: dict[str, importlib.metadata.EntryPoint] = {}
    monkeypatch.setattr(cli, "_entry_points", lambda: points)
    return points


@pytest.fixture
def fail(
    nouns: dict[str, importlib.metadata.EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Raise]:
    """Run a plugin's command that raises what it is given; returns the exit code."""
    module = tmp_path / "planted_failure.py"
    module.write_text(
        "import typer\nnoun = typer.Typer()\nerror = None\n@noun.command()\ndef command() -> None:\n    raise error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    nouns["planted"] = entry_point("planted", "planted_failure:noun")

    def run(error: BaseException, *options: str) -> int:
        planted = importlib.import_module("planted_failure")
        vars(planted)["error"] = error
        return cli.main([*options, "planted"])

    yield run
    sys.modules.pop("planted_failure", None)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (SilhouetteError, 1),
        (UsageError, 2),
        (RefusedError, 3),
        (UnavailableError, 4),
        (IntegrityError, 5),
    ],
)
def test_an_explained_error_is_one_plain_line_and_its_exit_code(
    fail: Raise, capsys: pytest.CaptureFixture[str], kind: type[SilhouetteError], code: int
) -> None:
    message = "plan.toml:3: expected a number in [0, 1], got [red]2[/red]; change `rate`"
    assert fail(kind(message)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {message}\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_unavailable_and_names_the_file(
    fail: Raise, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert fail(OSError(number, "No space left on device", "/runs/rows.csv")) == 4
    assert capsys.readouterr().err == (
        "error: no space left on the device (writing /runs/rows.csv); free some and run the same command again\n"
    )


def test_a_full_disk_is_recognised_behind_another_error_and_in_the_words_of_rust(
    fail: Raise, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = ValueError("could not write")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert fail(wrapped) == 4
    assert fail(RuntimeError("I/O error: No space left on device (os error 28)")) == 4
    assert capsys.readouterr().err.count("no space left on the device") == 2


def test_an_unexpected_error_is_one_line_with_the_way_to_its_traceback(
    fail: Raise, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(ZeroDivisionError("division\nby zero")) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: unexpected ZeroDivisionError: division by zero\n")
    assert "silhouette --debug" in printed
    assert "Traceback" not in printed


def test_debug_prints_the_traceback_and_still_ends_with_the_line(
    fail: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(UsageError("expected a plan; give one"), "--debug") == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("error: expected a plan; give one\n")


def test_an_interrupt_ends_with_130(fail: Raise, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_a_command_chooses_its_exit_code(fail: Raise) -> None:
    assert fail(typer.Exit(3)) == 3
    assert fail(typer.Exit(0)) == 0


@pytest.mark.parametrize("arguments", [["nonsense"], ["version", "--format", "xml"], ["--what"]])
def test_a_mistake_on_the_command_line_is_usage_and_goes_to_standard_error(
    nouns: object, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Error" in printed.err


def test_an_unknown_verb_is_answered_with_the_known_ones(
    nouns: dict[str, importlib.metadata.EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    nouns["planted"] = entry_point("planted", "json:loads")
    cli.main(["nonsense"])
    printed = capsys.readouterr().err
    assert "version, doctor, planted" in " ".join(printed.replace("│", " ").split())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:noun", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such_name", "AttributeError"),
        ("json:loads", "TypeError: expected a typer.Typer, got function"),
    ],
)
def test_a_broken_plugin_is_named_with_its_reason_and_spoils_no_other_verb(
    nouns: dict[str, importlib.metadata.EntryPoint],
    capsys: pytest.CaptureFixture[str],
    value: str,
    reason: str,
) -> None:
    nouns["broken"] = entry_point("broken", value)
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr()
    assert "version" in printed.out
    assert f"cannot load `broken` ({value})" in printed.err
    assert reason in printed.err

    assert cli.main(["version"]) == 0
    assert capsys.readouterr().err == ""

    assert cli.main(["broken", "verb", "--help"]) == 4
    assert f"error: cannot load `broken` ({value})" in capsys.readouterr().err


def test_a_plugin_cannot_take_the_place_of_a_verb_of_the_root(
    nouns: dict[str, importlib.metadata.EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    nouns["version"] = entry_point("version", "no_such_module:noun")
    assert cli.main(["version"]) == 0
    assert "silhouette-shared" in capsys.readouterr().out


def test_without_a_verb_the_help_is_shown_and_the_code_is_usage(
    nouns: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([]) == 2
    assert "Usage: silhouette" in capsys.readouterr().out


def test_version_as_json_holds_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["libraries"]["flwr"] == importlib.metadata.version("flwr")
    assert document["distributions"]["silhouette-client"] == "0.1.0"
    assert document["python"].startswith("3.")


def test_version_says_what_is_not_installed() -> None:
    assert cli._versions("no-such-distribution") == {"no-such-distribution": None}


def test_emit_prints_one_document_and_refuses_what_json_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.emit({"name": "Amélie", "rows": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"name": "Amélie", "rows": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        cli.emit({"value": float("nan")})
    assert capsys.readouterr().out == ""


def test_the_home_is_the_option_then_the_variable_then_a_folder_of_the_person(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SILHOUETTE_HOME", str(tmp_path))
    assert cli.silhouette_home() == tmp_path
    assert cli.silhouette_home(Path("elsewhere")) == Path("elsewhere")
    monkeypatch.setenv("SILHOUETTE_HOME", "")
    assert cli.silhouette_home() == Path.home() / ".silhouette"


def test_doctor_finds_this_machine_fit_and_says_how_to_get_the_optional_parts(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in document["checks"]}
    assert document["healthy"] is True
    assert checks["torch"]["state"] == "ok"
    assert "thread" in checks["torch"]["finding"]
    assert checks["ml-100k"] == {
        "name": "ml-100k",
        "state": "optional",
        "finding": "not in the cache; `silhouette sim run` fetches it",
        "remedy": "silhouette data get ml-100k",
    }

    manifest = home / "data" / "ml-100k" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    cli.main(["doctor"])
    assert "in the cache" in capsys.readouterr().out


def test_doctor_ends_with_4_and_a_remedy_when_the_home_is_not_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--home", str(tmp_path / "file" / "below")]) == 4
    printed = capsys.readouterr().out
    assert "missing" in printed
    assert "--home or SILHOUETTE_HOME" in printed


def test_doctor_changes_nothing(tmp_path: Path) -> None:
    cli.main(["doctor", "--home", str(tmp_path / "new")])
    assert list(tmp_path.iterdir()) == []


def test_doctor_asks_for_the_exact_version_of_what_is_relied_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "requirement_pins", lambda _: {"flwr": "9.9.9"})
    check = doctor._pinned("flwr")
    assert check.state is doctor.State.missing
    assert check.remedy == "pip install flwr==9.9.9"


def test_doctor_reports_a_library_that_cannot_be_imported() -> None:
    check = doctor._library("no_such_library")
    assert check.state is doctor.State.missing
    assert "No module named 'no_such_library'" in check.finding
    assert "requirements.txt" in check.remedy


def test_doctor_reports_too_little_memory_and_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_LEAST_MEMORY_GIB", 1e9)
    monkeypatch.setattr(doctor, "_LEAST_DISK_GIB", 1e9)
    assert doctor._memory().state is doctor.State.missing
    assert doctor._disk(tmp_path).state is doctor.State.missing


@pytest.mark.parametrize("heavy", ["torch", "flwr", "pandas", "numpy", "scipy", "opacus", "ray"])
def test_help_starts_without_loading_anything_heavy(heavy: str) -> None:
    code = f"import sys; from silhouette_shared.cli import main; main(['--help']); sys.exit({heavy!r} in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert finished.returncode == 0, f"`silhouette --help` imports {heavy}"


def test_a_closed_pipe_ends_quietly() -> None:
    code = "from silhouette_shared.cli import main; raise SystemExit(main(['version']))"
    finished = subprocess.run(
        f'"{sys.executable}" -c "{code}" | true',
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in finished.stderr
    assert "BrokenPipe" not in finished.stderr
