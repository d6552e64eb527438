"""What a private run spends on what: its plan's budget, divided into mechanisms before anything is released."""

import math
from dataclasses import dataclass

from silhouette_shared.config import Plan
from silhouette_shared.privacy.accounting import calibrate
from silhouette_shared.privacy.mechanism import SampledGaussian

STATISTIC_NORM = 1.0
"""L2 norm of one person's part of a statistic."""


@dataclass(frozen=True)
class Budget:
    """Everything one private run releases, in the order in which it is released; None is not released."""

    popularity: SampledGaussian | None
    transitions: SampledGaussian | None
    training: SampledGaussian | None

    @property
    def statistics(self) -> tuple[SampledGaussian, ...]:
        """What is released before the training."""
        return tuple(part for part in (self.popularity, self.transitions) if part is not None)

    @property
    def parts(self) -> dict[str, SampledGaussian]:
        """What is released, by its name."""
        named = {"popularity": self.popularity, "transitions": self.transitions, "training": self.training}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def spending(self) -> tuple[SampledGaussian, ...]:
        """Everything, for the accountants."""
        return (*self.statistics, *(() if self.training is None else (self.training,)))


def budget_of(plan: Plan) -> Budget | None:
    """Divide the budget of a plan; None in mode `none`, which spends nothing.

    A release of everybody with share s of the budget has 1 / sqrt(s) times the noise that it would have alone, because
    Gaussian releases add up as 1 / noise^2. Training is calibrated beside what the statistics take.

    Raises:
        UsageError: If the statistics leave too little for the training.
    """
    privacy, settings = plan.privacy, plan.statistics
    if privacy.mode == "none":
        return None
    statistics: tuple[SampledGaussian | None, SampledGaussian | None] = (None, None)
    together = settings.popularity_share + settings.transition_share
    if together > 0:
        alone = calibrate(
            epsilon=privacy.epsilon, delta=privacy.delta, sampling_rate=1.0, steps=1, clip_norm=STATISTIC_NORM
        ).noise_multiplier
        scale = together if privacy.rounds == 0 else 1.0
        shares = (settings.popularity_share / scale, settings.transition_share / scale)
        statistics = (_once(alone, shares[0]), _once(alone, shares[1]))
    if privacy.rounds == 0:
        return Budget(*statistics, None)
    training = calibrate(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sampling_rate=privacy.sampling_rate,
        steps=privacy.steps,
        clip_norm=privacy.clip_norm,
        beside=tuple(part for part in statistics if part is not None),
    )
    return Budget(*statistics, training)


def _once(alone: float, share: float) -> SampledGaussian | None:
    if share == 0:
        return None
    return SampledGaussian.once(noise_multiplier=alone / math.sqrt(share), clip_norm=STATISTIC_NORM)
