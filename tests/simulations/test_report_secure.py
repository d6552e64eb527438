"""The report says what secure aggregation cost, and stays silent about it where there was none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tests.simulations.run_folders import plan_for, rewrite_csv, write_run_folder

from silhouette_shared.config import Aggregation
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_simulations.report.page import render
from silhouette_simulations.report.reading import read_run
from silhouette_simulations.report.secure import secure_summary
from silhouette_simulations.run_folder import SECURE_COLUMNS

FIVE = ("advertise", "share", "mask", "agree", "unmask")


def steps_of(row: str, number: int, names: tuple[str, ...], survivors: int = 5) -> list[list[object]]:
    return [[row, number, survivors, name, 0.1 * number, 1000 * number, 5000 * number, 1.5] for name in names]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of five partners: two rounds of five steps, two of three, one void."""
    made = write_run_folder(tmp_path / "run", plan=plan_for(aggregation=Aggregation(protocol="sa-1")))
    lines: list[list[object]] = [list(SECURE_COLUMNS)]
    lines += steps_of("federated", 1, FIVE) + steps_of("federated", 2, FIVE[2:])
    lines += steps_of("federated_private", 1, FIVE, survivors=4) + steps_of("federated_private", 3, FIVE[2:])
    rewrite_csv(made / "secure-steps.csv", lines)
    with (made / "rounds.csv").open(encoding="utf-8") as file:
        rounds = list(csv.reader(file))
    rounds = [[*line[:2], "0", *line[3:]] if line[:2] == ["federated_private", "2"] else line for line in rounds]
    rewrite_csv(made / "rounds.csv", rounds)
    return made


def test_the_summary_counts_rounds_and_takes_medians_for_one_partner(folder: Path) -> None:
    found = secure_summary(read_run(folder))
    assert found is not None
    assert (found.five, found.three, found.void, found.fewest, found.partners) == (2, 2, 1, 4, 5)
    assert [one.step for one in found.steps] == list(FIVE)
    by_step = {one.step: one for one in found.steps}
    assert (by_step["share"].rounds, by_step["mask"].rounds) == (2, 4)
    assert by_step["mask"].sent == 1500 / 5, "the median of 1, 2, 1 and 3 thousand bytes to five partners"
    assert by_step["mask"].received == 7500 / 5
    assert by_step["mask"].seconds == pytest.approx(0.15)
    assert found.unevenness == 1.5


def test_the_page_shows_it(folder: Path) -> None:
    page = render(read_run(folder), ())
    for words in (
        "<h2>Secure aggregation</h2>",
        "2 rounds took five exchanges, 2 took three",
        "<strong>1 round was void</strong>",
        "at least 4 of 5 partners in the sum",
        "<td>300 B</td><td>1.5 kB</td><td>150 ms</td>",
        "It did not see",
        "by at most 1.5 standard deviations",
    ):
        assert words in page


def test_without_it_the_page_has_no_such_part(tmp_path: Path) -> None:
    run = read_run(write_run_folder(tmp_path / "run"))
    assert secure_summary(run) is None
    assert "Secure aggregation" not in render(run, ())


def test_a_missing_or_damaged_table_is_named(folder: Path) -> None:
    path = folder / "secure-steps.csv"
    path.write_text(path.read_text().replace("mask,0.1", "mask,soon"))
    with pytest.raises(IntegrityError, match=r"secure-steps\.csv:4: expected a number as seconds"):
        read_run(folder)
    path.unlink()
    with pytest.raises(UsageError, match=r"secure-steps\.csv"):
        read_run(folder)
