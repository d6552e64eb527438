"""Without privacy everybody once; with privacy everybody by an own coin, which is what accounting assumes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.people import generator
from torch import Tensor

from silhouette_client.training.sampling import poisson_sample, shuffled_batches

PEOPLE, RATE, DRAWS = 40, 0.3, 4000


@given(st.lists(st.integers(1, 50), min_size=1, max_size=70), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_looks_at_everybody_once_in_batches_of_at_most_the_size(
    lengths: list[int], batch_size: int, stream: int
) -> None:
    batches = list(shuffled_batches(torch.tensor(lengths, dtype=torch.int64), batch_size, generator(stream)))
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_a_batch_holds_people_with_similar_histories() -> None:
    lengths = torch.randint(1, 500, (640,), generator=generator("lengths"))

    def padding(batches: list[Tensor]) -> int:
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)

    plain = list(torch.randperm(640, generator=generator("plain")).split(16))
    assert padding(list(shuffled_batches(lengths, 16, generator("sorted")))) < 0.3 * padding(plain)


def test_epochs_differ_and_the_order_of_batches_is_not_that_of_lengths() -> None:
    lengths, draw = torch.arange(1, 65), generator("order")
    first, second = (list(shuffled_batches(lengths, 8, draw)) for _ in range(2))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    means = torch.stack([lengths[batch].double().mean() for batch in first])
    assert not torch.equal(means, means.sort().values)


def test_equal_streams_give_equal_batches() -> None:
    lengths = torch.arange(1, 30)
    one, other = (list(shuffled_batches(lengths, 4, generator("same"))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def memberships(kind: str) -> Tensor:
    """Who took part in each of many draws, shape (DRAWS, PEOPLE)."""
    draw = generator("poisson", kind)
    table = torch.zeros(DRAWS, PEOPLE)
    for row in table:
        if kind == "shuffled":
            row[torch.randperm(PEOPLE, generator=draw)[: round(RATE * PEOPLE)]] = 1
        else:
            row[poisson_sample(PEOPLE, RATE if kind == "poisson" else 1.1 * RATE, draw)] = 1
    return table


@pytest.mark.parametrize("kind", ["poisson", "shuffled", "other rate"])
def test_samples_are_poisson_and_neither_shuffled_nor_of_another_rate(kind: str) -> None:
    table = memberships(kind)
    mean = float(table.mean())
    error = math.sqrt(RATE * (1 - RATE) / table.numel())
    right_rate = abs(mean - RATE) < 5 * error
    spread = float(table.sum(1).var()) / (PEOPLE * RATE * (1 - RATE))  # of the number of people drawn
    right_spread = abs(spread - 1) < 5 * math.sqrt(2 / DRAWS)
    assert (right_rate, right_spread) == {
        "poisson": (True, True),
        "shuffled": (True, False),  # a fixed size has no spread
        "other rate": (False, right_spread),
    }[kind]


def test_people_are_drawn_independently_of_one_another_and_of_the_draw_before() -> None:
    table = memberships("poisson") - RATE
    pairs = table.T @ table / DRAWS / (RATE * (1 - RATE))
    pairs.fill_diagonal_(0)
    assert float(pairs.abs().max()) < 5.5 / math.sqrt(DRAWS)
    following = (table[1:] * table[:-1]).mean(0) / (RATE * (1 - RATE))
    assert float(following.abs().max()) < 5 / math.sqrt(DRAWS)


def test_everybody_takes_part_at_rate_one_and_a_sample_may_be_empty() -> None:
    assert poisson_sample(7, 1.0, generator(0)).tolist() == list(range(7))
    assert poisson_sample(7, 1e-12, generator(0)).tolist() == []
    assert poisson_sample(0, 0.5, generator(0)).tolist() == []


@given(st.integers(0, 60), st.floats(0.01, 1), st.integers(0, 5))
def test_a_sample_is_ascending_and_names_nobody_twice(people: int, rate: float, stream: int) -> None:
    drawn = poisson_sample(people, rate, generator(stream)).tolist()
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(range(people))
