"""Views of a history: parts of one person's own record, in its order, and nobody else's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import LENGTHS, generator, histories, plan

from silhouette_shared.config import with_changes
from silhouette_shared.errors import UsageError
from silhouette_shared.model.augmentation import Augmentation, augmented_batch, views_of
from silhouette_shared.model.histories import Batch, Histories

EVERYBODY = torch.arange(len(LENGTHS))
LENGTH = 8


def numbered(seed: int = 0) -> Histories:
    """Each person's item number is the event's place in the history, from 1."""
    made = histories(seed=seed)
    return replace(made, items=torch.cat([torch.arange(1, length + 1) for length in LENGTHS]))


def view(made: Histories, name: str = "view", **chances: float) -> Batch:
    return augmented_batch(made, EVERYBODY, LENGTH, Augmentation(**chances), generator(name))


def sequence(batch: Batch, row: int) -> list[int]:
    """Inputs and the last target of one person."""
    length = int(batch.lengths[row])
    last = int(batch.targets[row, length - 1])
    return batch.items[row, :length].tolist() + ([last] if last else [])


def test_without_any_it_is_the_ordinary_batch_bit_by_bit() -> None:
    made = histories(texts=3)
    ordinary = made.training_batch(EVERYBODY, LENGTH, generator("same"))
    for name, value in vars(view(made, "same")).items():
        assert torch.equal(value, getattr(ordinary, name))


def test_a_crop_is_one_stretch_of_at_least_half_the_window() -> None:
    shorter = 0
    for draw in range(30):
        batch = view(numbered(), f"crop {draw}", crop=1.0)
        for row, length in enumerate(LENGTHS):
            found = sequence(batch, row)
            assert found == list(range(found[0], found[0] + len(found)))
            window = min(length, LENGTH + 1)
            assert len(found) >= min(window, max(2, window / 2))
            shorter += len(found) < window
    assert shorter > 30


def test_masking_leaves_out_the_given_share_and_never_the_last_event() -> None:
    kept = whole = 0
    for draw in range(60):
        batch = view(numbered(), f"mask {draw}", mask=0.3)
        ordinary = view(numbered(), f"mask {draw}", mask=1e-12)
        for row in range(len(LENGTHS)):
            found, window = sequence(batch, row), sequence(ordinary, row)
            assert found == sorted(found)
            assert set(found) <= set(window)
            assert found[-1] == window[-1]
            kept, whole = kept + len(found) - 1, whole + len(window) - 1
    assert kept / whole == pytest.approx(0.7, abs=0.05)
    gone = view(numbered(), mask=1.0)
    assert [len(sequence(gone, row)) for row in range(len(LENGTHS))] == [1] * len(LENGTHS)


def test_reordering_moves_a_short_stretch_and_keeps_the_times_in_order() -> None:
    moved = 0
    for draw in range(30):
        batch = view(numbered(), f"order {draw}", reorder=1.0)
        for row, length in enumerate(LENGTHS):
            found = sequence(batch, row)
            assert sorted(found) == list(range(min(found), min(found) + min(length, LENGTH + 1)))
            wrong = [place for place, item in enumerate(found) if item != min(found) + place]
            assert not wrong or wrong[-1] - wrong[0] < max(2, 0.2 * len(found) + 1)
            moved += bool(wrong)
        assert torch.equal(batch.gaps, view(numbered(), f"order {draw}", reorder=1e-12).gaps)
    assert moved > 30


@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_a_persons_view_does_not_change_with_anybody_elses_record_nor_length(row: int) -> None:
    """Bit by bit: as many numbers are drawn for everybody."""
    own = histories()
    others = histories([length if place == row else 20 - length for place, length in enumerate(LENGTHS)], seed=9)
    start, end = own.offsets[row : row + 2].tolist()
    place = int(others.offsets[row])
    parts = {}
    for name in ("items", "behaviours", "values", "timestamps"):
        value = getattr(others, name).clone()
        value[place : place + end - start] = getattr(own, name)[start:end]
        parts[name] = value
    mixed = replace(others, **parts)
    one, other = (view(made, crop=0.7, mask=0.3, reorder=0.7) for made in (own, mixed))
    length = int(one.lengths[row])
    assert length == int(other.lengths[row])
    for name in ("items", "behaviours", "values", "hours", "weekdays", "gaps", "targets"):
        assert torch.equal(getattr(one, name)[row, :length], getattr(other, name)[row, :length])


def test_a_plan_says_how_often_and_a_chance_above_one_is_refused() -> None:
    training = with_changes(plan(), {"training.crop": 0.5, "training.mask": 0.1}).training
    assert views_of(training) == Augmentation(crop=0.5, mask=0.1)
    assert not views_of(plan().training).on
    with pytest.raises(UsageError, match=r"training\.reorder: expected a number from 0 to 1, got 1\.5"):
        with_changes(plan(), {"training.reorder": 1.5})
