"""Each person adds one vector of norm at most one to a statistic, whatever the record."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.people import ITEMS, histories, only
from torch import Tensor

from silhouette_client.training import statistics
from silhouette_client.training.statistics import popularity_sum, transition_sum
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.pairs import pair_count, pair_numbers

ACTIVE = torch.tensor([7, 3, 11, 1, 20, 5, 2])
WINDOW = 4

Record = list[int]


def people(*records: Record) -> Histories:
    own = torch.tensor([len(record) for record in records])
    items = torch.tensor([item for record in records for item in record])
    nothing = torch.zeros(len(items), dtype=torch.int64)
    return Histories(
        items=items,
        behaviours=nothing,
        values=nothing,
        timestamps=nothing,
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), own.cumsum(0)]),
        attributes=torch.zeros(len(records), 0, dtype=torch.int64),
        has_times=False,
    )


def popularity(*records: Record) -> Tensor:
    return popularity_sum(people(*records), ITEMS).vector


def transitions(*records: Record) -> Tensor:
    return transition_sum(people(*records), ACTIVE, WINDOW, ITEMS).vector


def pair(first: int, second: int) -> int:
    place = {item: number for number, item in enumerate(ACTIVE.tolist())}
    return int(pair_numbers(torch.tensor(place[first]), torch.tensor(place[second]), len(ACTIVE)))


def slowly(record: Record) -> Tensor:
    """A person's transitions, written from the definition."""
    events: Record = []
    for item in record:
        if item in ACTIVE.tolist() and events[-1:] != [item]:
            events.append(item)
    vector = torch.zeros(pair_count(len(ACTIVE)), dtype=torch.float64)
    for late in range(len(events)):
        for early in range(max(0, late - WINDOW), late):
            if events[early] != events[late]:
                vector[pair(events[early], events[late])] += 1 / (late - early)
    norm = vector.norm()
    return vector / norm if norm > 0 else vector


records = st.lists(st.integers(1, ITEMS), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(record=records, others=st.lists(records, max_size=4))
def test_nobody_adds_more_than_norm_one_whoever_else_is_there(record: Record, others: list[Record]) -> None:
    for count in (popularity, transitions):
        before = count(*others) if others else torch.zeros_like(count(record))
        added = count(*others, record) - before
        assert float(count(record).norm()) <= 1.0
        assert float(added.norm()) <= 1.0 + 1e-9
        assert torch.allclose(added, count(record), atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(record=records)
def test_transitions_are_what_the_definition_says(record: Record) -> None:
    assert torch.allclose(transitions(record), slowly(record), atol=1e-9)


@pytest.mark.parametrize("count", [popularity, transitions])
def test_everything_done_a_hundred_times_adds_what_once_adds(count: object) -> None:
    record = [3, 7, 5, 19, 11, 2]
    often = [item for item in record for _ in range(100)]
    assert callable(count)
    assert torch.allclose(count(often), count(record), atol=1e-9)
    whole_again = count(record * 100)
    assert float(whole_again.norm()) <= 1.0


def test_popularity_is_one_over_the_root_of_a_persons_different_items() -> None:
    found = popularity([4, 9, 4, 1, 6], [4])
    assert math.isclose(float(found[4]), 0.5 + 1.0, rel_tol=1e-9)
    assert torch.nonzero(found).flatten().tolist() == [1, 4, 6, 9]
    assert math.isclose(float(found[1]), 0.5, rel_tol=1e-9)


def test_a_person_with_one_event_has_popularity_and_no_transition() -> None:
    assert math.isclose(float(popularity([8]).norm()), 1.0, rel_tol=1e-9)
    assert float(transitions([7]).abs().sum()) == 0.0
    assert float(transitions([8], [7]).abs().sum()) == 0.0


def test_people_with_long_histories_stay_within_the_bound() -> None:
    record = torch.randint(1, ITEMS + 1, (5000,), generator=torch.Generator().manual_seed(1)).tolist()
    for count in (popularity, transitions):
        assert 1 - 1e-9 < float(count(record).norm()) <= 1.0


def test_a_transition_never_spans_two_people() -> None:
    apart = transitions([7], [3])
    together = transitions([7, 3])
    assert float(apart.abs().sum()) == 0.0
    assert math.isclose(float(together[pair(7, 3)]), 1.0, rel_tol=1e-9)


def test_the_sum_is_the_same_however_many_people_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = histories((3, 9, 1, 12, 5, 2, 7) * 3)
    whole = transition_sum(everybody, ACTIVE, WINDOW, ITEMS).vector
    monkeypatch.setattr(statistics, "_PEOPLE_AT_ONCE", 2)
    assert torch.allclose(transition_sum(everybody, ACTIVE, WINDOW, ITEMS).vector, whole, atol=1e-12)
    parts = sum(transition_sum(only(everybody, [row]), ACTIVE, WINDOW, ITEMS).vector for row in range(len(everybody)))
    assert torch.allclose(torch.as_tensor(parts), whole, atol=1e-12)


def test_the_sum_says_which_bound_it_keeps() -> None:
    assert popularity_sum(histories(), ITEMS).clip_norm == 1.0
    assert transition_sum(histories(), ACTIVE, WINDOW, ITEMS).clip_norm == 1.0
