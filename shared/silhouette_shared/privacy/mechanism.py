"""The one private mechanism that training uses.

The object that drives training is the object that accounting reads, so the two cannot drift: the
noise that is added is `noise_std` of the very mechanism whose epsilon is printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from silhouette_shared.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """The Poisson-sampled Gaussian mechanism, composed over `steps`.

    In each step every person takes part independently with probability `sampling_rate`; each one's
    contribution has an L2 norm of at most `clip_norm`; Gaussian noise of standard deviation
    `noise_std` is added to every coordinate of the sum. The unit is one person's whole record at a
    partner; neighbouring data sets differ by adding or removing one person. Dividing the sum by a
    constant (never by the people actually drawn) changes nothing here.

    Mironov, Talwar and Zhang 2019, https://arxiv.org/abs/1908.10530.

    Args:
        noise_multiplier: Noise over clip norm, sigma; positive and finite.
        sampling_rate: Probability of taking part in a step, q, in (0, 1].
        steps: How often the mechanism is applied, T; at least 1.
        clip_norm: Bound on one person's contribution, C; positive and finite.

    Raises:
        UsageError: If a value is outside its range.

    >>> SampledGaussian(noise_multiplier=1.5, sampling_rate=0.1, steps=300, clip_norm=2.0).noise_std
    3.0
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    clip_norm: float

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

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each coordinate of the sum, in `clip_norm`'s units."""
        return self.noise_multiplier * self.clip_norm

    def after(self, steps: int) -> SampledGaussian:
        """The same mechanism composed over another number of steps."""
        return replace(self, steps=steps)

    def describe(self) -> dict[str, str | float | int]:
        """What a report or a statement says about the mechanism, ready for JSON."""
        return {
            "mechanism": "Poisson-sampled Gaussian",
            "unit": "one person's whole record at a partner",
            "neighbours": "add or remove one person",
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
            "clip_norm": self.clip_norm,
            "noise_std": self.noise_std,
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
