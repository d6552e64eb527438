"""What a mechanism costs, in epsilon, and how much noise a budget asks for.

Two of Opacus' accountants are used. PRV composes privacy losses numerically (Gopi et al. 2021,
https://arxiv.org/abs/2106.02848) and reports an upper bound within 0.02 of the truth; it is what we
print. RDP (Mironov 2017, https://arxiv.org/abs/1702.07476) is a looser upper bound from a formula.

Opacus' third one, `GaussianAccountant`, is not offered: it rests on a central limit theorem and
under-reports (noise 0.6, sampling rate 0.005, 300 steps, delta 1e-5: 1.28 where PRV gives 3.21).
An epsilon that is too small is worse than none.

Every epsilon here is for one delta, the unit and the neighbours that `SampledGaussian` names.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.prv import (
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    compute_safe_domain_size,
    discretize,
)

from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.mechanism import SampledGaussian

Accountant: TypeAlias = Literal["prv", "rdp"]

_EPSILON_ERROR = 0.01  # what PRVAccountant allows by default; it is added to the reported bound
_DELTA_ERROR_SHARE = 1 / 1000  # of delta, as in PRVAccountant
_LARGEST_GRID = 2**23  # points; some ten float64 arrays of this size are held, 0.7 GB
# Whole orders are a hundred times faster than fractions, of which weak noise needs a few.
_FEW_ORDERS = [1.1, 1.2, 1.35, 1.5, 1.75, *range(2, 64), 128, 256, 512, 1024]
# Large orders matter when noise is strong, small fractions when it is weak.
_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 64, 96, 128, 192, 256, 512, 1024]
_SMALLEST_TARGET = 0.05  # PRV's own error of 0.01 would dominate below
_NOISE_RANGE = (0.1, 1e5)
_TOLERANCE = 1e-3


def epsilon(mechanism: SampledGaussian, delta: float, accountant: Accountant = "prv") -> float:
    """The epsilon spent by `mechanism` at `delta`, as an upper bound.

    Args:
        mechanism: What was or will be run.
        delta: Between 0 and 1, usually below one over the number of people.
        accountant: "prv" (tight) or "rdp" (looser).

    Raises:
        UsageError: If `delta` or `accountant` is not one of these, or the numerics give no answer,
            which happens far outside epsilon 0.01 to 100; it says what to change.

    >>> mechanism = SampledGaussian(noise_multiplier=1.0, sampling_rate=1 / 15, steps=300, clip_norm=1.0)
    >>> round(epsilon(mechanism, 1e-5), 1)
    7.9
    """
    _check_delta(delta)
    if accountant not in ("prv", "rdp"):
        raise UsageError(
            f"expected the accountant prv or rdp, got {accountant!r}; gdp is not offered because it under-reports"
        )
    return _epsilon(accountant, mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps, delta)


def epsilons(mechanism: SampledGaussian, delta: float) -> dict[str, float]:
    """The epsilon of every accountant by its name; errors as `epsilon`."""
    return {
        "prv": epsilon(mechanism, delta, "prv"),
        "rdp": epsilon(mechanism, delta, "rdp"),
    }


def curve(mechanism: SampledGaussian, delta: float, points: int | Sequence[int] = 50) -> tuple[tuple[int, float], ...]:
    """PRV's epsilon against steps, up to all of the mechanism's steps.

    The privacy loss is discretised once and composed for every point, so a curve costs little more
    than one epsilon. Each value is an upper bound; the last one equals `epsilon`, others differ
    from it by less than PRV's error of 0.02 because the grid is that of all steps.

    Args:
        mechanism: Its `steps` are the end of the curve.
        delta: Between 0 and 1.
        points: How many step counts, evenly spread and ending at `mechanism.steps` (fewer if there
            are fewer steps), or the step counts themselves, each in 1..`mechanism.steps`.

    Returns:
        Pairs (steps, epsilon), in the order of the points.

    Raises:
        UsageError: As `epsilon`, or if a point is outside the mechanism's steps.
    """
    _check_delta(delta)
    total = mechanism.steps
    if isinstance(points, int):
        if points < 1:
            raise UsageError(f"expected at least 1 point, got {points}")
        count = min(points, total)
        chosen = [max(1, round(total * (index + 1) / count)) for index in range(count)]
    else:
        chosen = [int(point) for point in points]
        if any(not 1 <= point <= total for point in chosen):
            raise UsageError(
                f"expected points in 1..{total}, got {min(chosen)}..{max(chosen)}; give the mechanism all its steps"
            )
    sigma, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    delta_error = delta * _DELTA_ERROR_SHARE
    with _explained(sigma, rate, total, delta):
        loss = PoissonSubsampledGaussianPRV(rate, sigma)
        # As PRVAccountant does it, with the composition put into the loop.
        reach = compute_safe_domain_size([loss], [total], _EPSILON_ERROR, delta_error)
        mesh = _mesh(total, delta_error)
        _check_grid(reach, mesh)
        domain = Domain.create_aligned(-reach, reach, mesh)
        once = discretize(TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max), domain)
        result = []
        for steps in chosen:
            composed = compose_heterogeneous([once], [steps])
            _, _, upper = composed.compute_epsilon(delta, delta_error, _EPSILON_ERROR)
            result.append((steps, _checked(upper)))
    return tuple(result)


def calibrate(*, epsilon: float, delta: float, sampling_rate: float, steps: int, clip_norm: float) -> SampledGaussian:
    """The mechanism with the least noise whose PRV epsilon is at most `epsilon`.

    The noise multiplier is found by bisection, guided by interpolation, to a relative 1e-3; the
    returned side of the bracket is the one that keeps the promise, so its epsilon is never above
    the target.

    Args:
        epsilon: The target, at least 0.05.
        delta: Between 0 and 1.
        sampling_rate: Probability of taking part in a step, in (0, 1].
        steps: How many steps in all.
        clip_norm: Bound on one person's contribution.

    Raises:
        UsageError: If an argument is out of range, or no noise multiplier in 0.1..100000 is right;
            it says what to change.
    """
    _check_delta(delta)
    if not _SMALLEST_TARGET <= epsilon < math.inf:
        raise UsageError(f"expected a finite epsilon of at least {_SMALLEST_TARGET}, got {epsilon}; raise it")
    # Building it checks the other arguments before any time is spent.
    template = SampledGaussian(noise_multiplier=1.0, sampling_rate=sampling_rate, steps=steps, clip_norm=clip_norm)
    sigma = _calibrated(float(epsilon), delta, float(sampling_rate), template.steps)
    return SampledGaussian(noise_multiplier=sigma, sampling_rate=sampling_rate, steps=steps, clip_norm=clip_norm)


@lru_cache(maxsize=256)
def _calibrated(target: float, delta: float, rate: float, steps: int) -> float:
    def spent(sigma: float) -> float:
        return _epsilon("prv", sigma, rate, steps, delta)

    # RDP is cheap and never far below PRV, so its answer is near the safe end of the bracket. It
    # also keeps PRV away from noise so weak that its grid would be huge.
    high = _rdp_noise(target, delta, rate, steps)
    high_spent = spent(high)
    while high_spent > target:
        high *= 1.02
        high_spent = spent(high)
    low = high / 1.08
    while (low_spent := spent(low)) <= target:
        high, high_spent = low, low_spent
        low /= 1.12
        if low < _NOISE_RANGE[0]:
            raise UsageError(
                f"expected a target that needs noise, got epsilon {target} with sampling rate "
                f"{rate:g} over {steps} steps, which even a noise multiplier of "
                f"{_NOISE_RANGE[0]} keeps; "
                "lower epsilon or delta"
            )
    attempt = 0
    while high / low > 1 + _TOLERANCE:
        attempt += 1
        guess = math.sqrt(low * high)
        if attempt % 3:
            # Nearly straight in logarithms. The guess stays inside by most of the tolerance, so
            # that one hit on either side of the root ends the search.
            slope = math.log(low_spent / target) / math.log(low_spent / max(high_spent, 1e-3))
            margin = 1 + 0.9 * _TOLERANCE
            guess = low * (high / low) ** slope
            guess = min(max(guess, low * margin), high / margin)
        if (guess_spent := spent(guess)) <= target:
            high, high_spent = guess, guess_spent
        else:
            low, low_spent = guess, guess_spent
    return high


def _rdp_noise(target: float, delta: float, rate: float, steps: int) -> float:
    """A noise multiplier whose RDP epsilon is near `target` and not above it."""
    low, high = _NOISE_RANGE

    def spent(sigma: float) -> float:
        accountant = RDPAccountant()
        accountant.history.append((sigma, rate, steps))
        with _explained(sigma, rate, steps, delta):
            return float(accountant.get_epsilon(delta, alphas=_FEW_ORDERS))

    if spent(high) > target:
        raise UsageError(
            f"expected a target within reach, got epsilon {target} at delta {delta} over {steps} "
            f"steps, which even a noise multiplier of {high:g} does not keep; "
            "take fewer steps or a larger epsilon"
        )
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        if spent(middle) <= target:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=4096)
def _epsilon(accountant: Accountant, sigma: float, rate: float, steps: int, delta: float) -> float:
    history = (sigma, rate, steps)
    with _explained(sigma, rate, steps, delta):
        if accountant == "rdp":
            rdp = RDPAccountant()
            rdp.history.append(history)
            return _checked(rdp.get_epsilon(delta, alphas=_ORDERS))
        prv = PRVAccountant()
        prv.history.append(history)
        delta_error = delta * _DELTA_ERROR_SHARE
        rough = RDPAccountant()
        rough.history.append(history)
        reach = rough.get_epsilon(delta_error / 4, alphas=_FEW_ORDERS)
        _check_grid(reach, _mesh(steps, delta_error))
        return _checked(prv.get_epsilon(delta, eps_error=_EPSILON_ERROR, delta_error=delta_error))


def _mesh(steps: int, delta_error: float) -> float:
    return _EPSILON_ERROR / math.sqrt(steps * math.log(12 / delta_error) / 2)


def _check_grid(reach: float, mesh: float) -> None:
    # The grid covers -reach..reach. Above 700, exp(reach) is no float64 any more.
    if not (reach < 700 and 2 * reach / mesh < _LARGEST_GRID):
        raise ValueError(f"the grid would reach {reach:.3g} in steps of {mesh:.3g}")


def _checked(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("the result is not finite")
    return max(0.0, float(value))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UsageError(f"expected a delta between 0 and 1, got {delta}; take less than one over the people")


@contextmanager
def _explained(sigma: float, rate: float, steps: int, delta: float) -> Iterator[None]:
    """Turn the accountants' failures into what to change, and keep their known noise quiet."""
    try:
        with warnings.catch_warnings(), np.errstate(divide="ignore"):
            # RDP only sizes the grid or is looser where the best order is the last one: safe.
            warnings.filterwarnings("ignore", message="Optimal order is")
            # A sampling rate of 1 makes Opacus take log(1 - q) = -inf, which it handles.
            yield
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        raise UsageError(
            "expected a mechanism whose epsilon can be computed, got "
            f"noise_multiplier={sigma:g}, sampling_rate={rate:g}, steps={steps}, delta={delta:g} "
            f"({error}); move the noise multiplier towards 1, take fewer steps or a larger delta, "
            "or ask the rdp accountant"
        ) from error
