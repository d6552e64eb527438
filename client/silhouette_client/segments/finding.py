"""The people most like some seeds, with the lift of seeds that were held out. Calculation only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_client.segments.lookalike import SCORINGS, Lift, Scoring, described, held_out_lift, likeness
from silhouette_client.segments.people import PeopleTable
from silhouette_shared.errors import UsageError


@dataclass(frozen=True)
class Lookalikes:
    """Rows of a table that are most like the seeds, seeds themselves left out."""

    rows: npt.NDArray[np.int64]
    seeds: int  # that have a profile
    lift: Lift


def find_lookalikes(table: PeopleTable, seeds: Collection[bytes], scoring: str, share: float) -> Lookalikes:
    """Find them.

    Args:
        table: Everybody.
        seeds: HMACs; those without a profile count as not given.
        scoring: One of `lookalike.SCORINGS`.
        share: Of the people to take.

    Raises:
        UsageError: If there is no such scoring, or too few seeds have a profile.
    """
    chosen: Scoring | None = next((one for one in SCORINGS if one == scoring), None)
    if chosen is None:
        raise UsageError(f"expected a scoring out of {', '.join(SCORINGS)}, got {scoring[:40]!r}; choose one")
    place = {person: row for row, person in enumerate(table.people)}
    rows = sorted({place[person] for person in seeds if person in place})
    people = described(table)
    scores = likeness(people, rows, chosen)
    others = np.setdiff1d(np.arange(len(table)), rows)
    best = others[np.argsort(-scores[others], kind="stable")[: max(1, round(share * len(others)))]]
    return Lookalikes(best, len(rows), held_out_lift(people, rows, chosen, share))
