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

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import Accountant, epsilon
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
    found = compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS))
    result: FloatVector = np.asarray(found, dtype=np.float64)
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

    def epsilon(self, total: FloatVector) -> float:
        """The smallest limit that `total` keeps; 0 of nothing.

        Args:
            total: Sum of `divergences` over what was charged, shape (len(ORDERS),).
        """
        if not total.any():
            return 0.0
        shares = np.full(len(ORDERS), (1 - _SHARE_OF_THE_CHOSEN_ORDER) / (len(ORDERS) - 1))
        shares[self.order] = _SHARE_OF_THE_CHOSEN_ORDER
        return max(0.0, float(np.min(total + _conversion(self.delta * shares))))


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


@lru_cache(maxsize=4096)
def composed_epsilon(spending: tuple[SampledGaussian, ...], delta: float, accountant: Accountant) -> float:
    """The epsilon of several mechanisms that were fixed beforehand.

    Args:
        spending: What was or will be run, as `merged` gives it; nothing costs nothing.
        delta: Between 0 and 1.
        accountant: "prv" or "rdp".

    Raises:
        UsageError: If the numerics give no answer.
    """
    if not spending:
        return 0.0
    if len(spending) == 1:
        return epsilon(spending[0], delta, accountant)
    history = [(one.noise_multiplier, one.sampling_rate, one.steps) for one in spending]
    made = PRVAccountant() if accountant == "prv" else RDPAccountant()
    made.history.extend(history)
    try:
        with warnings.catch_warnings(), np.errstate(divide="ignore"):
            warnings.filterwarnings("ignore", message="Optimal order is")
            found = float(made.get_epsilon(delta))
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"expected mechanisms whose epsilon can be computed by {accountant}, got others ({error})"
        ) from error
    if not math.isfinite(found):
        raise UsageError(f"expected mechanisms whose epsilon can be computed by {accountant}, got no finite figure")
    return max(0.0, found)


def run_epsilon(spending: tuple[SampledGaussian, ...], delta: float, limit: float) -> float:
    """What the charges of one run cost, as exactly as it takes to compare it with a limit.

    RDP is cheap and never too small; only where it passes the limit is PRV asked.

    Args:
        spending: All charges of the run, as `merged` gives them; its plan fixed them beforehand.
        delta: Between 0 and 1.
        limit: The epsilon to compare with.
    """
    if not spending:
        return 0.0
    total = sum((divergences(one) for one in spending), start=np.zeros(len(ORDERS)))
    loose = max(0.0, float(np.min(total + _conversion(delta))))
    if loose <= limit:
        return loose
    try:
        return min(loose, composed_epsilon(spending, delta, "prv"))
    except UsageError:  # far outside the range where PRV has an answer, and RDP's is an upper bound as well
        return loose
