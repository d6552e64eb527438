"""What a private run spends on what: its plan's budget, divided into mechanisms before anything is released."""

import math
from dataclasses import dataclass

from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import calibrate, epsilon
from silhouette_shared.privacy.mechanism import SampledGaussian

STATISTIC_NORM = 1.0
"""L2 norm of one person's part of a statistic."""

_SMALLEST_TRAINING = 0.05  # epsilon that can be calibrated


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
    def spending(self) -> tuple[SampledGaussian, ...]:
        """Everything, for the accountants."""
        return (*self.statistics, *(() if self.training is None else (self.training,)))


def budget_of(plan: Plan) -> Budget | None:
    """Divide the budget of a plan; None in mode `none`, which spends nothing.

    Gaussian releases of everybody add up exactly: noise multipliers s and t together are one of
    1 / sqrt(1 / s^2 + 1 / t^2). Beside a training the statistics' epsilon at half of delta is taken off, and training
    is calibrated for what is left at the other half: sequential composition, which holds for any mechanisms.

    Raises:
        UsageError: If the statistics leave too little for the training.
    """
    privacy, settings = plan.privacy, plan.statistics
    if privacy.mode == "none":
        return None
    together = settings.popularity_share + settings.transition_share
    if together == 0:
        return Budget(None, None, _training(plan, privacy.epsilon, privacy.delta))
    alone = calibrate(
        epsilon=privacy.epsilon, delta=privacy.delta, sampling_rate=1.0, steps=1, clip_norm=STATISTIC_NORM
    ).noise_multiplier
    share = 1.0 if privacy.rounds == 0 else together
    popularity = _once(alone, share * settings.popularity_share / together)
    transitions = _once(alone, share * settings.transition_share / together)
    if privacy.rounds == 0:
        return Budget(popularity, transitions, None)
    spent = epsilon(SampledGaussian.once(noise_multiplier=alone / math.sqrt(share), clip_norm=1.0), privacy.delta / 2)
    left = privacy.epsilon - spent
    if left < _SMALLEST_TRAINING:
        raise UsageError(
            f"statistics: expected to leave an epsilon of at least {_SMALLEST_TRAINING} for the training, got "
            f"{left:.3g} of {privacy.epsilon:g}; lower the shares, or set privacy.rounds to 0"
        )
    return Budget(popularity, transitions, _training(plan, left, privacy.delta / 2))


def _once(alone: float, share: float) -> SampledGaussian | None:
    if share == 0:
        return None
    return SampledGaussian.once(noise_multiplier=alone / math.sqrt(share), clip_norm=STATISTIC_NORM)


def _training(plan: Plan, target: float, delta: float) -> SampledGaussian:
    privacy = plan.privacy
    return calibrate(
        epsilon=target,
        delta=delta,
        sampling_rate=privacy.sampling_rate,
        steps=privacy.steps,
        clip_norm=privacy.clip_norm,
    )
