"""A person moves a figure by at most the bound, whatever the record; the cells and what is read from them are right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.people import encoder, histories, only, vocabulary

from silhouette_client.training.figures import bounded_sum, evaluation_rows, evaluation_sum, figure_sum
from silhouette_shared.config import FigureName
from silhouette_shared.model.appraisal import Sheet
from silhouette_shared.model.figures import (
    DAILY_EDGES,
    FIGURES,
    LENGTH_EDGES,
    QUANTILES,
    Cell,
    Released,
    mean_of,
    quantiles,
    read_figure,
)
from silhouette_shared.model.histories import Histories, value_buckets

WORDS = vocabulary()
SHEET = Sheet(("north",))
NAMES: tuple[FigureName, ...] = ("attributes", "behaviours", "lengths", "pace", "value")


def person(events: int, *, behaviour: int = 1, value: float = 3.0, days: int = 1, attributes: tuple[int, int] = (1, 2)):  # type: ignore[no-untyped-def]
    """One person with so many events."""
    return Histories(
        items=torch.arange(events) % 10 + 1,
        behaviours=torch.full((events,), behaviour),
        values=value_buckets(torch.full((events,), value)),
        timestamps=torch.arange(events) * 86_400 * days // events,
        offsets=torch.tensor([0, events]),
        attributes=torch.tensor([attributes]),
        has_times=True,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_person_with_a_thousand_events_moves_a_figure_by_no_more_than_the_bound(name: FigureName) -> None:
    for events in (1, 7, 1000):
        one = figure_sum(name, person(events), WORDS)
        assert one.clip_norm == 1.0
        assert float(one.vector.norm()) <= 1.0
        assert float(one.vector.norm()) >= 0.999, "and each person counts"


@pytest.mark.parametrize("name", NAMES)
def test_one_person_more_moves_a_sum_by_that_persons_own_row_whoever_else_is_there(name: FigureName) -> None:
    everybody = histories((4, 9, 2, 12, 5), seed=3)
    for left_out in range(5):
        fewer = only(everybody, [row for row in range(5) if row != left_out])
        alone = figure_sum(name, only(everybody, [left_out]), WORDS).vector
        moved = figure_sum(name, everybody, WORDS).vector - figure_sum(name, fewer, WORDS).vector
        assert torch.allclose(moved, alone, atol=1e-12)
        assert float(moved.norm()) <= 1.0 + 1e-12


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_no_row_whatever_is_in_it_passes_the_bound(rows: list[list[float]]) -> None:
    total = bounded_sum("evaluation", torch.tensor(rows, dtype=torch.float64), WORDS).vector
    assert bool(total.isfinite().all())
    assert float(total.norm()) <= len(rows) * (1 + 1e-12)


def test_a_row_that_is_too_long_is_scaled_and_the_check_would_notice_if_it_were_not() -> None:
    rows = torch.tensor([[30.0, 0.0, 40.0]])
    assert float(bounded_sum("evaluation", rows, WORDS).vector.norm()) == pytest.approx(1.0)
    assert float((rows * FIGURES["evaluation"].weight(WORDS)).norm()) > 28, "the planted wrong row"


def test_the_cells_are_the_ones_that_people_belong_to() -> None:
    def cells(name: FigureName, people: Histories) -> dict[str, float]:
        total = figure_sum(name, people, WORDS).vector.numpy()
        found = read_figure(name, WORDS, total, 0.0, 1)
        return {cell.name: round(cell.people, 6) for cell in found.cells if cell.people > 1e-9}

    (first, one), (second, other) = WORDS.attributes
    assert min(one, other) >= 2
    assert cells("attributes", person(3, attributes=(1, 2))) == {f"{first}/1": 1.0, f"{second}/2": 1.0}
    assert cells("attributes", person(3, attributes=(0, 2))) == {f"{first}/0": 1.0, f"{second}/2": 1.0}
    assert cells("behaviours", person(5, behaviour=6)) == {"purchase": 1.0}
    assert cells("behaviours", person(5, behaviour=0)) == {"unknown": 1.0}
    assert cells("lengths", person(60)) == {"from 50": 1.0}
    assert cells("lengths", person(5000)) == {"from 1000": 1.0}
    assert cells("pace", person(60, days=10)) == {"from 5": 1.0}
    assert cells("pace", replace(person(60), has_times=False)) == {}
    assert cells("value", person(9, value=3.0)) == {"from 3": 1.0}
    assert cells("value", person(9, value=math.nan)) == {}


def test_hits_and_gains_are_those_of_everybodys_newest_event() -> None:
    model = encoder(WORDS, scale=3.0)
    people = histories((6, 1, 9, 2), seed=5)
    one = evaluation_sum([evaluation_rows(model, people)], SHEET).vector * math.sqrt(3)
    assert one[2] == pytest.approx(3.0), "whoever has one event is not asked for"
    assert 0 <= float(one[1]) <= float(one[0]) <= 3 + 1e-9
    # By itself, person by person, the same; and each within the bound.
    parts = [evaluation_sum([evaluation_rows(model, only(people, [row]))], SHEET).vector for row in range(4)]
    assert torch.allclose(sum(parts) * math.sqrt(3), one)  # type: ignore[arg-type]
    assert all(float(part.norm()) <= 1.0 for part in parts)
    assert float(parts[1].norm()) == 0.0


def test_quantiles_are_the_bins_of_the_people() -> None:
    lengths = [1, 1, 4, 9, 9, 9, 25, 60, 600, 600, 2000]
    total = sum(figure_sum("lengths", person(length), WORDS).vector for length in lengths)
    found = read_figure("lengths", WORDS, total.numpy(), 0.0, 1)  # type: ignore[union-attr]
    assert [one.share for one in found.quantiles] == list(QUANTILES)
    assert [(one.low, one.high) for one in found.quantiles] == [
        (1.0, 2.0),
        (3.0, 5.0),
        (8.0, 12.0),
        (500.0, 1000.0),
        (500.0, 1000.0),
    ]
    assert quantiles(np.zeros(len(DAILY_EDGES)), DAILY_EDGES) == ()
    assert quantiles(np.full(len(LENGTH_EDGES), -3.0), LENGTH_EDGES) == ()


@given(st.lists(st.floats(-50, 200), min_size=len(LENGTH_EDGES), max_size=len(LENGTH_EDGES)))
def test_quantiles_of_any_noised_histogram_are_in_order(histogram: list[float]) -> None:
    found = quantiles(np.array(histogram), LENGTH_EDGES)
    lows = [one.low for one in found]
    assert lows == sorted(lows)
    assert len(found) in (0, len(QUANTILES))


def test_a_mean_has_the_noise_of_both_sums_and_is_none_without_people() -> None:
    def released(people: float) -> Released:
        cells = (Cell("hits", 30.0, 2.0), Cell("ndcg", 12.0, 2.0), Cell("people", people, 2.0))
        return Released("evaluation", cells, (), 3)

    value, noise = mean_of(released(100.0), "hits") or (0.0, 0.0)
    assert value == pytest.approx(0.3)
    assert noise == pytest.approx(math.hypot(2.0, 0.3 * 2.0) / 100)
    assert mean_of(released(-1.0), "ndcg") is None
