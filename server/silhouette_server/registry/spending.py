"""What a run has released when so many of its rounds have begun, as its plan fixes it."""

from __future__ import annotations

from functools import lru_cache

from silhouette_shared.config import Plan
from silhouette_shared.privacy.budget import Budget, budget_of
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.statement import Release


@lru_cache(maxsize=16)
def _budget(plan: Plan) -> Budget | None:
    return budget_of(plan)


_LARGEST = 2**24
"""Coordinates of a sum whose number is not known here: more than any has, and still next to nothing."""


def released(plan: Plan, begun: int, parameters: int) -> tuple[Release, ...]:
    """Every release so far, for the accountants; empty in mode `none`.

    A round that is void may have been charged, so every round that began counts.

    Args:
        plan: Of the run.
        begun: Rounds that have begun.
        parameters: Of the model; coordinates of a round's sum.
    """
    budget = _budget(plan)
    if budget is None:
        return ()
    found = []
    for name, mechanism in budget.parts.items():
        lattice = Grid.of(mechanism.clip_norm, plan.privacy.grid_bits)
        if name != "training":
            found.append(Release(name, mechanism.on_grid(lattice, _LARGEST)))
        elif begun:
            steps = begun * plan.privacy.local_steps
            found.append(Release(name, mechanism.after(steps).on_grid(lattice, parameters)))
    return tuple(found)
