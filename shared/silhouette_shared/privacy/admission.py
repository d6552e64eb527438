"""Whether one more charge fits a limit.

Two limits, two questions. The charges of one run follow one plan, fixed before a record was looked at: they compose as
any list of mechanisms does, and the tightest accountant may be asked. The charges of a year come from plans that may
have been chosen after seeing what earlier ones released: only a filter holds there.

The filter is Renyi's. For one order alpha that is fixed beforehand, going on as long as the sum of the Renyi
divergences stays below a budget is private at that order, however the mechanisms are chosen (Feldman and Zrnic 2021,
https://arxiv.org/abs/2008.11193, theorem 3.1; Lecuyer 2021, https://arxiv.org/abs/2103.01379). Several orders are
watched at once and it is enough that one of them stays below its budget; which one may depend on what was released, so
delta is divided among them and the bounds add up. Nine tenths of delta go to one order, chosen from the first charge of
the ledger, which was made before anything was released; the others share the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from opacus.accountants.analysis.rdp import compute_rdp

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import epsilon, split
from silhouette_shared.privacy.mechanism import SampledGaussian

FloatVector = npt.NDArray[np.float64]

ORDERS: FloatVector = np.array(
    [1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 4.5, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256]
)
"""Renyi orders that the filter watches."""

_SHARE_OF_THE_CHOSEN_ORDER = 0.9


def divergences(mechanism: SampledGaussian) -> FloatVector:
    """The Renyi divergence of a mechanism, all its steps, at every one of `ORDERS`."""
    return _one_step(mechanism.noise_multiplier, mechanism.sampling_rate) * mechanism.steps


@lru_cache(maxsize=4096)
def _one_step(noise_multiplier: float, sampling_rate: float) -> FloatVector:
    found = np.asarray(compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS)))
    # An order without an answer is of no use, and strong noise costs less than float64 tells from nothing.
    result: FloatVector = np.maximum(np.nan_to_num(found, nan=np.inf, posinf=np.inf), np.finfo(np.float64).eps)
    result.setflags(write=False)  # it is shared
    return result


@dataclass(frozen=True)
class Filter:
    """What the sum of Renyi divergences so far means as an epsilon, for mechanisms chosen along the way.

    Args:
        delta: Between 0 and 1.
        order: Index in `ORDERS` of the order that gets most of delta; fixed before the first release.
    """

    delta: float
    order: int

    @classmethod
    def for_ledger(cls, limit: float, delta: float, first: SampledGaussian) -> Filter:
        """The filter whose chosen order admits the most of what is charged first.

        Args:
            limit: The epsilon that is not to be passed.
            delta: At which.
            first: The mechanism of the ledger's first charge.
        """
        fits = (limit - _conversion(delta * _SHARE_OF_THE_CHOSEN_ORDER)) / divergences(first)
        return cls(delta, int(np.argmax(fits)))

    def epsilon(self, spending: Sequence[SampledGaussian], total: FloatVector) -> float:
        """The smallest limit that what was charged keeps; 0 of nothing.

        Args:
            spending: What was charged, for what caps and arithmetic take of delta.
            total: Sum of its `divergences`, shape (len(ORDERS),).

        Raises:
            UsageError: If caps and arithmetic take all of delta.
        """
        if not spending:
            return 0.0
        shares = np.full(len(ORDERS), (1 - _SHARE_OF_THE_CHOSEN_ORDER) / (len(ORDERS) - 1))
        shares[self.order] = _SHARE_OF_THE_CHOSEN_ORDER
        return _settled(spending, self.delta, lambda delta: float(np.min(total + _conversion(delta * shares))))


def _conversion(delta: float | FloatVector) -> FloatVector:
    """What a divergence of each order gains on its way to epsilon at delta.

    Balle et al. 2020, theorem 21, https://arxiv.org/abs/1905.09982.
    """
    result: FloatVector = np.log1p(-1 / ORDERS) - (np.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return result


def merged(mechanisms: Iterable[SampledGaussian]) -> tuple[SampledGaussian, ...]:
    """The same mechanisms with equal ones put together, in the order of their first use."""
    steps: dict[SampledGaussian, int] = {}
    for mechanism in mechanisms:
        one = replace(mechanism, steps=1)
        steps[one] = steps.get(one, 0) + mechanism.steps
    return tuple(one.after(count) for one, count in steps.items())


def run_epsilon(spending: Sequence[SampledGaussian], delta: float, limit: float | None) -> float:
    """What the charges of one run cost, as exactly as it takes to compare it with a limit.

    RDP at a few orders is cheap and never too small. Only where it passes the limit, by less than twice, PLD is asked,
    which takes a tenth of a second or more and has never been seen below two thirds of it.

    Args:
        spending: All charges of the run, as `merged` gives them; its plan fixed them beforehand.
        delta: Between 0 and 1.
        limit: The epsilon to compare with; None asks PLD.

    Raises:
        UsageError: If caps and arithmetic take all of delta.
    """
    if not spending:
        return 0.0
    total = sum((divergences(one) for one in spending), start=np.zeros(len(ORDERS)))
    loose = _settled(spending, delta, lambda left: float(np.min(total + _conversion(left))))
    if limit is not None and (loose <= limit or loose > 2 * limit):
        return loose
    try:
        return min(loose, epsilon(spending, delta, "pld"))
    except UsageError:  # far outside the range where PLD has an answer, and RDP's is an upper bound as well
        return loose


def _settled(spending: Sequence[SampledGaussian], delta: float, formula: Callable[[float], float]) -> float:
    """The epsilon of a formula at what caps and arithmetic leave of delta, with what arithmetic adds.

    What is taken out of delta depends on epsilon and the other way round: a bound is guessed until it holds.
    """
    bound = max(0.0, formula(delta))
    if all(one.overflow in (None, 0.0) and not one.grid_step for one in spending):
        return bound
    while True:
        bound += 0.01
        left, added = _split(tuple(spending), delta, bound)
        spent = max(0.0, formula(left)) + added
        if spent <= bound:
            return spent
        bound = spent  # grows until it holds, or nothing is left of delta and `split` says so


@lru_cache(maxsize=4096)
def _split(spending: tuple[SampledGaussian, ...], delta: float, bound: float) -> tuple[float, float]:
    parts = split(spending, delta, bound)
    return parts.formula, parts.epsilon
