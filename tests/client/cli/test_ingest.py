"""`silhouette node ingest` and what goes with it: documents for programs, lines for people, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.client.ingest.shop_files import MAPPING, write

from silhouette_shared.cli import main


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    return write(tmp_path / "events.csv", "u1,a,view,10,", "u1,b,view,20,", "u2,a,zap,30,", "u2,<b>,view,40,")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["node", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--format", "json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_table_goes_in_and_is_reported(table: Path, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    (table.parent / "items.txt").write_text("a\nb\nc\n", encoding="utf-8")
    page = table.parent / "page.html"
    options = ("--catalogue", str(table.parent / "items.txt"), "--report", str(page))
    found = document(capsys, "ingest", "--mapping", str(table.parent / "mapping.toml"), *options, str(table))
    (file,) = found["files"]
    assert (file["name"], file["rows"], file["kept"]) == ("events.csv", 4, 3)
    assert file["bad"] == found["bad"] == {"word without a meaning in the mapping": 1}
    assert file["columns"]["behaviour"] == {"rows": 4, "missing": 0, "bad": 1}
    assert file["columns"]["value"] == {"rows": 4, "missing": 4, "bad": 0}
    assert (found["before"]["people"], found["after"]["people"]) == (0, 2)
    assert found["coverage"] == {
        "catalogue_items": 3,
        "items_with_events": 2,
        "events_outside": 1,
        "items_outside": 1,
    }
    assert json.loads((home / "node/people/report.json").read_text()) == found
    text = page.read_text(encoding="utf-8")
    assert text == (home / "node/people/report.html").read_text(encoding="utf-8")
    assert re.findall(r"https?:|<script|<link|src=", text) == []
    assert "word without a meaning in the mapping" in text
    again = document(capsys, "ingest", "--mapping", str(table.parent / "mapping.toml"), str(table))
    assert (again["files"], again["known"], again["before"]) == ([], ["events.csv"], found["after"])


def test_the_quarantine_names_places_and_no_values(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "ingest", "--mapping", str(table.parent / "mapping.toml"), str(table))
    code, out, err = run(capsys, "quarantine")
    assert (code, out) == (0, "events.csv:4: how: word without a meaning in the mapping\n")
    assert "1 rows in the quarantine, 1 shown" in err
    found = document(capsys, "quarantine")
    assert found["shown"] == [
        {"file": "events.csv", "table": "events", "line": 4, "column": "how", "reason": next(iter(found["reasons"]))}
    ]
    assert "zap" not in json.dumps(found)


def test_a_description_is_counts(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "describe")["people"] == 0
    run(capsys, "ingest", "--mapping", str(table.parent / "mapping.toml"), str(table))
    found = document(capsys, "describe")
    assert (found["people"], found["tables"]["events"], found["quarantine"]) == (2, 3, 1)
    code, out, _ = run(capsys, "describe")
    assert code == 0
    assert re.search(r"^people +2$", out, re.MULTILINE)


def test_bad_input_ends_with_usage(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ingest", "--mapping", str(table), str(table))
    assert (code, out) == (2, "")
    assert "expected TOML" in err
    code, _, err = run(capsys, "mapping", "suggest", str(table), "--table", "orders")
    assert code == 2
    assert "expected a table out of events, users" in err
    code, _, err = run(
        capsys, "ingest", "--mapping", str(table.parent / "mapping.toml"), str(table.parent / "none.csv")
    )
    assert code == 2
    assert "found nothing; check the path" in err


def test_a_suggestion_is_toml_on_standard_output(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    code, out, _ = run(capsys, "mapping", "suggest", str(table))
    assert code == 0
    assert tomllib.loads(out)["source"][0]["columns"]["timestamp"] == {"column": "at", "unit": "s"}
