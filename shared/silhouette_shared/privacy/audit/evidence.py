"""What an audit measured, as plain numbers from which every verdict can be computed again.

Nothing here comes from a real person: an audit runs on canaries and made-up people.
"""

from dataclasses import asdict, field

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from silhouette_shared.privacy.audit.bounds import Included
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DeclaredMechanism:
    """The mechanism that was audited, as it is declared; `SampledGaussian` says what each number is."""

    noise_multiplier: float
    sampling_rate: float
    steps: int
    clip_norm: float
    rounding: float
    grid_step: float
    size: int
    batch_cap: int | None
    overflow: float | None
    delta: float

    @classmethod
    def of(cls, mechanism: SampledGaussian, delta: float) -> "DeclaredMechanism":
        """What is declared of a mechanism whose noise one party adds, at `delta`.

        Raises:
            ValueError: If several parties share the noise.
        """
        if mechanism.shares != 1:
            raise ValueError(f"expected noise of one party, got shares of {mechanism.shares}")
        values = {name: getattr(mechanism, name) for name in cls.__dataclass_fields__ if name != "delta"}
        return cls(**values, delta=delta)

    def mechanism(self) -> SampledGaussian:
        """The same as accounting reads it.

        Raises:
            UsageError: If a value is out of range.
        """
        values = asdict(self)
        del values["delta"]
        return SampledGaussian(**values)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Norms:
    """Clipped gradients beside those of plain autograd; lengths in clip norms.

    The differences are those between what the engine gave and the person's own gradient, clipped here.
    """

    alone: int  # people examined one at a time
    one_item: int  # of these, with a single event
    repeated: int  # of these, with an item more than once
    longest: int  # of these, with a history that fills the window
    clipped: int  # of these, whose gradient exceeded the clip norm
    largest_alone: float  # longest clipped gradient
    difference_alone: float
    together: int  # people examined in batches of several, cut into virtual batches
    difference_together: float  # of a batch's sum, a person
    neighbours: int  # people added to a batch of others
    largest_neighbour: float  # longest change of the sum by one person


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Moments:
    """Of noise that is declared to have mean 0 and variance 1."""

    samples: int
    mean: float
    square: float
    fourth: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Noise:
    """What was released less what was summed, in declared standard deviations."""

    untouched: Moments  # on coordinates that no person's gradient reaches
    everywhere: Moments  # on all coordinates, with the clipped sum taken away
    rows: int  # rows of tables, and vectors, each tested for its own variance
    least_row: float  # smallest mean square of a row
    row_tail: float  # smallest chance of a row's mean square, times the rows


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Correlations:
    """Of the noise of different releases; each over the same coordinates."""

    coordinates: int  # of one release
    steps: int
    adjacent: float  # correlation of all steps with their successors
    largest_steps: float  # largest of any two steps, by magnitude
    partners: float  # correlation of the two partners' noise in the same steps
    largest_partners: float  # largest of any step of one and any step of the other
    largest_inside: float  # largest between a release and itself, moved by any distance
    distances: int


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Sampling:
    """Who was in which step, counted."""

    people: int
    steps: int
    sizes: tuple[int, ...]  # people of each step
    times: tuple[int, ...]  # people who were in 0, 1, 2, ... steps
    consecutive: int  # people who were in a step and in the next one, over all pairs of steps
    twice: int  # people who were more than once in the same step
    shared: int  # people in the same step at both partners, over all steps; each numbers its own from zero


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Canaries:
    """Canaries' scores: what was released on each one's coordinate, summed over the steps, in clip norms."""

    seed: int  # decided who was included; disclosed with the result
    scores: tuple[float, ...]
    kept: float  # what clipping leaves of a canary's gradient, in clip norms

    def included(self) -> Included:
        """Which canaries took part, each with probability one half, shape (m,)."""
        return included_canaries(self.seed, len(self.scores))

    def generator(self) -> np.random.Generator:
        """For the simulation of the declared mechanism, so that it can be repeated."""
        return ReproducibleSource(self.seed).child("audit", "declared").numpy_generator()


def included_canaries(seed: int, canaries: int) -> Included:
    """Which canaries take part under a seed, each with probability one half, shape (m,)."""
    draw: Included = ReproducibleSource(seed).child("audit", "included").numpy_generator().random(canaries) < 0.5
    return draw


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Epsilons:
    """What each accountant says of one mechanism, at the declared delta."""

    prv: float
    pld: float
    rdp: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Evidence:
    """Everything from which the verdicts follow."""

    declared: DeclaredMechanism
    norms: Norms
    noise: Noise
    correlations: Correlations
    sampling: Sampling
    canaries: Canaries
    epsilons: dict[str, Epsilons] = field(default_factory=dict)  # of the audited steps, and of the whole plan
