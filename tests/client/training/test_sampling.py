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
from silhouette_shared.errors import UsageError
from silhouette_shared.randomness import ReproducibleSource, SecureSource

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


class Repeatable:
    """Bytes that a seed fixes, for tests alone."""

    def __init__(self, *names: str | int) -> None:
        self._draw = ReproducibleSource(9).child(*names).numpy_generator()

    def bytes(self, count: int) -> bytes:
        return self._draw.bytes(count)


def memberships(kind: str) -> Tensor:
    """Who took part in each of many draws, shape (DRAWS, PEOPLE)."""
    secret, rate = Repeatable(kind), 1.1 * RATE if kind == "other rate" else RATE
    table = torch.zeros(DRAWS, PEOPLE)
    for row in table:
        if kind == "fixed size":  # everybody, of whom a fixed number is kept
            row[poisson_sample(PEOPLE, 1.0, secret, cap=round(RATE * PEOPLE))] = 1
        else:
            row[poisson_sample(PEOPLE, rate, secret)] = 1
    return table


@pytest.mark.parametrize("kind", ["poisson", "fixed size", "other rate"])
def test_samples_are_poisson_and_neither_of_fixed_size_nor_of_another_rate(kind: str) -> None:
    table = memberships(kind)
    mean = float(table.mean())
    right_rate = abs(mean - RATE) < 5 * math.sqrt(RATE * (1 - RATE) / table.numel())
    spread = float(table.sum(1).var()) / (PEOPLE * mean * (1 - mean))
    right_spread = abs(spread - 1) < 5 * math.sqrt(2 / DRAWS)
    assert (right_rate, right_spread) == {
        "poisson": (True, True),
        "fixed size": (True, False),
        "other rate": (False, True),
    }[kind]


def test_people_are_drawn_independently_of_one_another_and_of_the_draw_before() -> None:
    table = memberships("poisson") - RATE
    pairs = table.T @ table / DRAWS / (RATE * (1 - RATE))
    pairs.fill_diagonal_(0)
    assert float(pairs.abs().max()) < 5.5 / math.sqrt(DRAWS)
    following = (table[1:] * table[:-1]).mean(0) / (RATE * (1 - RATE))
    assert float(following.abs().max()) < 5 / math.sqrt(DRAWS)


def test_a_cap_keeps_everybody_with_the_same_probability_and_no_more_than_itself() -> None:
    secret, kept, cap = Repeatable("cap"), torch.zeros(PEOPLE), 5
    for _ in range(DRAWS):
        sample = poisson_sample(PEOPLE, RATE, secret, cap=cap)
        assert len(sample) <= cap
        assert sample.tolist() == sorted(set(sample.tolist()))
        kept[sample] += 1
    error = math.sqrt(cap / PEOPLE / DRAWS)
    assert float((kept / DRAWS - kept.mean() / DRAWS).abs().max()) < 5 * error
    assert float(kept.mean()) / DRAWS > 0.9 * cap / PEOPLE  # and the cap is used


def test_the_border_of_taking_part_is_exact() -> None:
    class Words:
        def bytes(self, count: int) -> bytes:
            words = [2**62 - 1, 2**62, 2**62 + 1]
            return b"".join(word.to_bytes(8, "little") for word in words)[:count]

    assert poisson_sample(3, 0.25, Words()).tolist() == [0]


def test_everybody_takes_part_at_rate_one_and_a_sample_may_be_empty() -> None:
    secret = SecureSource()
    assert poisson_sample(7, 1.0, secret).tolist() == list(range(7))
    assert poisson_sample(7, 1e-18, secret).tolist() == []
    assert poisson_sample(0, 0.5, secret, cap=1).tolist() == []


def test_two_secret_samples_are_not_the_same() -> None:
    secret = SecureSource()
    one, other = (poisson_sample(1000, 0.5, secret).tolist() for _ in range(2))
    assert one != other


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="expected a sampling rate above 0 and at most 1"):
        poisson_sample(10, rate, SecureSource())


def test_a_cap_below_one_person_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a batch cap of at least 1 person, got 0"):
        poisson_sample(10, 0.5, SecureSource(), cap=0)
