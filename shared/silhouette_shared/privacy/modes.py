"""Who may look at what: epsilon against each of them, in both modes of adding noise.

`local`: every partner adds all the noise that its own people need. The epsilon of its own release holds against
anyone. Who sees only the sum of all partners sees more noise, which counts only where every round is one step: after
several local steps the sum is no longer one sampled Gaussian.

`distributed`: every partner adds a share, noise / sqrt(h), so that the shares of h honest survivors make up the noise
that was calibrated. h is what secure aggregation guarantees: a round ends with at least a threshold of survivors, of
whom f may be curious and know their own shares. If aggregation failed, a partner's release would carry its share alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import Spending, epsilon
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.thresholds import colluders, least_threshold


def honest_survivors(partners: int) -> int:
    """How many honest partners' noise is in every sum that secure aggregation opens.

    Raises:
        UsageError: If there are fewer than three partners: with two, the sum shows each the other's part.

    >>> [honest_survivors(n) for n in (3, 5, 10, 50)]
    [2, 3, 4, 18]
    """
    if partners < 3:
        raise UsageError(f"expected at least 3 partners for secure aggregation, got {partners}; use the mode local")
    return least_threshold(partners) - colluders(partners)


@dataclass(frozen=True)
class View:
    """Epsilon of one partner's person, at one delta, by who looks.

    Args:
        release: Against who sees this partner's own release: anyone in mode `local`; in mode `distributed` only if
            secure aggregation failed, a warning that leaves the batch cap's term out.
        honest: Against the coordinator and f curious partners, with the fewest survivors; None if not claimed.
        everybody: Against the coordinator alone, with all partners honest and surviving; None if not claimed.
    """

    release: float
    honest: float | None
    everybody: float | None


def distributed_view(spending: SampledGaussian | Sequence[SampledGaussian], partners: int, delta: float) -> View:
    """What a budget in mode `distributed` costs against each who may look.

    Args:
        spending: As calibrated: its noise is that of h honest survivors together.
        partners: In the federation, n.
        delta: For every figure.

    Raises:
        UsageError: If there are fewer than three partners, or a figure cannot be computed.
    """
    h = honest_survivors(partners)
    return View(
        release=_of_a_share(_with_noise(spending, 1 / math.sqrt(h), 1), delta),
        honest=epsilon(_with_noise(spending, 1.0, h), delta),
        everybody=epsilon(_with_noise(spending, math.sqrt(partners / h), partners), delta),
    )


def local_view(
    spending: SampledGaussian | Sequence[SampledGaussian], partners: int, delta: float, *, steps_a_round: int
) -> View:
    """What a budget in mode `local` costs against each who may look.

    Args:
        spending: Of one partner: its noise is all its own.
        partners: In the federation, n.
        delta: For every figure.
        steps_a_round: Noised steps between two sums; with more than one nothing is claimed of the sum.

    Raises:
        UsageError: If a figure cannot be computed.
    """
    release = epsilon(spending, delta)
    if steps_a_round != 1 or partners < 3:
        return View(release=release, honest=None, everybody=None)
    h = honest_survivors(partners)
    return View(
        release=release,
        honest=epsilon(_with_noise(spending, math.sqrt(h), h), delta),
        everybody=epsilon(_with_noise(spending, math.sqrt(partners), partners), delta),
    )


def at_partners(spending: SampledGaussian | Sequence[SampledGaussian], count: int) -> Spending:
    """What is spent on a person whose record lies at `count` partners: all of it, as often.

    Raises:
        UsageError: If the count is below one.
    """
    if count < 1:
        raise UsageError(f"expected a person at 1 partner or more, got {count}; change it")
    paid = (spending,) if isinstance(spending, SampledGaussian) else tuple(spending)
    return tuple(mechanism.after(mechanism.steps * count) for mechanism in paid)


def _with_noise(
    spending: SampledGaussian | Sequence[SampledGaussian], factor: float, shares: int
) -> tuple[SampledGaussian, ...]:
    paid = (spending,) if isinstance(spending, SampledGaussian) else tuple(spending)
    return tuple(replace(m, noise_multiplier=m.noise_multiplier * factor, shares=shares) for m in paid)


def _of_a_share(spending: Spending, delta: float) -> float:
    """PLD's epsilon, or RDP's where there is so little noise that PLD's grid would not fit into memory.

    A cap's term grows with e^epsilon, and would be all of delta and more at an epsilon that protects nobody.
    """
    uncapped = tuple(replace(mechanism, batch_cap=None, overflow=None) for mechanism in spending)
    try:
        return epsilon(uncapped, delta)
    except UsageError:
        return epsilon(uncapped, delta, "rdp")
