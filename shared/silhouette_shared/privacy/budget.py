"""What a private run spends on what: its plan's budget, divided into mechanisms before anything is released."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import get_args

from silhouette_shared.config import Plan, ReleaseName
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import calibrate
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.modes import honest_survivors

_LARGEST = 2**24
"""Coordinates that the arithmetic of the noise is paid for where the real number is not known yet: more than any model
here has, and still next to nothing."""

STATISTIC_NORM = 1.0
"""L2 norm of one person's part of a statistic."""


@dataclass(frozen=True)
class Budget:
    """Everything one private run releases, in the order in which it is released; None is not released."""

    popularity: SampledGaussian | None
    transitions: SampledGaussian | None
    training: SampledGaussian | None
    attributes: SampledGaussian | None = None
    behaviours: SampledGaussian | None = None
    lengths: SampledGaussian | None = None
    pace: SampledGaussian | None = None
    value: SampledGaussian | None = None
    evaluation: SampledGaussian | None = None

    @property
    def statistics(self) -> tuple[SampledGaussian, ...]:
        """What is released once, beside the training."""
        return tuple(part for name, part in self.parts.items() if name != "training")

    @property
    def figures(self) -> dict[ReleaseName, SampledGaussian]:
        """What is released of the people beside what the training uses, by its name."""
        names: tuple[ReleaseName, ...] = get_args(ReleaseName)
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    @property
    def parts(self) -> dict[str, SampledGaussian]:
        """What is released, by its name."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
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
    if plan.privacy.mode == "none":
        return None
    parts: dict[str, SampledGaussian] = _once(plan)
    if plan.privacy.rounds > 0:
        parts["training"] = training_of(plan, beside=tuple(parts.values()))
    found = {name: _without_grid(part) for name, part in parts.items()}
    return Budget(**{"popularity": None, "transitions": None, "training": None, **found})


def training_of(
    plan: Plan,
    *,
    beside: Sequence[SampledGaussian],
    people_bound: int | None = None,
    size: int | None = None,
) -> SampledGaussian:
    """The mechanism of a plan's private training, calibrated to what the plan's epsilon and delta leave.

    Args:
        plan: With privacy and rounds.
        beside: What the same budget also pays.
        people_bound: A public bound on the partner's people, from which the batch cap follows; None takes no cap.
        size: Coordinates of the model, from which the grid's effect follows; None reckons with a larger one than any.

    Raises:
        UsageError: If no noise keeps the promise.
    """
    privacy = plan.privacy
    try:
        return _training_of(plan, beside, people_bound, size)
    except UsageError as error:
        if not beside:
            raise
        raise UsageError(
            f"privacy.epsilon: expected {privacy.epsilon:g} to leave something for training beside the statistics, got "
            f"too little ({error}); lower the shares of the statistics, or take fewer steps"
        ) from error


def _training_of(
    plan: Plan, beside: Sequence[SampledGaussian], people_bound: int | None, size: int | None
) -> SampledGaussian:
    privacy = plan.privacy
    return calibrate(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sampling_rate=privacy.sampling_rate,
        steps=privacy.steps,
        clip_norm=privacy.clip_norm,
        beside=beside,
        people_bound=people_bound,
        grid=Grid.of(privacy.clip_norm, privacy.grid_bits),
        size=_LARGEST if size is None else size,
        shares=shares_of(plan),
    )


def released_once(plan: Plan) -> tuple[str, ...]:
    """Names of what a plan releases once beside its training, in the order of `Budget.statistics`."""
    if plan.privacy.mode == "none":
        return ()
    shares = _shares(plan)
    return tuple(one.name for one in fields(Budget) if shares.get(one.name, 0.0) > 0)


def released(plan: Plan, mechanism: SampledGaussian, size: int) -> SampledGaussian:
    """The mechanism as it is charged: on the integer grid of what it releases.

    Args:
        plan: For the grid.
        mechanism: Of the budget.
        size: Coordinates of the sum.
    """
    return mechanism.on_grid(Grid.of(mechanism.clip_norm, plan.privacy.grid_bits), size)


def shares_of(plan: Plan) -> int:
    """Into how many the noise is divided: one in mode `local`, as many as are sure to be honest and there else."""
    return honest_survivors(plan.partition.partners) if plan.privacy.mode == "distributed" else 1


def _without_grid(part: SampledGaussian) -> SampledGaussian:
    """The mechanism before it is known what it releases; whoever releases puts it on the grid of that."""
    return replace(part, rounding=0.0, grid_step=0.0, size=0)


def _once(plan: Plan) -> dict[str, SampledGaussian]:
    """What is released once, by its name, each with its share."""
    shares = _shares(plan)
    together = sum(shares.values())
    if together == 0:
        return {}
    alone = calibrate(
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        sampling_rate=1.0,
        steps=1,
        clip_norm=STATISTIC_NORM,
        grid=Grid.of(STATISTIC_NORM, plan.privacy.grid_bits),
        size=_LARGEST,
        shares=shares_of(plan),
    )
    scale = together if plan.privacy.rounds == 0 else 1.0
    return {name: _part(alone, share / scale) for name, share in shares.items() if share > 0}


def _shares(plan: Plan) -> dict[str, float]:
    return {
        "popularity": plan.statistics.popularity_share,
        "transitions": plan.statistics.transition_share,
        **{str(name): share for name, share in plan.analytics.shares.items()},
    }


def _part(alone: SampledGaussian, share: float) -> SampledGaussian:
    """What takes a share of the budget that `alone` takes whole."""
    return replace(alone, noise_multiplier=alone.noise_multiplier / math.sqrt(share))
