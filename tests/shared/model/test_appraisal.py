"""The federated evaluation's vector: one place for each partner, read back to the exact figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silhouette_shared.model.appraisal import Appraised, Sheet, read_appraisal
from silhouette_shared.model.figures import mean_of

NAMES = ("east", "north", "south")


def filled(sheet: Sheet, cells: dict[str, list[float]]) -> np.ndarray:
    """The sum without noise of partners with these cells."""
    total = np.zeros(sheet.size)
    for name, values in cells.items():
        total[sheet.place(name)] = np.array(values) * sheet.weight
    return total


def means(found: Appraised, cell: str) -> dict[str, float | None]:
    return {name: None if (one := mean_of(part, cell)) is None else one[0] for name, part in found.apart.items()}


@pytest.mark.parametrize("models", [1, 2])
def test_places_do_not_meet_and_a_full_person_has_norm_one(models: int) -> None:
    sheet = Sheet(NAMES, models)
    taken = [number for name in NAMES for number in range(*sheet.place(name).indices(sheet.size))]
    assert taken == list(range(sheet.size))
    assert math.sqrt(len(sheet.cells)) * sheet.weight == pytest.approx(1.0)


def test_figures_are_those_of_each_partner_and_of_all_who_are_counted() -> None:
    sheet = Sheet(NAMES, 2)
    cells = {
        "east": [30.0, 12.0, 100.0, 25.0, 10.0],
        "north": [10.0, 4.0, 50.0, 20.0, 9.0],
        "south": [0.0, 0.0, 0.0, 0.0, 0.0],  # dropped out
    }
    found = read_appraisal(sheet, filled(sheet, cells), 0.1, ("east", "north"))
    assert found.beside
    assert sorted(found.apart) == ["east", "north"]
    assert means(found, "ndcg") == pytest.approx({"east": 0.12, "north": 0.08})
    assert means(found, "ndcg beside") == pytest.approx({"east": 0.10, "north": 0.18})
    overall = mean_of(found.together, "hits")
    assert overall is not None
    assert overall[0] == pytest.approx(40 / 150)
    worst = found.worst()
    assert worst is not None
    assert worst[0] == pytest.approx(0.08)
    other = found.worst("ndcg beside")
    assert other is not None
    assert other[0] == pytest.approx(0.10), "the worst partner of the other model is another one"
    # The noise of the sum over two places is that of one, times the square root of two.
    assert found.together.cells[0].noise == pytest.approx(math.sqrt(2) * found.apart["east"].cells[0].noise)
    assert found.apart["east"].cells[0].noise == pytest.approx(0.1 * math.sqrt(5))


def test_where_noise_leaves_nobody_at_a_partner_no_worst_one_is_told() -> None:
    sheet = Sheet(NAMES)
    cells = {"east": [3.0, 1.0, 10.0], "north": [1.0, 0.5, -0.4], "south": [3.0, 1.0, 10.0]}
    found = read_appraisal(sheet, filled(sheet, cells), 0.1, NAMES)
    assert not found.beside
    assert found.worst() is None
    assert mean_of(found.together, "ndcg") is not None
    assert read_appraisal(sheet, np.zeros(sheet.size), 0.1, ()).worst() is None


@pytest.mark.parametrize(("partners", "models"), [((), 1), (NAMES, 0), (NAMES, 3)])
def test_a_sheet_without_places_is_refused(partners: tuple[str, ...], models: int) -> None:
    with pytest.raises(ValueError, match="expected partners and 1 or 2 models, got"):
        Sheet(partners, models)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 100)), min_size=1, max_size=6))
def test_the_worst_is_the_least_of_all_and_the_whole_lies_between(rows: list[tuple[float, float, float]]) -> None:
    names = tuple(f"partner-{number}" for number in range(len(rows)))
    sheet = Sheet(names)
    found = read_appraisal(sheet, filled(sheet, dict(zip(names, map(list, rows), strict=True))), 0.0, names)
    each = [ndcg / people for _, ndcg, people in rows]
    worst, overall = found.worst(), mean_of(found.together, "ndcg")
    assert worst is not None
    assert overall is not None
    assert worst[0] == pytest.approx(min(each), abs=1e-9)
    assert min(each) - 1e-9 <= overall[0] <= max(each) + 1e-9
