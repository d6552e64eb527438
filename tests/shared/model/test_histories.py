"""A batch holds one person's own events a row, looks ahead only in its targets, and never into the next person."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.people import generator, histories, only
from torch import Tensor

from silhouette_shared.model.histories import GAP_BUCKETS, VALUE_BUCKETS, Batch, Histories, value_buckets

lengths_of_people = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def numbered(lengths: list[int]) -> Histories:
    """People whose items count up through all of them, so that an item names its event."""
    people = histories(lengths, items=100)
    return replace(people, items=torch.arange(1, sum(lengths) + 1))


def check_rows(people: Histories, rows: Tensor, batch: Batch) -> None:
    for row, person in enumerate(rows.tolist()):
        own = people.items[int(people.offsets[person]) : int(people.offsets[person + 1])].tolist()
        count = int(batch.lengths[row])
        items, targets = batch.items[row].tolist(), batch.targets[row].tolist()
        first = own.index(items[0])
        assert items[:count] == own[first : first + count]
        assert items[count:] == [0] * (len(items) - count)
        following = own[first + 1 : first + 1 + count]
        assert targets == following + [0] * (len(targets) - len(following))


@given(lengths_of_people, st.integers(1, 14), st.integers(0, 9), st.booleans())
def test_a_window_is_a_run_of_ones_own_events_and_its_targets_are_the_next_ones(
    lengths: list[int], length: int, stream: int, drawn: bool
) -> None:
    people = numbered(lengths)
    rows = torch.randperm(len(lengths), generator=generator("rows", stream))
    batch = people.training_batch(rows, length, generator("window", stream) if drawn else None)
    check_rows(people, rows, batch)
    own = people.lengths[rows]
    assert torch.equal(batch.lengths, (own - 1).clamp(min=1, max=length))
    # Everything that is read has a target, but for people with a single event.
    assert torch.equal((batch.targets > 0).sum(1), torch.where(own == 1, 0, batch.lengths))
    if not drawn:
        last = people.items[people.offsets[rows + 1] - 1]
        assert torch.equal(batch.targets.max(1).values, torch.where(own == 1, 0, last))


@given(lengths_of_people, st.integers(1, 14))
def test_a_batch_for_use_is_the_latest_events_with_nothing_to_predict_after_them(
    lengths: list[int], length: int
) -> None:
    people = numbered(lengths)
    rows = torch.arange(len(lengths))
    batch = people.batch(rows, length)
    check_rows(people, rows, batch)
    assert torch.equal(batch.lengths, people.lengths.clamp(max=length))
    last = batch.lengths[:, None] - 1
    assert torch.equal(batch.items.gather(1, last)[:, 0], people.items[people.offsets[1:] - 1])
    assert (batch.targets.gather(1, last) == 0).all()


def test_every_column_of_an_event_comes_along() -> None:
    people = histories()
    batch = people.batch(torch.tensor([3, 0]), 5)
    for name in ("items", "behaviours", "values"):
        column = getattr(people, name)
        for row, person in enumerate((3, 0)):
            end = int(people.offsets[person + 1])
            count = int(batch.lengths[row])
            assert getattr(batch, name)[row, :count].tolist() == column[end - count : end].tolist()
            assert (getattr(batch, name)[row, count:] == 0).all()
    assert torch.equal(batch.attributes, people.attributes[[3, 0]])
    assert torch.equal(batch.mask, batch.items > 0)


def test_windows_start_everywhere_alike() -> None:
    people = numbered([10])
    rows = torch.zeros(4000, dtype=torch.int64)
    first = people.training_batch(rows, 4, generator("starts")).items[:, 0] - 1
    counts = torch.bincount(first, minlength=6).double()
    assert len(counts) == 6  # four inputs and a target out of ten events
    expected = 4000 / 6
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 20.5  # chi-square with 5 degrees of freedom, one in a thousand
    skewed = counts + torch.tensor([150, 0, 0, 0, 0, -150])
    assert float(((skewed - expected) ** 2 / expected).sum()) > 20.5


def test_one_event_is_read_and_predicts_nothing() -> None:
    batch = numbered([3, 1, 2]).training_batch(torch.tensor([1]), 5, generator("one"))
    assert (batch.items.tolist(), batch.targets.tolist(), batch.lengths.tolist()) == ([[4]], [[0]], [1])


@given(st.lists(st.integers(3, 8), min_size=1, max_size=5), st.integers(0, 2))
def test_leaving_out_the_last_events_cuts_every_column_of_everybody(lengths: list[int], events: int) -> None:
    people = histories(lengths)
    cut = people.without_last(events)
    for person in range(len(lengths)):
        whole, part = only(people, [person]), only(cut, [person])
        kept = lengths[person] - events
        for name in ("items", "behaviours", "values", "timestamps"):
            assert getattr(part, name).tolist() == getattr(whole, name)[:kept].tolist()
    assert torch.equal(cut.attributes, people.attributes)
    assert cut.has_times == people.has_times


def test_nobody_is_left_without_events() -> None:
    """The first event of the next person would be read in their place."""
    with pytest.raises(ValueError, match="expected at least one event of every person"):
        histories([3, 1, 4]).without_last(1)
    with pytest.raises(ValueError, match="expected at least one event of every person"):
        histories([3, 0, 4])


def test_histories_that_do_not_fit_together_are_refused() -> None:
    people = histories([2, 3])
    with pytest.raises(ValueError, match="expected offsets from 0 to the number of events"):
        replace(people, offsets=torch.tensor([0, 2, 4]))
    with pytest.raises(ValueError, match="expected offsets from 0 to the number of events"):
        replace(people, offsets=torch.tensor([1, 2, 5]))
    with pytest.raises(ValueError, match="expected one row of attributes a person"):
        replace(people, attributes=people.attributes[:1])


def times(*seconds: int) -> Histories:
    people = histories([len(seconds)])
    return replace(people, timestamps=torch.tensor(seconds))


@given(st.lists(st.integers(-(10**9), 4 * 10**9), min_size=1, max_size=5))
def test_hours_and_weekdays_are_those_of_the_calendar_in_utc(seconds: list[int]) -> None:
    batch = times(*sorted(seconds)).batch(torch.tensor([0]), 9)
    moments = [datetime.fromtimestamp(second, UTC) for second in sorted(seconds)]
    assert batch.hours[0].tolist() == [moment.hour + 1 for moment in moments]
    assert batch.weekdays[0].tolist() == [moment.weekday() + 1 for moment in moments]


def test_gaps_are_buckets_of_doublings_from_the_event_before() -> None:
    batch = times(0, 0, 1, 3, 10, 10 + 3600, 2**40).batch(torch.tensor([0]), 9)
    # log2(gap + 1) rounded down, plus one; the first event has none before it.
    assert batch.gaps[0].tolist() == [0, 1, 2, 2, 4, 12, GAP_BUCKETS]


def test_the_first_gap_of_a_window_looks_at_the_event_before_the_window() -> None:
    people = times(0, 100, 101)
    assert people.batch(torch.tensor([0]), 2).gaps[0].tolist() == [7, 2]


def test_a_first_event_has_no_gap_to_the_person_before() -> None:
    assert histories([3, 4]).batch(torch.tensor([1]), 9).gaps[0, 0] == 0


def test_without_times_nothing_is_known_about_time() -> None:
    batch = histories(has_times=False).batch(torch.arange(7), 9)
    for name in ("hours", "weekdays", "gaps"):
        assert (getattr(batch, name) == 0).all()


def test_padding_is_zero_in_every_column() -> None:
    batch = histories().batch(torch.arange(7), 20)
    padding = ~batch.mask
    assert padding.any()
    for field in fields(Batch):
        column = getattr(batch, field.name)
        if column.shape == padding.shape:
            assert (column[padding] == 0).all(), field.name


def test_values_fall_into_quarter_doublings() -> None:
    values = [0, 0.18, 0.2, 1, 1.4, 2, 3, 4, 5, 7, 1e30, float("inf"), float("-inf"), float("nan"), -1]
    expected = [1, 1, 2, 5, 6, 7, 9, 10, 11, 13, VALUE_BUCKETS, 0, 0, 0, 0]
    assert value_buckets(torch.tensor(values, dtype=torch.float64)).tolist() == expected


@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=20))
def test_larger_values_never_fall_into_a_smaller_bucket(values: list[float]) -> None:
    buckets = value_buckets(torch.tensor(sorted(values), dtype=torch.float64))
    assert (buckets.diff() >= 0).all()
    assert int(buckets.min()) >= 1
    assert int(buckets.max()) <= VALUE_BUCKETS


def test_moving_to_a_device_keeps_everything() -> None:
    people = histories()
    moved = people.to(torch.device("cpu"))
    for field in fields(Histories):
        one, other = getattr(people, field.name), getattr(moved, field.name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
