"""The one private mechanism that training uses.

The object that drives training is the object that accounting reads, so the two cannot drift: the
noise that is added is `noise_std` of the very mechanism whose epsilon is printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.grid import Grid


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """The Poisson-sampled Gaussian mechanism, composed over `steps`.

    In each step every person takes part independently with probability `sampling_rate`; each one's
    contribution has an L2 norm of at most `clip_norm`; Gaussian noise of standard deviation
    `noise_std` is added to every coordinate of the sum. The unit is one person's whole record at a
    partner; neighbouring data sets differ by adding or removing one person. Dividing the sum by a
    constant (never by the people actually drawn) changes nothing here.

    Two neighbouring sums are rounded to a grid before the noise, so they may differ by `rounding`
    more than the clip norm; the noise grows with it, and what accounting reads, the noise multiplier,
    does not change.

    Mironov, Talwar and Zhang 2019, https://arxiv.org/abs/1908.10530.

    Args:
        noise_multiplier: Noise over sensitivity, sigma; positive and finite.
        sampling_rate: Probability of taking part in a step, q, in (0, 1].
        steps: How often the mechanism is applied, T; at least 1.
        clip_norm: Bound on one person's contribution, C; positive and finite.
        rounding: What the grid adds to the L2 sensitivity, in the units of `clip_norm`.
        grid_step: Distance of the grid's points, in the same units; 0 where noise is drawn without a grid.
        size: Coordinates of the sum, where there is a grid.
        shares: How many parties' draws, of `noise_std` / sqrt(shares) each, make up the noise.
        batch_cap: Largest sample of a step; None takes every sample whole.
        overflow: With a cap: an upper bound on the probability that one step's sample is larger than
            it, 0 where there are no more people than that. Accounting charges it to delta.

    Raises:
        UsageError: If a value is outside its range, or a cap comes without its overflow.

    >>> SampledGaussian(noise_multiplier=1.5, sampling_rate=0.1, steps=300, clip_norm=2.0).noise_std
    3.0
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    clip_norm: float
    rounding: float = 0.0
    grid_step: float = 0.0
    size: int = 0
    shares: int = 1
    batch_cap: int | None = None
    overflow: float | None = None

    def __post_init__(self) -> None:
        """Refuse anything accounting could not read."""
        for name in ("noise_multiplier", "clip_norm"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < math.inf):
                raise UsageError(f"expected a positive, finite {name}, got {value!r}; change it")
        if not (_is_number(self.sampling_rate) and 0 < self.sampling_rate <= 1):
            raise UsageError(
                "expected a sampling_rate above 0 and at most 1, "
                f"got {self.sampling_rate!r}; it is the probability of taking part in a step"
            )
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError(f"expected a whole number of steps, at least 1, got {self.steps!r}; change it")
        for name in ("rounding", "grid_step"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < math.inf):
                raise UsageError(f"expected a finite {name} of zero or more, got {value!r}; change it")
        for name, least in (("size", 0), ("shares", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"expected a whole {name} of at least {least}, got {value!r}; change it")
        self._check_cap()

    def _check_cap(self) -> None:
        cap, overflow = self.batch_cap, self.overflow
        if cap is None:
            if overflow is not None:
                raise UsageError(f"expected an overflow with a batch_cap only, got {overflow!r}; leave it out")
            return
        if isinstance(cap, bool) or not isinstance(cap, int) or cap < 1:
            raise UsageError(f"expected a batch_cap of at least 1 person, got {cap!r}; change it")
        if not (_is_number(overflow) and overflow is not None and 0 <= overflow < 1):
            raise UsageError(
                "expected the probability that a sample passes its batch_cap, at least 0 and below 1, "
                f"got {overflow!r}; take both from `batch_cap`"
            )

    @classmethod
    def once(cls, *, noise_multiplier: float, clip_norm: float, rounding: float = 0.0) -> SampledGaussian:
        """One release of a sum over everybody, without sampling.

        >>> SampledGaussian.once(noise_multiplier=4.0, clip_norm=1.0).sampling_rate
        1.0
        """
        return cls(
            noise_multiplier=noise_multiplier, sampling_rate=1.0, steps=1, clip_norm=clip_norm, rounding=rounding
        )

    @property
    def sensitivity(self) -> float:
        """How far two neighbouring sums lie apart at most in L2 norm, in `clip_norm`'s units."""
        return self.clip_norm + self.rounding

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each coordinate of the sum, in `clip_norm`'s units."""
        return self.noise_multiplier * self.sensitivity

    def after(self, steps: int) -> SampledGaussian:
        """The same mechanism composed over another number of steps."""
        return replace(self, steps=steps)

    def on_grid(self, grid: Grid, size: int) -> SampledGaussian:
        """The same mechanism for sums of `size` coordinates that are rounded to `grid` before the noise."""
        return replace(self, rounding=grid.rounding(size), grid_step=grid.step, size=size)

    @property
    def share_std(self) -> float:
        """Standard deviation of what one party draws, in grid steps; 0 where there is no grid."""
        return self.noise_std / math.sqrt(self.shares) / self.grid_step if self.grid_step else 0.0

    def describe(self) -> dict[str, str | float | int | None]:
        """What a report or a statement says about the mechanism, ready for JSON."""
        return {
            "mechanism": "Poisson-sampled Gaussian",
            "unit": "one person's whole record at a partner",
            "neighbours": "add or remove one person",
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
            "clip_norm": self.clip_norm,
            "rounding": self.rounding,
            "grid_step": self.grid_step,
            "size": self.size,
            "shares": self.shares,
            "batch_cap": self.batch_cap,
            "overflow": self.overflow,
            "noise_std": self.noise_std,
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
