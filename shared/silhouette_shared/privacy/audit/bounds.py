"""Lower bounds on epsilon from one run, and what the declared mechanism would have shown.

A bound from below can show that a mechanism leaks more than it claims. It never shows that a mechanism is private.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from silhouette_shared.privacy.mechanism import SampledGaussian

Scores = NDArray[np.float64]
Included = NDArray[np.bool_]

_LARGEST_EPSILON = 60.0
_ABSTENTIONS = (20, 10, 5, 2)
"""The highest and the lowest 1/20, 1/10, 1/5 or 1/2 of the scores are guessed, and paid for by Bonferroni."""


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Chance of at least so many correct guesses if the run were (epsilon, delta)-private.

    Each canary was included independently with probability one half; the auditor guessed for some and abstained on the
    rest.

    Steinke, Nasr and Jagielski 2023, Theorem 5.2 and Appendix D, https://arxiv.org/abs/2305.08846.

    Args:
        canaries: Number of canaries m, also those not guessed.
        guesses: Number of guesses r, at most m.
        correct: Number of correct guesses v, at most r.
        epsilon: Of the hypothesis, zero or more.
        delta: Of the hypothesis, from 0 to 1.

    Raises:
        ValueError: If the counts do not fit each other or a parameter is out of range.

    >>> round(one_run_p_value(canaries=10, guesses=10, correct=10, epsilon=0.0, delta=0.0), 6)
    0.000977
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"expected correct <= guesses <= canaries, got {correct}, {guesses}, {canaries}")
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"expected epsilon of 0 or more and delta from 0 to 1, got {epsilon} and {delta}")
    accuracy = 1 / (1 + math.exp(-epsilon))
    beta = float(stats.binom.sf(correct - 1, guesses, accuracy))
    alpha = 0.0
    if correct and delta:
        # P[v > Binomial(r, accuracy) >= v - i] for i in 1..v, and the best slope through the origin above it.
        below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
        alpha = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, beta + alpha * delta * 2 * canaries)


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """The largest epsilon that so many correct guesses refute, zero if they refute none.

    Args:
        canaries: As in `one_run_p_value`.
        guesses: Likewise.
        correct: Likewise.
        delta: Likewise.
        error: Chance that the bound lies above the truth.
    """
    low, high = 0.0, _LARGEST_EPSILON
    if one_run_p_value(canaries, guesses, correct, low, delta) >= error:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if one_run_p_value(canaries, guesses, correct, middle, delta) < error:
            low = middle
        else:
            high = middle
    return low


def one_run_bound(scores: Scores, included: Included, delta: float, error: float = 0.05) -> float:
    """The lower bound on epsilon from the canaries' scores of one run.

    The k highest scores are guessed as included and the k lowest as excluded, for four values of k.

    Args:
        scores: What was released in each canary's direction, shape (m,).
        included: Which canaries took part, shape (m,).
        delta: At which epsilon is bounded.
        error: Chance that the bound lies above the truth, over the four values together.
    """
    order = np.argsort(-scores, kind="stable")
    best = 0.0
    for part in _ABSTENTIONS:
        k = len(scores) // part
        correct = int(included[order[:k]].sum() + (~included[order[len(scores) - k :]]).sum())
        best = max(best, one_run_epsilon(len(scores), 2 * k, correct, delta, error / len(_ABSTENTIONS)))
    return best


@dataclass(frozen=True)
class Shift:
    """How far the included canaries lie above the excluded ones."""

    difference: float  # of the means, in the units of the scores
    standardised: float  # the same over the pooled standard deviation: mu of Gaussian privacy
    error: float  # standard error of `standardised`


def shift(scores: Scores, included: Included) -> Shift:
    """Compare the scores of included and excluded canaries.

    Raises:
        ValueError: If a side has fewer than two canaries or the scores do not vary.
    """
    inside, outside = scores[included], scores[~included]
    if min(len(inside), len(outside)) < 2:
        raise ValueError(f"expected two canaries on each side, got {len(inside)} and {len(outside)}")
    pooled = math.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2)
    if not pooled > 0:
        raise ValueError("expected scores that vary, got constant ones")
    difference = float(inside.mean() - outside.mean())
    mu = difference / pooled
    error = math.sqrt(1 / len(inside) + 1 / len(outside) + mu * mu / (2 * (len(scores) - 2)))
    return Shift(difference, mu, error)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon at `delta` of a Gaussian shift of `mu` standard deviations.

    Dong, Roth and Su 2019, Corollary 2.13, https://arxiv.org/abs/1905.02383.

    >>> round(gaussian_epsilon(1.0, 1e-5), 2)
    4.38
    """
    if mu <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        # The second term by logarithms: exp(epsilon) overflows where the tail beside it vanishes.
        tail = math.exp(epsilon + float(stats.norm.logcdf(-epsilon / mu - mu / 2)))
        return float(stats.norm.cdf(-epsilon / mu + mu / 2)) - tail - delta

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) > 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return low


def gaussian_bound(found: Shift, delta: float, confidence: float = 0.999) -> float:
    """The epsilon of the smallest Gaussian shift that the canaries leave plausible.

    It takes the scores as Gaussian, which sums over many steps nearly are; unlike the one-run bound it is not proven
    for other mechanisms. Nasr et al. 2023, https://arxiv.org/abs/2302.07956; Andrew et al. 2023,
    https://arxiv.org/abs/2302.03098.
    """
    return gaussian_epsilon(found.standardised - float(stats.norm.ppf(confidence)) * found.error, delta)


@dataclass(frozen=True)
class Declared:
    """What the declared mechanism shows with the same canaries: mean and spread over simulated runs."""

    difference: tuple[float, float]
    standardised: tuple[float, float]


def declared_shift(
    mechanism: SampledGaussian,
    included: Included,
    kept: float,
    generator: np.random.Generator,
    runs: int = 400,
) -> Declared:
    """Simulate the declared mechanism on the canaries' coordinates.

    An included canary is in each step with the sampling rate and then adds `kept` clip norms to its coordinate; every
    coordinate gets the declared noise in every step. The scores are in clip norms.

    Args:
        mechanism: Declared; all of its steps are simulated.
        included: Which canaries take part, shape (m,).
        kept: What clipping leaves of a canary's gradient, in clip norms; 1 for flat clipping.
        generator: Reproducible, so that a result can be checked.
        runs: Simulated runs.
    """
    noise = mechanism.noise_std / mechanism.clip_norm * math.sqrt(mechanism.steps)
    seen: list[Shift] = []
    for _ in range(runs):
        takes_part = generator.binomial(mechanism.steps, mechanism.sampling_rate, len(included)) * included
        seen.append(shift(kept * takes_part + noise * generator.standard_normal(len(included)), included))
    return Declared(
        difference=_mean_and_spread([one.difference for one in seen]),
        standardised=_mean_and_spread([one.standardised for one in seen]),
    )


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1))
