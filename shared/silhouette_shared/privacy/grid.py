"""The integer grid that a sum is rounded to before its noise.

On integers a masked sum cancels exactly, and noise that is rounded to integers is a post-processing of
continuous noise. Rounding moves every coordinate, and two neighbouring sums may move apart, so what the grid adds
to one person's influence is charged to the sensitivity before the noise (`SampledGaussian.on_grid`). Nothing is
rounded or clamped after the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_shared.errors import UsageError

_LARGEST = 2.0**40  # in steps; below it a float64 division misses the nearest integer by at most 2^-13 of a step
_DIVISION = 1 + 2.0**-12  # which twice, once for each of two neighbours, adds at most this to the rounding
_BLOCK = 1 << 16
_WRAP = 2.0**-40  # allowed probability that a noised sum leaves the ring


@dataclass(frozen=True)
class Grid:
    """Multiples of one step, in the units of the clip norm.

    Args:
        step: Distance of two neighbouring points; positive and finite.

    Raises:
        UsageError: If the step is neither.

    >>> grid = Grid.of(clip_norm=1.0, bits=2)
    >>> grid.encode([0.6, -1.0])
    array([ 2, -4])
    >>> grid.decode(grid.encode([0.6, -1.0]))
    array([ 0.5, -1. ], dtype=float32)
    """

    step: float

    def __post_init__(self) -> None:
        """Refuse what is no step."""
        if not 0 < self.step < math.inf:
            raise UsageError(f"expected a positive, finite step of the grid, got {self.step!r}; change it")

    @classmethod
    def of(cls, clip_norm: float, bits: int) -> Grid:
        """The grid with 2^bits steps to the clip norm."""
        return cls(clip_norm * 2.0**-bits)

    def rounding(self, size: int) -> float:
        """By how much rounding may move two neighbouring sums apart, in L2 norm and the clip norm's units.

        Each of the two moves by half a step a coordinate, and by the error of one division in float64.

        Args:
            size: Coordinates of the sum.
        """
        return self.step * math.sqrt(size) * _DIVISION

    def encode(self, total: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The nearest grid point of every coordinate.

        Args:
            total: A sum of clipped contributions, float32 or float64, shape (D,): an array, or a tensor on the CPU.

        Returns:
            In steps, shape (D,).

        Raises:
            ValueError: If a coordinate is not finite or is 2^40 steps or more; a sum of clipped contributions of
                fewer than 2^40 / 2^bits people is neither.
        """
        flat = np.asarray(total)
        points = np.empty(flat.shape, dtype=np.int64)
        for start in range(0, len(flat), _BLOCK):
            steps = flat[start : start + _BLOCK] / np.float64(self.step)
            # A NaN is not below anything, and `max` hands it on.
            if not float(np.abs(steps).max()) < _LARGEST:
                raise ValueError(
                    f"expected finite coordinates below 2^40 steps of {self.step:g}, got another; "
                    "clip every contribution before it is summed"
                )
            np.rint(steps, out=steps)
            points[start : start + _BLOCK] = steps
        return points

    def decode(self, points: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """What the grid points stand for, in the clip norm's units, shape (D,)."""
        return (points * self.step).astype(np.float32)


def float32_summing(people: int) -> float:
    """By how much adding up in float32 may move two neighbouring sums further apart, in L2 norm and clip norms.

    Every person adds to a coordinate at most once, so between what a person adds and the total lie at most n
    additions and two products, each with a relative rounding of 2^-24: a sum is off by at most (n + 2) 2^-24 times the
    sum of the magnitudes (Higham 2002, section 4.2), which over all coordinates has a norm of at most n clip norms.
    Each of the two neighbours may be off by that. No charge covers it; `plan price` and the privacy statement say what
    it is.

    Args:
        people: Largest sample of a step, n.

    >>> round(float32_summing(100), 5)
    0.00122
    """
    return 2 * people * math.expm1((people + 2) * math.log1p(2.0**-24))


def check_ring(
    grid: Grid, *, clip_norm: float, people_cap: int, parties: int, noise_std: float, size: int, bits: int = 32
) -> None:
    """Refuse settings with which a noised sum over all parties could leave the ring of 2^bits.

    A sum that leaves it comes back at the other end, and every coordinate of the model would jump. Contributions
    may all lie along one coordinate, so they are counted there whole.

    Args:
        grid: Of the sums.
        clip_norm: Bound on one person's contribution.
        people_cap: Largest sample of one party.
        parties: How many sums are added.
        noise_std: Standard deviation of one party's noise, in the clip norm's units.
        size: Coordinates of the sum.
        bits: Of the ring.

    Raises:
        UsageError: If the probability is 2^-40 or more; it says which grid would do.
    """
    half = 2.0 ** (bits - 1)
    # P(|N| > z) <= exp(-z^2 / 2) for a Gaussian, and over all coordinates together `size` times that.
    tails = math.sqrt(2 * math.log(size / _WRAP))
    reach = parties * people_cap * clip_norm + tails * math.sqrt(parties) * noise_std
    # Every party rounds its sum and its noise, each by half a step.
    if reach / grid.step + parties < half:
        return
    fitting = math.floor(math.log2(max((half - parties - 1) * clip_norm / reach, 2.0**-1000)))
    advice = f"take privacy.grid_bits = {fitting}" if fitting >= 1 else "take smaller samples or fewer partners"
    raise UsageError(
        f"expected sums that stay inside {bits} bits, got up to {reach / grid.step + parties:.3g} steps for {parties} "
        f"partners of at most {people_cap} people a step with noise {noise_std:g}, where {half:.3g} fit; {advice}"
    )
