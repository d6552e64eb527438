"""What mechanisms cost, in epsilon, and how much noise a budget asks for.

Three accountants, each an upper bound for the composition of everything that a budget pays (statistics, training,
metrics, failed rounds), for adding or removing one person:

- PLD composes discretised privacy loss distributions (Google's dp-accounting; connect-the-dots, Doroshenko et al. 2022,
  https://arxiv.org/abs/2207.04380). It is what we print and what noise is calibrated by.
- PRV composes privacy losses in another way, in another library (Opacus; Gopi et al. 2021,
  https://arxiv.org/abs/2106.02848). It reports at most 0.02 more, and has to agree before noise is used.
- RDP (Mironov 2017, https://arxiv.org/abs/1702.07476) is a looser upper bound from a formula.

Opacus' `GaussianAccountant` is not offered: it rests on a central limit theorem and under-reports (noise 0.6, sampling
rate 0.005, 300 steps, delta 1e-5: 1.28 where PLD gives 3.20). An epsilon that is too small is worse than none.

What the mechanisms' own description says and the formulas do not know is taken out of delta first, and added to
epsilon: samples that a cap would cut, the float64 arithmetic of the noise, sums of several parties' rounded noise
(`split`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism
from opacus.accountants import PRVAccountant, RDPAccountant

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.cap import batch_cap, overflow_delta
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.noise import sampler_slack, sum_divergence

Accountant: TypeAlias = Literal["pld", "prv", "rdp"]
ACCOUNTANTS: tuple[Accountant, ...] = ("pld", "prv", "rdp")
Spending: TypeAlias = tuple[SampledGaussian, ...]
"""Everything that one budget pays, in the order of paying: statistics, training, metrics, failed rounds."""

SMALLEST_DELTA = 1e-11
"""Below it the Fourier transforms of both numerical accountants round by as much as they measure."""

DISAGREEMENT = 0.02
"""How far PLD and PRV may lie apart, for an epsilon of up to 50; 1 in 2,500 of a larger one."""

_Steps: TypeAlias = tuple[tuple[float, float, int], ...]  # noise multiplier, sampling rate, how often

_EPSILON_ERROR = 0.01  # what PRVAccountant allows by default; it is added to the reported bound
_DELTA_ERROR_SHARE = 1 / 1000  # of delta, as in PRVAccountant
_LARGEST_GRID = 2**23  # points; some ten float64 arrays of this size are held, 0.7 GB
# Connect-the-dots is an upper bound on any grid; on this one it is above the truth by less than 0.001.
_INTERVAL = 1e-3
_SMALLEST_INTERVAL = 1e-5
_LOSS_POINTS = 2**17  # of one step's losses on the grid of all
_TRANSFORM_ERROR = 1e-13  # of delta; five times the worst that was seen against the exact Gaussian
# Whole orders are a hundred times faster than fractions, of which weak noise needs a few.
_FEW_ORDERS = [1.1, 1.2, 1.35, 1.5, 1.75, *range(2, 64), 128, 256, 512, 1024]
_FEWER_ORDERS = [1.35, *range(2, 33), 48, 64, 128, 256, 512, 1024]  # to begin a search with
# Large orders matter when noise is strong, small fractions when it is weak.
_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 64, 96, 128, 192, 256, 512, 1024]
_SMALLEST_TARGET = 0.05  # the accountants' own error would dominate below
_NOISE_RANGE = (0.1, 1e5)
_TOLERANCE = 1e-3
_CAP_REACH = 3.0  # the cap holds up to this many epsilons, so that a person at several partners has one at this delta
_SAMPLER_SHARE = 1 / 200  # of delta, for the conversion of the sampler's numerical error


@dataclass(frozen=True)
class Split:
    """Where delta goes, and what arithmetic adds to epsilon.

    Args:
        delta: Of the whole.
        formula: What is left for the accountants.
        overflow: For samples larger than their cap.
        sampler: For the float64 arithmetic of the noise.
        epsilon: Added to the accountants' epsilon: arithmetic, and sums of several parties' rounded noise.
    """

    delta: float
    formula: float
    overflow: float
    sampler: float
    epsilon: float


def epsilon(
    spending: SampledGaussian | Sequence[SampledGaussian], delta: float, accountant: Accountant = "pld"
) -> float:
    """The epsilon spent by everything in `spending` together at `delta`, as an upper bound.

    Args:
        spending: What was or will be run, one mechanism or several on the same people.
        delta: Between 0 and 1, usually below one over the number of people.
        accountant: "pld" or "prv" (tight), or "rdp" (looser).

    Raises:
        UsageError: If `delta` or `accountant` is not one of these, the caps and the arithmetic take all of delta, or
            the numerics give no answer, which happens far outside epsilon 0.01 to 100; it says what to change.

    >>> mechanism = SampledGaussian(noise_multiplier=1.0, sampling_rate=1 / 15, steps=300, clip_norm=1.0)
    >>> round(epsilon(mechanism, 1e-5), 1)
    7.9
    >>> round(epsilon([mechanism, SampledGaussian.once(noise_multiplier=4.0, clip_norm=1.0)], 1e-5), 1)
    8.0
    """
    paid = _paid(spending)
    _check_delta(delta)
    if accountant not in ACCOUNTANTS:
        figures = ""
        if str(accountant) == "gdp":
            figures = (
                "; gdp is not offered because it under-reports: 1.28 where pld gives 3.20 "
                "(noise 0.6, sampling rate 0.005, 300 steps, delta 1e-5)"
            )
        raise UsageError(f"expected the accountant pld, prv or rdp, got {accountant!r}{figures}")
    steps = _steps(paid)
    bound = _epsilon(accountant, steps, delta)
    if all(m.overflow in (None, 0.0) and not m.grid_step for m in paid):
        return bound
    # What is taken out of delta depends on epsilon and the other way round: guess a bound and see that it holds.
    for _ in range(8):
        bound += 0.01
        parts = split(paid, delta, bound)
        spent = _epsilon(accountant, steps, parts.formula) + parts.epsilon
        if spent <= bound:
            return spent
        bound = spent
    raise UsageError(
        f"expected caps and arithmetic that leave most of delta {delta:g}, got an epsilon that passes {bound:.4g}; "
        "take larger caps, a coarser grid or a larger delta"
    )


def epsilons(spending: SampledGaussian | Sequence[SampledGaussian], delta: float) -> dict[str, float]:
    """The epsilon of every accountant by its name; errors as `epsilon`."""
    return {accountant: epsilon(spending, delta, accountant) for accountant in ACCOUNTANTS}


def split(spending: SampledGaussian | Sequence[SampledGaussian], delta: float, epsilon: float) -> Split:
    """How much of delta is left for the accountants, with what arithmetic adds to epsilon.

    Let the real run R be close to the ideal one I that the accountants know: whatever is released has a probability
    under R of at most e^a times that under I plus b, and the other way round. If I is (e, d)-private, R is
    (e + 2a, e^a d + (1 + e^(e + a)) b)-private. Here a sums what `sampler_slack` and `sum_divergence` say, and b
    the chance that a sample overflows and what `sampler_slack` leaves out.

    Args:
        spending: What is run.
        delta: Of the whole.
        epsilon: Of the whole, or an upper bound on it.

    Raises:
        UsageError: If nothing is left; it says what takes it.
    """
    paid = _paid(spending)
    on_grid = [m for m in paid if m.grid_step]
    # (1 + e^epsilon) is a number of any size, so shares of delta are divided by it in logarithms.
    log_weight = epsilon + math.log1p(math.exp(-epsilon))
    away = cut = sampled = 0.0
    for mechanism in paid:
        cut += overflow_delta(mechanism.overflow or 0.0, mechanism.steps, epsilon)
    for mechanism in on_grid:
        converted = math.exp(max(math.log(_SAMPLER_SHARE * delta / len(on_grid)) - log_weight, -700.0))
        std = mechanism.share_std
        slack = sampler_slack(mechanism.size, mechanism.steps, std, parties=mechanism.shares, delta=converted)
        away += slack.epsilon + sum_divergence(std, mechanism.shares, mechanism.size * mechanism.steps)
        sampled += math.exp(math.log(slack.delta) + log_weight)
    left = (delta - cut - sampled) * math.exp(-away)
    if not 0 < left <= delta:
        raise UsageError(
            f"expected caps and arithmetic that leave some of delta {delta:g}, got {cut:.3g} for samples larger than "
            f"their cap and {sampled:.3g} for arithmetic at epsilon {epsilon:.4g}; take a larger cap or a larger delta"
        )
    return Split(delta=delta, formula=left, overflow=cut, sampler=sampled, epsilon=2 * away)


def curve(
    mechanism: SampledGaussian,
    delta: float,
    points: int | Sequence[int] = 50,
    *,
    beside: Sequence[SampledGaussian] = (),
) -> tuple[tuple[int, float], ...]:
    """PLD's epsilon against steps, up to all of the mechanism's steps.

    Every point composes the one before with the steps between, so a curve costs little more than a few epsilons.
    What caps and arithmetic take is taken for all steps at every point. Each value is an upper bound.

    Args:
        mechanism: Its `steps` are the end of the curve.
        delta: Between 0 and 1.
        points: How many step counts, evenly spread and ending at `mechanism.steps` (fewer if there
            are fewer steps), or the step counts themselves, each in 1..`mechanism.steps`.
        beside: What the same budget has paid before the first step.

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
    everything = (*beside, mechanism)
    spent = epsilon(everything, delta)
    parts = split(everything, delta, spent)
    steps = _steps(everything)
    interval = _interval(steps)
    found: dict[int, float] = {}
    with _explained(steps, delta):
        composed, done = (_composed(_steps(beside), interval) if beside else None), 0
        for point in sorted(set(chosen)):
            part = _loss(mechanism.noise_multiplier, mechanism.sampling_rate, point - done, interval)
            composed, done = part if composed is None else composed.compose(part), point
            found[point] = _read(composed, parts.formula) + parts.epsilon
    return tuple((point, found[point]) for point in chosen)


def calibrate(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    clip_norm: float,
    beside: Sequence[SampledGaussian] = (),
    people_bound: int | None = None,
    grid: Grid | None = None,
    size: int = 0,
    shares: int = 1,
) -> SampledGaussian:
    """The mechanism with the least noise whose PLD epsilon, with all beside it, is at most `epsilon`.

    The noise multiplier is found by bisection, guided by interpolation, to a relative 1e-3; the returned side of the
    bracket is the one that keeps the promise, so its epsilon is never above the target. PRV is asked once at the
    end: two accountants that share neither formula nor library have to agree before noise is used.

    Args:
        epsilon: The target, at least 0.05.
        delta: Between 1e-11 and 1.
        sampling_rate: Probability of taking part in a step, in (0, 1].
        steps: How many steps in all.
        clip_norm: Bound on one person's contribution.
        beside: What the same budget also pays; fixed.
        people_bound: A public bound on the partner's people, from which the batch cap follows; None takes no cap.
        grid: What the sums are rounded to before the noise; None draws without a grid.
        size: Coordinates of a sum, where there is a grid.
        shares: How many parties' draws make up the noise.

    Raises:
        UsageError: If an argument is out of range, or no noise multiplier in 0.1..100000 is right;
            it says what to change.
        IntegrityError: If PLD and PRV differ by more than `DISAGREEMENT`.
    """
    _check_delta(delta)
    if not _SMALLEST_TARGET <= epsilon < math.inf:
        raise UsageError(f"expected a finite epsilon of at least {_SMALLEST_TARGET}, got {epsilon}; raise it")
    # Building it checks the other arguments before any time is spent.
    wanted = SampledGaussian(
        noise_multiplier=1.0, sampling_rate=sampling_rate, steps=steps, clip_norm=clip_norm, shares=shares
    )
    if grid is not None:
        wanted = wanted.on_grid(grid, size)
    if people_bound is not None:
        cap = batch_cap(people_bound, float(sampling_rate), steps, _CAP_REACH * float(epsilon), delta)
        wanted = replace(wanted, batch_cap=cap.size, overflow=cap.overflow)
    other, rate = _steps(beside), float(sampling_rate)
    # Arithmetic costs more the more noise there is, and RDP asks for more than PLD does.
    bound = _rdp_noise(float(epsilon), delta, rate, steps, other)
    while True:
        parts = split((*beside, replace(wanted, noise_multiplier=bound)), delta, float(epsilon))
        sigma = _calibrated(float(epsilon) - parts.epsilon, parts.formula, rate, steps, other)
        if sigma <= bound or parts.epsilon == 0:
            break
        bound = 1.05 * sigma  # grows until it holds, or arithmetic leaves nothing and says so
    result = replace(wanted, noise_multiplier=sigma)
    _check_agreement(_steps((*beside, result)), parts.formula)
    return result


def _check_agreement(steps: _Steps, delta: float) -> None:
    pld, prv = (_epsilon(name, steps, delta) for name in ("pld", "prv"))
    if not abs(pld - prv) <= max(DISAGREEMENT, DISAGREEMENT / 50 * pld):
        raise IntegrityError(
            f"expected accountants that agree within {DISAGREEMENT}, got PLD {pld:.4f} and PRV {prv:.4f} for "
            f"{_named(steps)} at delta {delta:g}; do not train with this noise; "
            "take another setting and report this one"
        )


@lru_cache(maxsize=256)
def _calibrated(target: float, delta: float, rate: float, steps: int, other: _Steps) -> float:
    if target < _SMALLEST_TARGET / 2:
        raise UsageError(
            f"expected an epsilon that arithmetic leaves something of, got {target:.3g} left; "
            "take a larger epsilon or a coarser grid"
        )

    def spent(sigma: float) -> float:
        return _epsilon("pld", _merged((*other, (sigma, rate, steps))), delta)

    # RDP is cheap and never far below PLD, so its answer is near the safe end of the bracket. It
    # also keeps PLD away from noise so weak that its grid would be huge.
    high = _rdp_noise(target, delta, rate, steps, other)
    high_spent = spent(high)
    while high_spent > target:
        high *= 1.02
        if high > _NOISE_RANGE[1]:
            raise _out_of_reach(target, delta, steps, other)
        high_spent = spent(high)
    low, fall = high / 1.08, 1.12
    while (low_spent := spent(low)) <= target:
        high, high_spent = low, low_spent
        low, fall = low / fall, 1.3 * fall
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


def _out_of_reach(target: float, delta: float, steps: int, other: _Steps) -> UsageError:
    beside = f" beside {_named(other)}" if other else ""
    return UsageError(
        f"expected a target within reach, got epsilon {target} at delta {delta:g} over {steps} steps{beside}, which "
        f"even a noise multiplier of {_NOISE_RANGE[1]:g} does not keep; "
        "take fewer steps, a larger epsilon or less beside"
    )


@lru_cache(maxsize=256)
def _rdp_noise(target: float, delta: float, rate: float, steps: int, other: _Steps) -> float:
    """A noise multiplier whose RDP epsilon is near `target`, and not above it if there is such a one."""
    low, high = _NOISE_RANGE

    def spent(sigma: float) -> float:
        everything = _merged((*other, (sigma, rate, steps)))
        with _explained(everything, delta):
            return _rdp(everything, delta, _FEWER_ORDERS)

    if spent(high) > target:
        if other and _epsilon("pld", other, delta) <= target:
            return high  # RDP's slack on what is beside takes all; PLD decides, from the far end
        raise _out_of_reach(target, delta, steps, other)
    while high / low > 1.05:
        middle = math.sqrt(low * high)
        if spent(middle) <= target:
            high = middle
        else:
            low = middle
    return high


def _paid(spending: SampledGaussian | Sequence[SampledGaussian]) -> Spending:
    paid = (spending,) if isinstance(spending, SampledGaussian) else tuple(spending)
    if not paid:
        raise UsageError("expected at least one mechanism that is paid for, got none; name what was released")
    return paid


def _steps(spending: SampledGaussian | Sequence[SampledGaussian]) -> _Steps:
    paid = (spending,) if isinstance(spending, SampledGaussian) else spending
    return _merged(tuple((float(m.noise_multiplier), float(m.sampling_rate), m.steps) for m in paid))


def _merged(steps: _Steps) -> _Steps:
    """Equal mechanisms as one that is taken more often, in an order that does not depend on who paid first."""
    counted: dict[tuple[float, float], int] = {}
    for sigma, rate, count in steps:
        counted[sigma, rate] = counted.get((sigma, rate), 0) + count
    return tuple((sigma, rate, count) for (sigma, rate), count in sorted(counted.items()))


@lru_cache(maxsize=4096)
def _epsilon(accountant: Accountant, steps: _Steps, delta: float) -> float:
    if accountant != "rdp" and delta < SMALLEST_DELTA:
        raise UsageError(
            f"expected a delta of at least {SMALLEST_DELTA:g} for {accountant}, got {delta:g}: below, rounding in its "
            "Fourier transforms may hide what is spent; take a larger delta or ask the rdp accountant"
        )
    with _explained(steps, delta):
        if accountant == "rdp":
            return _checked(_rdp(steps, delta, _ORDERS))
        if accountant == "prv":
            return _prv(steps, delta)
        return _read(_composed(steps, _interval(steps)), delta)


def _rdp(steps: _Steps, delta: float, orders: list[float]) -> float:
    accountant = RDPAccountant()
    accountant.history.extend(steps)
    return float(accountant.get_epsilon(delta, alphas=orders))


def _prv(steps: _Steps, delta: float) -> float:
    accountant = PRVAccountant()
    accountant.history.extend(steps)
    delta_error = delta * _DELTA_ERROR_SHARE
    reach = _rdp(steps, delta_error / 4, _FEW_ORDERS)
    mesh = _EPSILON_ERROR / math.sqrt(sum(count for _, _, count in steps) * math.log(12 / delta_error) / 2)
    _check_grid(reach, mesh)
    return _checked(accountant.get_epsilon(delta, eps_error=_EPSILON_ERROR, delta_error=delta_error))


def _check_grid(reach: float, mesh: float) -> None:
    _check_reach(reach)
    if not 2 * reach / mesh < _LARGEST_GRID:  # it covers -reach..reach
        raise ValueError(f"the grid would reach {reach:.3g} in steps of {mesh:.3g}")


def _check_reach(reach: float) -> None:
    if not reach < 700:  # beyond, exp(reach) is no float64 any more
        raise ValueError(f"the grid would reach {reach:.3g}")


def _interval(steps: _Steps) -> float:
    """A grid fine enough for the weakest loss of one step, of the size q / sigma: rounding adds variance.

    And coarse enough for the strongest, of which no more than so many points are held.
    """
    weakest = min(rate / (sigma if rate < 1 else sigma / math.sqrt(count)) for sigma, rate, count in steps)
    reach = max(_reach(sigma if rate < 1 else sigma / math.sqrt(count)) for sigma, rate, count in steps)
    return max(min(_INTERVAL, max(_SMALLEST_INTERVAL, weakest / 8)), reach / _LOSS_POINTS)


def _reach(sigma: float) -> float:
    """Losses of one Gaussian lie within this of 0, but for e^-50 of them."""
    return 10 / sigma + 0.5 / sigma**2


def _composed(steps: _Steps, interval: float) -> PrivacyLossDistribution:
    parts = [_loss(sigma, rate, count, interval) for sigma, rate, count in steps]
    composed = parts[0]
    for part in parts[1:]:
        composed = composed.compose(part)
    return composed


@lru_cache(maxsize=64)
def _loss(sigma: float, rate: float, count: int, interval: float) -> PrivacyLossDistribution:
    if rate == 1:  # Gaussians compose to one Gaussian
        together = sigma / math.sqrt(count)
        _check_reach(_reach(together))
        return from_gaussian_mechanism(together, value_discretization_interval=interval)
    _check_reach(_reach(sigma))
    once = from_gaussian_mechanism(sigma, value_discretization_interval=interval, sampling_prob=rate)
    return once.self_compose(count)


def _read(composed: PrivacyLossDistribution, delta: float) -> float:
    return _checked(composed.get_epsilon_for_delta(delta - _TRANSFORM_ERROR))


def _checked(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("the result is not finite")
    return max(0.0, float(value))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UsageError(f"expected a delta between 0 and 1, got {delta}; take less than one over the people")


def _named(steps: _Steps) -> str:
    return ", ".join(
        f"noise_multiplier={sigma:g}, sampling_rate={rate:g}, steps={count}" for sigma, rate, count in steps
    )


@contextmanager
def _explained(steps: _Steps, delta: float) -> Iterator[None]:
    """Turn the accountants' failures into what to change, and keep their known noise quiet."""
    try:
        with warnings.catch_warnings(), np.errstate(divide="ignore"):
            # RDP only sizes the grid or is looser where the best order is the last one: safe.
            warnings.filterwarnings("ignore", message="Optimal order is")
            # A sampling rate of 1 makes Opacus take log(1 - q) = -inf, which it handles.
            yield
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"expected a mechanism whose epsilon can be computed, got {_named(steps)}, delta={delta:g} "
            f"({error}); move the noise multiplier towards 1, take fewer steps or a larger delta, "
            "or ask the rdp accountant"
        ) from error
