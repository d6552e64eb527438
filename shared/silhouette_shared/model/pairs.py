"""The coordinates of a transition statistic: unordered pairs of different active items, counted from 0.

The active items a < b at places 0..M - 1 have the number a * (2 M - a - 1) / 2 + b - a - 1: the upper triangle of an
M x M matrix, row by row.
"""

import torch
from torch import Tensor


def pair_count(active: int) -> int:
    """Pairs of `active` items."""
    return active * (active - 1) // 2


def pair_numbers(first: Tensor, second: Tensor, active: int) -> Tensor:
    """Numbers (E,) of the pairs of two different places each, in either order, shapes (E,).

    >>> pair_numbers(torch.tensor([0, 2, 2]), torch.tensor([1, 1, 0]), active=3).tolist()
    [0, 2, 1]
    """
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return low * (2 * active - low - 1) // 2 + high - low - 1


def pair_matrix(values: Tensor, active: int) -> Tensor:
    """The symmetric matrix (M, M) with `values` (pairs,) off its diagonal and zeros on it.

    Raises:
        ValueError: If there is another number of values.
    """
    if values.shape != (pair_count(active),):
        raise ValueError(f"expected {pair_count(active)} pairs of {active} items, got shape {tuple(values.shape)}")
    matrix = values.new_zeros(active, active)
    row, column = torch.triu_indices(active, active, 1)
    matrix[row, column] = values
    return matrix + matrix.T
