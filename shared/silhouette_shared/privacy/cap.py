"""How large a sample may become.

Memory and the ring of secure aggregation want a largest sample; the accounting of Poisson sampling knows none: where
the sample is cut, one person's presence changes who else takes part. So a cap is allowed only where it practically
never cuts, and what is left of that probability is charged to delta. The size follows from a public bound on the
partner's people, never from how many they are, and is no fixed ratio: with 189 people and q = 1/15, one and a half
times the expected sample turns epsilon 7.9 into 15.1, three times costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from silhouette_shared.errors import UsageError

DELTA_SHARE = 1 / 100
"""Largest part of delta that the cap may take."""

_ROUNDING = 1 + 1e-6  # logarithms of factorials in float64, up to some 10^9 people


@dataclass(frozen=True)
class BatchCap:
    """A largest sample and its price.

    Args:
        size: Largest sample.
        overflow: Upper bound on the probability that one step's sample would be larger.
        delta: What the whole run pays in delta for it.
    """

    size: int
    overflow: float
    delta: float


@lru_cache(maxsize=1024)
def batch_cap(people_bound: int, sampling_rate: float, steps: int, epsilon: float, delta: float) -> BatchCap:
    """The smallest cap whose overflow costs at most a hundredth of delta.

    Couple the capped run with the one without a cap: they differ only if a sample overflows in one of T steps, with
    probability at most T p, p the overflow of one step with the larger of two neighbouring data sets. From an
    (epsilon, delta') run without cap then follows delta = delta' + T (1 + e^epsilon) p with one.

    Args:
        people_bound: A public number that the partner's people never exceed.
        sampling_rate: Probability of taking part in a step, in (0, 1].
        steps: Steps of the run, T.
        epsilon: Of the whole run, at least what the steps without a cap cost.
        delta: Of the whole run.

    Raises:
        UsageError: If a value is out of range.

    >>> batch_cap(189, 1 / 15, 300, 8.0, 1e-5).size
    44
    """
    if people_bound < 1:
        raise UsageError(f"expected a public bound of at least 1 person, got {people_bound}; change it")
    if not (0 < sampling_rate <= 1 and steps >= 1 and 0 < delta < 1 and epsilon >= 0):
        raise UsageError(
            "expected a sampling rate in (0, 1], at least one step, a delta between 0 and 1 and an epsilon of at least "
            f"0, got {sampling_rate!r}, {steps!r}, {delta!r} and {epsilon!r}; change them"
        )
    allowed = math.exp(math.log(DELTA_SHARE * delta / steps) - _log_one_plus_exp(epsilon))
    low, high = math.floor(people_bound * sampling_rate) - 1, people_bound  # overflow above and at most `allowed`
    low = max(low, 0)
    if overflow(people_bound, sampling_rate, max(low, 1)) <= allowed:
        high = max(low, 1)
    while high - low > 1:
        middle = (low + high) // 2
        if overflow(people_bound, sampling_rate, middle) <= allowed:
            high = middle
        else:
            low = middle
    p = overflow(people_bound, sampling_rate, high)
    return BatchCap(size=high, overflow=p, delta=overflow_delta(p, steps, epsilon))


def overflow_delta(p: float, steps: int, epsilon: float) -> float:
    """What an overflow of probability `p` a step costs in delta: T (1 + e^epsilon) p."""
    return math.exp(math.log(steps * p) + _log_one_plus_exp(epsilon)) if p > 0 else 0.0


def overflow(people: int, sampling_rate: float, size: int) -> float:
    """P(Binomial(people, sampling_rate) > size), summed exactly and rounded up.

    >>> overflow(2, 0.5, 1) >= 0.25
    True
    """
    if size >= people:
        return 0.0
    if sampling_rate == 1:
        return 1.0
    if size + 1 <= people * sampling_rate:
        return 1.0  # a bound, below the mean, where no cap is of use
    odds = sampling_rate / (1 - sampling_rate)
    k = size + 1
    log_first = (
        math.lgamma(people + 1)
        - math.lgamma(k + 1)
        - math.lgamma(people - k + 1)
        + k * math.log(sampling_rate)
        + (people - k) * math.log1p(-sampling_rate)
    )
    total, term = 0.0, 1.0  # in units of the first; above the mean each is smaller than the one before
    while k <= people and term > 1e-17 * total:
        total += term
        term *= odds * (people - k) / (k + 1)
        k += 1
    # What was left out falls at least as fast as the last ratio.
    ratio = odds * (people - k) / (k + 1) if k <= people else 0.0
    rest = term / (1 - ratio) if ratio < 1 else math.inf
    return min(1.0, math.exp(log_first) * (total + rest) * _ROUNDING)


def _log_one_plus_exp(value: float) -> float:
    return value + math.log1p(math.exp(-value))
