"""A run without secure aggregation is not asked for a sum under it. What sums are: `test_secure`, `test_analytics`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.server.coordination.grids import FakeGrid
from tests.server.coordination.test_released import JOB, ONCE

from silhouette_server.coordination.analytics import evaluate, release
from silhouette_server.coordination.cohort import Cohort
from silhouette_server.coordination.released import ReleasedSums

ASKING: dict[str, Callable[[Cohort, ReleasedSums], object]] = {
    "a figure": lambda cohort, released: release("pace", cohort, released),
    "the evaluation": lambda cohort, released: evaluate(torch.zeros(5), cohort, released),
    "a sum": lambda cohort, released: cohort.sum_once("popularity", ONCE, 5, {}, released),
}


@pytest.mark.parametrize("what", ASKING)
def test_without_secure_aggregation_nobody_is_asked_and_no_attempt_is_used_up(what: str) -> None:
    grid, released = FakeGrid({}), ReleasedSums(JOB)
    with pytest.raises(ValueError, match="expected a run under secure aggregation, got one without"):
        ASKING[what](Cohort(JOB, grid, (), None), released)
    assert grid.sent == []
    assert released.state() == {}
