"""The report holds what the run folder says, is safe to open, and refuses what is damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.simulations.run_folders import EVALUATION, ROWS, WARNING, plan_for, write_run_folder

from silhouette_shared.cli import main
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.figures import Bar, Line, Reference, bar_chart, line_chart, ticks
from silhouette_simulations.report import write_report
from silhouette_simulations.report.findings import findings
from silhouette_simulations.report.reading import read_people, read_run

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
CHROMIUM = Path("/usr/bin/chromium")


class Checker(HTMLParser):
    """Collects tags, attributes and visible text, and notes a tag that does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def check(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    return checker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run_folder(tmp_path / "run", plan=plan_for())


@pytest.fixture
def report(folder: Path) -> Path:
    return write_report(folder)


def test_the_page_is_balanced_html_with_a_language_and_a_title(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    checker = check(report)
    assert checker.faults == []
    assert checker.open == []
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in text
    assert "<title>tiny, seed 0" in text


def test_the_page_loads_nothing_and_runs_nothing(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    checker = check(report)
    assert not re.search(r"https?://", text)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(checker.tags)
    names = {name for name, _ in checker.attributes}
    assert not {"src", "href", "srcset"} & names
    assert not [name for name in names if name.startswith("on")]
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_a_title_with_markup_is_shown_and_not_obeyed(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(&#39;no&#39;)&lt;/script&gt; &amp; Sons" in text
    assert "<script" not in text
    assert "<script>alert('no')</script> & Sons (1997)" in " ".join(check(report).words)


def test_every_picture_is_well_formed_named_and_drawn_for_both_widths(report: Path) -> None:
    pictures = re.findall(r"<svg.*?</svg>", report.read_text(encoding="utf-8"), flags=re.DOTALL)
    charts = 0
    for picture in pictures:
        root = ET.fromstring(picture)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root[0].tag == "title"
        assert root[0].text
        charts += root.get("class") == "chart"
    assert charts == 6  # rows, convergence and epsilon, wide and narrow
    assert len(pictures) == 6 + 4  # and four people's weights


def test_every_row_appears_with_its_numbers(folder: Path, report: Path) -> None:
    words = check(report).words
    for row in read_run(folder).rows:
        assert row.label in words
        assert f"{row.ndcg_at_10:.3f}" in words
        assert f"{row.ndcg_low:.3f} to {row.ndcg_high:.3f}" in words
        assert row.worst_partner in words
    for label, _ in ROWS.values():
        assert label in words


def test_warnings_and_the_note_are_given_word_for_word(report: Path) -> None:
    words = check(report).words
    assert WARNING in words
    assert EVALUATION in " ".join(words)
    assert "A quick look, weaker than simulations/experiments/ml-100k.toml." in words


def test_the_page_says_that_no_deployment_would_see_the_convergence(report: Path) -> None:
    assert "In a deployment nobody would see these numbers." in check(report).words


def test_only_an_accuracy_clearly_above_the_majority_rate_stands_out(report: Path) -> None:
    bold = re.findall(r"<strong>(0\.\d+)</strong>", report.read_text(encoding="utf-8"))
    assert set(bold) == {"0.790"}  # 0.79 for 0.71 of 200 people; not 0.33 for 0.34


def test_a_run_without_privacy_says_so_and_claims_no_epsilon(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", plan=plan_for(mode="none"))
    words = " ".join(check(write_report(folder)).words)
    assert "No privacy: simulation only." in words
    assert "Privacy was off" in words
    assert "Spent at every partner" not in words
    assert "Federated with privacy minus" not in words


def test_an_unfinished_run_is_called_that(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", state="running")
    assert "This run is not complete." in check(write_report(folder)).words


def test_many_partners_are_folded_away(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", people=120, partners=30)
    checker = check(write_report(folder))
    assert checker.faults == []
    assert "30 partners" in checker.words


def test_a_report_written_twice_is_the_same_and_leaves_no_other_file(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert {path.name for path in folder.iterdir()} == before | {"report.html"}


def test_a_refused_report_leaves_the_old_one(folder: Path, report: Path) -> None:
    before = report.read_bytes()
    (folder / "rows.csv").unlink()
    with pytest.raises(UsageError):
        write_report(folder)
    assert report.read_bytes() == before


def test_a_report_that_cannot_be_written_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name for path in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(folder)
    assert {path.name for path in folder.iterdir()} == before


def test_a_report_is_readable_by_whoever_may_read_the_folder(report: Path) -> None:
    assert report.stat().st_mode & stat.S_IRUSR
    usual = report.with_name("usual")
    usual.touch()
    assert report.stat().st_mode == usual.stat().st_mode


def test_a_private_row_below_popularity_is_called_that(tmp_path: Path) -> None:
    chances = {"popularity": 0.9, "federated_private": 0.02}
    folder = write_run_folder(tmp_path / "run", people=600, chances=chances)
    said = " ".join(one.sentence for one in findings(read_run(folder)))
    assert re.search(r"The private model is 0\.\d+ .* below showing everybody", said)


def test_a_private_row_above_popularity_is_called_that(tmp_path: Path) -> None:
    chances = {"popularity": 0.02, "federated_private": 0.9, "federated": 0.9}
    folder = write_run_folder(tmp_path / "run", people=600, chances=chances)
    said = " ".join(one.sentence for one in findings(read_run(folder)))
    assert re.search(r"The private model is 0\.\d+ .* above showing everybody", said)


def test_federation_that_loses_is_called_that(tmp_path: Path) -> None:
    chances = {"federated": 0.05, "local_only": 0.9}
    folder = write_run_folder(tmp_path / "run", people=600, chances=chances)
    said = " ".join(one.sentence for one in findings(read_run(folder)))
    assert "here federation loses 0." in said


def test_a_gain_inside_its_interval_is_not_claimed(tmp_path: Path) -> None:
    chances = {"federated": 0.5, "local_only": 0.5}
    folder = write_run_folder(tmp_path / "run", chances=chances)
    said = " ".join(one.sentence for one in findings(read_run(folder)))
    assert "no clear gain" in said
    assert "federation gains" not in said


def test_the_folder_is_read_as_it_was_written(folder: Path) -> None:
    run = read_run(folder)
    assert run.header.complete
    assert run.header.dataset == "ml-100k"
    assert run.header.partners == tuple((f"partner-{number}", 40) for number in range(5))
    assert [row.name for row in run.rows] == list(ROWS)
    assert [row.name for row in run.rows if row.private] == ["federated_private"]
    assert run.privacy.accountants == (("prv", 7.98), ("rdp", 8.71))
    assert run.privacy.curve[-1] == (60, 7.98)
    assert run.profiles_of == "federated_private"
    assert run.attributes[1].auc is None
    assert all(len(ranks.users) == 200 for ranks in run.ranks.values())


def test_people_are_the_median_of_different_partners(folder: Path) -> None:
    people = read_people(folder, [f"partner-{number}" for number in range(5)])
    assert [person.partner for person in people] == [f"partner-{number}" for number in range(4)]
    assert {person.events for person in people} == {20 + 7 * 20}  # the 21st of 40, of 20, 27, ...
    assert len(people[0].recent) == len(people[0].recommendations) == 10
    assert people[0].tags == ("Drama", "evening", "Film-Noir")
    assert [trait.name for trait in people[0].traits] == ["gender", "age"]
    assert people[0].weights[0] == ("activity", 0.31)


def test_one_partner_gives_different_people(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", partners=1)
    people = read_people(folder, ["partner-0"])
    assert len({person.user for person in people}) == len(people) == 4


def test_local_convergence_is_the_mean_over_people(folder: Path) -> None:
    text = (folder / "rounds.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("local_only/partner-4,20,")]
    assert len(lines) == 1
    without = text.replace(lines[0] + "\n", "")
    (folder / "rounds.csv").write_text(without, encoding="utf-8")
    page = write_report(folder).read_text(encoding="utf-8")
    chart = re.search(r"NDCG@10 against rounds.*?</svg>", page, flags=re.DOTALL)
    assert chart is not None
    line = re.search(r'class="line local_only" points="([^"]*)"', chart[0])
    assert line is not None
    assert len(line[1].split()) == 3  # rounds 5, 10 and 15: the last lacks a partner


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "plan.toml",
        "rows.csv",
        "rounds.csv",
        "partners.csv",
        "ranks.parquet",
        "attributes.csv",
        "privacy.json",
        "partners/partner-1/recent.parquet",
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UsageError, match=re.escape(str(folder / name))):
        write_report(folder)


@pytest.mark.parametrize("name", ["ranks.parquet", "partners/partner-0/profiles.parquet"])
def test_a_parquet_file_cut_in_the_middle_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(IntegrityError, match=f"{re.escape(str(path))}: expected a Parquet file"):
        write_report(folder)


def test_a_csv_line_that_is_cut_is_named(folder: Path) -> None:
    path = folder / "rows.csv"
    path.write_text(path.read_text(encoding="utf-8").rstrip()[:-8], encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"rows\.csv:8: expected 14 fields, got 13"):
        write_report(folder)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("hr_at_10,ndcg_at_10", "hr_at_10,other", r"rows\.csv:1: expected the columns ndcg_at_10"),
        ("popularity,Popularity,0.", "popularity,Popularity,x.", r"rows\.csv:2: expected a number"),
        ("popularity,Popularity,", "ease,Popularity,", "expected every row once"),
        ("popularity,Popularity,", "unknown,Popularity,", "expected ranks of the row unknown"),
    ],
)
def test_a_table_that_does_not_fit_is_named(folder: Path, before: str, after: str, message: str) -> None:
    path = folder / "rows.csv"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(IntegrityError, match=message):
        write_report(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", "{", r"run\.json:1: expected JSON"),
        ("run.json", "[]", r"run\.json: expected a JSON table"),
        ("run.json", '{"name": 3}', "expected a text as name, got 3"),
        ("privacy.json", '{"mode": "local"}', "expected a number as epsilon, got nothing"),
        ("privacy.json", '{"mode": "none", "curve": 3}', "expected a list of tables as curve"),
    ],
)
def test_a_document_that_does_not_fit_is_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError, match=message):
        write_report(folder)


def test_the_plan_of_another_run_is_refused(folder: Path) -> None:
    other = write_run_folder(folder.parent / "other", plan=plan_for(seed=5))
    shutil.copy(other / "plan.toml", folder)
    with pytest.raises(IntegrityError, match=r"plan\.toml: expected the plan"):
        write_report(folder)


def test_a_partner_name_that_leaves_the_folder_is_refused(folder: Path) -> None:
    document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    document["partners"]["../../elsewhere"] = 3
    (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(IntegrityError, match="expected names of folders"):
        write_report(folder)


def test_a_person_twice_in_a_row_is_refused(folder: Path) -> None:
    table = pq.read_table(folder / "ranks.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), folder / "ranks.parquet")
    with pytest.raises(IntegrityError, match="expected every person once in the row popularity"):
        write_report(folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json: expected this file of a run folder"):
        write_report(tmp_path)
    with pytest.raises(UsageError, match="nowhere: expected the folder of a run"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("high", "expected"),
    [
        (0.094, (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)),
        (8.0, (0.0, 2.0, 4.0, 6.0, 8.0)),
        (0.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (1e-6, (0.0, 2e-7, 4e-7, 6e-7, 8e-7, 1e-6)),
    ],
)
def test_ticks_are_round_and_cover_the_values(high: float, expected: tuple[float, ...]) -> None:
    assert ticks(0.0, high) == pytest.approx(expected)


def test_charts_of_nothing_but_zeros_are_drawn() -> None:
    flat = Line("federated", "Federated", ((1.0, 0.0),))
    for text in (
        line_chart([flat], title="a & b", x_label="Round", y_label="y"),
        bar_chart([Bar("ease", "<EASE>", 0.0, 0.0, 0.0)], title="t", x_label="x"),
    ):
        assert "nan" not in text
        ET.fromstring(text)


def test_higher_values_are_drawn_higher_and_longer() -> None:
    line = Line("federated", "Federated", ((1.0, 0.1), (2.0, 0.2)))
    root = ET.fromstring(line_chart([line], title="t", x_label="x", y_label="y"))
    drawn = root.find(".//polyline")
    assert drawn is not None
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in drawn.attrib["points"].split())
    assert x1 < x2
    assert y1 > y2
    bars = [Bar("ease", "a", 0.1, 0.05, 0.15), Bar("pooled", "b", 0.2, 0.1, 0.3)]
    root = ET.fromstring(bar_chart(bars, title="t", x_label="x", reference=Reference("popularity", 0.1)))
    one, two = (float(bar.attrib["width"]) for bar in root.iter("rect"))
    assert two == pytest.approx(2 * one, abs=0.02)


def test_the_command_prints_the_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert main(["sim", "report", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(folder / "report.html")}


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "report", str(tmp_path)]) == UsageError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "run.json: expected this file of a run folder" in captured.err


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_browser_shows_the_page(report: Path, tmp_path: Path) -> None:
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'b'}",
    ]
    shot = tmp_path / "shot.png"

    def browse(*more: str) -> str:
        finished = subprocess.run(
            [str(CHROMIUM), *options, *more, report.as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return finished.stdout

    dom = browse("--dump-dom")
    assert "What this run shows" in dom
    assert dom.count("<svg") == 10
    browse("--window-size=1200,2000", f"--screenshot={shot}")
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 50_000  # an empty page is a few kilobytes
