"""Pairs of active items have one number each, and the numbers are all there are."""

from __future__ import annotations

import pytest
import torch

from silhouette_shared.model.pairs import pair_count, pair_matrix, pair_numbers


@pytest.mark.parametrize("active", [2, 3, 7, 100])
def test_every_pair_has_its_own_number_in_either_order(active: int) -> None:
    row, column = torch.triu_indices(active, active, 1)
    numbers = pair_numbers(row, column, active)
    assert torch.equal(numbers, torch.arange(pair_count(active)))
    assert torch.equal(pair_numbers(column, row, active), numbers)


def test_a_matrix_holds_each_value_at_both_of_its_places() -> None:
    values = torch.arange(1.0, 7.0)
    matrix = pair_matrix(values, 4)
    first, second = torch.tensor([3, 0, 2]), torch.tensor([1, 2, 3])
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix[first, second], values[pair_numbers(first, second, 4)])
    assert float(matrix.diagonal().abs().sum()) == 0


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 6 pairs of 4 items, got shape \(5,\)"):
        pair_matrix(torch.zeros(5), 4)
