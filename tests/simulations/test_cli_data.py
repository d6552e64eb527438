"""`silhouette data`: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from silhouette_shared.cli import main


def test_get_prints_one_json_document(taobao_folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "taobao", "--from", str(taobao_folder), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["users"] == 2
    assert document["behaviours"] == {"purchase": 1, "view": 1, "cart": 1, "favourite": 1}
    assert document["held_out"] == 1
    assert (home / "data" / "taobao" / "manifest.json").is_file()
    assert main(["data", "describe", "taobao", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_home_may_be_given(taobao_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    arguments = ["data", "get", "taobao", "--from", str(taobao_folder), "--home", str(place)]
    assert main(arguments) == 0
    assert (place / "data" / "taobao").is_dir()


def test_describe_reads_well(lastfm_folder: Path, taobao_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "lastfm-2k", "--from", str(lastfm_folder)]) == 0
    assert "view 3" in capsys.readouterr().out
    assert main(["data", "get", "taobao", "--from", str(taobao_folder)]) == 0
    assert "2017-11-29" in capsys.readouterr().out


def test_list_says_what_there_is(taobao_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "get", "taobao", "--from", str(taobao_folder)])
    capsys.readouterr()
    assert main(["data", "list", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["datasets"]
    assert [row["name"] for row in rows] == ["ml-100k", "ml-1m", "lastfm-2k", "taobao"]
    assert [row["cached"] for row in rows] == [False, False, False, True]
    assert main(["data", "list"]) == 0
    assert "interactions.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "netflix"], 2, "expected a data set out of"),
        (["get", "taobao"], 2, "--from FOLDER"),
        (["describe", "ml-100k"], 2, "silhouette data get ml-100k"),
        (["get", "ml-1m", "--from", "nowhere"], 2, "nowhere/interactions.csv:1: expected"),
    ],
)
def test_a_refusal_is_one_line_and_its_exit_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert main(["data", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert not list(home.rglob("*.parquet"))


def test_a_wrong_checksum_ends_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(b"PK")
    assert main(["data", "get", "ml-100k", "--from", str(tmp_path)]) == 2
    assert "expected SHA-256" in capsys.readouterr().err


def test_help_imports_no_table_library() -> None:
    script = (
        "import sys; from silhouette_shared.cli import main; code = main(['data', '--help']);"
        "heavy = {'pandas', 'pyarrow', 'numpy', 'torch', 'flwr'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
