"""Is an answer one that was agreed on? A bad answer costs itself, never the run."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_shared.errors import SilhouetteError

FloatVector = npt.NDArray[np.float32]


class InvalidReplyError(SilhouetteError):
    """An answer that does not count, with the reason."""


@dataclass(frozen=True)
class Expectation:
    """What every answer of a round has to be."""

    run: str
    round: int
    plan_digest: str
    size: int  # coordinates D
    limit: float  # largest magnitude of one coordinate


def check_update(
    expected: Expectation, *, run: str, round_number: int, plan_digest: str, update: FloatVector
) -> FloatVector:
    """Return the update (D,) if it is what was agreed on.

    Raises:
        InvalidReplyError: If it belongs to another run, round or plan, has another shape or type, is not finite or
            leaves the agreed range. The message names sizes, never a coordinate of the update.
    """
    if run != expected.run:
        raise InvalidReplyError("expected an answer of this run, got one of another")
    if round_number != expected.round:
        raise InvalidReplyError(f"expected an answer of round {expected.round}, got {round_number}")
    if plan_digest != expected.plan_digest:
        raise InvalidReplyError(f"expected plan {expected.plan_digest[:12]}, got {plan_digest[:12]}")
    if update.dtype != np.float32 or update.shape != (expected.size,):
        raise InvalidReplyError(f"expected {expected.size} float32 coordinates, got {update.dtype} of {update.shape}")
    # Extremes of a vector with a NaN are NaN: two passes see everything, without a copy of the vector.
    largest = max(float(update.max()), -float(update.min())) if expected.size else 0.0
    if not math.isfinite(largest):
        raise InvalidReplyError("expected finite coordinates, got infinite or undefined ones")
    if largest > expected.limit:
        raise InvalidReplyError(f"expected coordinates of at most {expected.limit}, got larger ones")
    return update
