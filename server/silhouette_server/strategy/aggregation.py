"""Many updates to one."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatVector = npt.NDArray[np.float32]


def weighted_mean(updates: Mapping[str, FloatVector], weights: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Mean of the partners' updates, weighted by what the roster says, never by what an answer says.

    Summed in the order of the names, so that the order of arrival does not change the result.

    McMahan et al. 2017, Algorithm 1, https://arxiv.org/abs/1602.05629.

    Args:
        updates: By partner, each of shape (D,).
        weights: By partner, positive; those without an update are left out.

    Raises:
        ValueError: If there is no update, or one without a positive weight.
    """
    if not updates:
        raise ValueError("expected at least one update, got none")
    unweighted = [name for name in updates if weights.get(name, 0.0) <= 0]
    if unweighted:
        raise ValueError(f"expected a positive weight for every update, got none for {unweighted}")
    result = np.zeros(next(iter(updates.values())).shape, dtype=np.float64)
    weighted = np.empty_like(result)
    for name in sorted(updates):
        np.multiply(updates[name], weights[name], out=weighted, dtype=np.float64)
        result += weighted
    result /= sum(weights[name] for name in sorted(updates))
    return result
