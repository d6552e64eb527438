"""The noise of a release: Gaussian, rounded to integers, from secret bytes.

Why rounding a continuous Gaussian is enough. An encoded sum x is an integer, so x + round(N) = round(x + N): a
post-processing of the continuous Gaussian mechanism, which is what accounting reads. Discreteness costs nothing where
one party adds all the noise. Where several add theirs, sums of rounded Gaussians are almost such a post-processing:
`sum_divergence` says how nearly. What is left are the errors of 64-bit floating point: `sampler_slack` bounds them.
Both are charged. The low bits of a float64 Gaussian, by which Mironov 2012 (https://doi.org/10.1145/2382196.2382264)
and Jin et al. 2022 (https://arxiv.org/abs/2112.05307) recover what was hidden, are never released: what leaves is an
integer that many thousand million representable draws lead to.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from silhouette_shared.errors import UsageError
from silhouette_shared.randomness import SecretBytes

SMALLEST_STD, LARGEST_STD = 64.0, 2.0**32
"""In grid units. Below, the grid is too coarse for the arguments here; above, float64 is."""

_PAIRS = 32768  # in one block: larger ones leave the cache, smaller ones pay for calls; torch splits none over threads
_ONE = np.uint64(0x3FF0000000000000)  # the bits of 1.0
_FRACTION = np.uint64(12)  # a word's upper 52 bits become the fraction of a number in [1, 2)
_SIGN = np.uint64(63)  # a word's last bit becomes the sign of a number
_HALF_STEP = 2.0**-53
_COARSE = 2.0**-10  # below it, a uniform of 52 bits has too few left and takes 128
_TO_INTEGER = 1.5 * 2.0**52  # adding it rounds to the nearest integer and leaves that in the low bits
_TO_INTEGER_BITS = np.int64(np.float64(_TO_INTEGER).view(np.int64))

# sin(x) = x + x (x^2 p(x^2)) on (-pi/4, pi/4) with a relative error below 2^-58: fdlibm, k_sin.c, highest power first.
_SINE = (
    1.58969099521155010221e-10,
    -2.50507602534068634195e-08,
    2.75573137070700676789e-06,
    -1.98412698298579493134e-04,
    8.33333333332248946124e-03,
    -1.66666666666666324348e-01,
)

_REACH = 12.0  # standard deviations up to which cell probabilities are compared
_ERROR_A_RADIUS = 20.0  # kappa below, in units of 2^-53
_UNIFORM_ERROR = 256.0  # E[a^2] below, in units of 2^-106
_LARGEST_SLACK = 0.1


@dataclass(frozen=True)
class Slack:
    """What an imperfect draw adds to the guarantee of the perfect one.

    Whatever one run releases has, under the real draws, a probability within a factor e^epsilon of that under the
    perfect ones, in both directions, but for a part of probability `delta`.
    """

    epsilon: float
    delta: float


def rounded_gaussian(
    count: int, std: float, secret: SecretBytes, *, out: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Independent draws of round(N(0, std^2)).

    Box and Muller 1958 in float64: a radius sqrt(-2 ln U) and an angle give two independent Gaussians (a sine and
    the side of the half circle stand for the angle's cosine, which is the dearest part). U has 52
    bits, and 128 where it is small, so that the tail is resolved out to 13 standard deviations.

    Args:
        count: How many.
        std: Standard deviation in grid units, 64 to 2^32.
        secret: Where the bytes come from: 16 a pair, and a few more.
        out: Written instead of a new array, shape (count,).

    Raises:
        UsageError: If `std` is outside its range.

    >>> from silhouette_shared.randomness import SecureSource
    >>> rounded_gaussian(3, 1000.0, SecureSource()).shape
    (3,)
    """
    _check_std(std)
    drawn = np.empty(count, dtype=np.int64) if out is None else out
    if drawn.shape != (count,) or drawn.dtype != np.int64:
        raise ValueError(f"expected an int64 array of shape ({count},) to write to, got {drawn.dtype} {drawn.shape}")
    # Whole blocks are computed where they end up: memory is what this would wait for.
    spare = np.empty((2, _PAIRS))
    whole = count - count % (2 * _PAIRS)
    for start in range(0, whole, 2 * _PAIRS):
        _fill(drawn[start : start + 2 * _PAIRS], std, secret, spare)
    if rest := count - whole:
        last = np.empty(rest + rest % 2, dtype=np.int64)
        _fill(last, std, secret, spare)
        drawn[whole:] = last[:rest]
    return drawn


def _fill(block: npt.NDArray[np.int64], std: float, secret: SecretBytes, spare: npt.NDArray[np.float64]) -> None:
    """Draw a block of an even size: the first of every pair, then the second of every pair."""
    pairs = len(block) // 2
    bits = np.frombuffer(secret.bytes(16 * pairs), dtype="<u8")
    words = block.view(np.uint64)
    np.right_shift(bits, _FRACTION, out=words)
    np.bitwise_or(words, _ONE, out=words)
    numbers = block.view(np.float64)  # all in [1, 2)
    radius, sine = numbers[:pairs], numbers[pairs:]
    square, cosine = spare[0, :pairs], spare[1, :pairs]
    np.subtract(radius, 1 - _HALF_STEP, out=radius)  # exact: an odd multiple of 2^-53 in (0, 1)
    _resolve(radius, bits[:pairs], secret)
    logarithm = torch.from_numpy(radius)  # twice as fast as NumPy's on float64
    torch.log(logarithm, out=logarithm)
    np.multiply(radius, -8.0 * std * std, out=radius)
    np.sqrt(radius, out=radius)  # twice the radius
    # Half the angle lies in (-pi/4, pi/4), where the cosine follows from the sine without loss; the last bit of the
    # word says on which side of the half circle the first of the pair lies.
    np.subtract(sine, 1.5 - _HALF_STEP, out=sine)  # exact, in (-1/2, 1/2)
    np.multiply(sine, math.pi / 2, out=sine)
    np.multiply(sine, sine, out=square)
    np.multiply(square, _SINE[0], out=cosine)
    for coefficient in _SINE[1:]:
        np.add(cosine, coefficient, out=cosine)
        np.multiply(cosine, square, out=cosine)
    np.multiply(cosine, sine, out=cosine)
    np.add(sine, cosine, out=sine)
    np.multiply(sine, sine, out=square)
    np.subtract(1.0, square, out=cosine)
    np.sqrt(cosine, out=cosine)
    np.multiply(sine, cosine, out=sine)
    np.multiply(sine, radius, out=sine)  # 2 sin cos r = r sin(angle)
    np.subtract(0.5, square, out=square)
    np.multiply(square, radius, out=radius)  # (1 - 2 sin^2) r = r cos(angle)
    side = cosine.view(np.uint64)
    np.left_shift(bits[pairs:], _SIGN, out=side)
    np.bitwise_xor(words[:pairs], side, out=words[:pairs])
    np.add(numbers, _TO_INTEGER, out=numbers)
    np.subtract(block, _TO_INTEGER_BITS, out=block)


def drawn_beside(count: int, std: float, secret: SecretBytes) -> Future[npt.NDArray[np.int64]]:
    """Start `rounded_gaussian` in a thread of its own and go on; `result()` waits for it.

    The cipher and the arithmetic run outside Python's lock, so a step that computes meanwhile pays little on a
    machine with a core to spare. What went wrong is raised by `result()`, a wrong `std` at once.
    """
    _check_std(std)
    worker = ThreadPoolExecutor(1, thread_name_prefix="noise")
    try:
        return worker.submit(rounded_gaussian, count, std, secret)
    finally:
        worker.shutdown(wait=False)  # the thread ends with its one draw


def sampler_slack(size: int, steps: int, std: float, *, parties: int = 1, delta: float) -> Slack:
    """What the float64 arithmetic of `rounded_gaussian` costs over a whole run.

    Proven, given that `log` is right to 2 units in the last place (the vector library that torch uses on a CPU claims
    1), `sqrt`, sums and products correctly rounded (IEEE 754), and the bytes uniform:

    1. Couple every drawn pair with the ideal one that has the same leading bits. Before rounding to integers, a
       coordinate of the pair differs by at most `std 2^-53 (kappa r + a)` at radius r, in units of 2^-53: the angle by
       half a lattice step, pi, by its product, 1.6, and by the sine of its half, 5.7 (2 units, over a cosine of 0.7,
       doubled); the cosine, its root and the products by 2.7; the logarithm by 2, root and scale by 1.5. That is less
       than kappa = 20. U is off by 2^-53, which moves the radius by a = 1 / (U r).
    2. So a cell of two integers has under the real draw at most the ideal probability of the cell grown by that
       distance on each side, and at least that of the cell shrunk by it. The ratio is 1 + t with
       |t| <= 4 m std 2^-53 (kappa r + a), where m bounds how much the density varies across the cell.
    3. The Renyi divergence of order alpha of a pair is at most alpha/2 E[t^2 exp(alpha |t|)], in both directions, with
       E[r^2] = 2 and E[a^2 exp(c a)] < 256 + exp(2 c std) - 1: near r = 0 only the borders of cells count, which lie
       at r > 1 / (2 std). Divergences add over independent pairs, and are converted to epsilon at `delta` by Mironov
       2017, proposition 3 (https://arxiv.org/abs/1702.07476), at the best of many orders.
    4. Beyond 12 standard deviations nothing is compared: the total variation there, e^-72 a pair, goes to delta.

    Args:
        size: Coordinates of one release.
        steps: Releases.
        std: Standard deviation of one party's draw in grid units.
        parties: How many add such a draw.
        delta: What the conversion may put into delta.

    Raises:
        UsageError: If `std` is outside its range, or so many draws are asked for that the bound is none.
    """
    _check_std(std)
    pairs = (size + 1) // 2 * steps * parties
    # Across a cell and what it grows by, 1.5 along any direction, the log density changes by 1.5 r / std at most.
    unit = 4 * math.exp(1.5 * _REACH / std) * std * 2.0**-53
    best = math.inf
    for order in (2.0 ** (n / 4) for n in range(4, 160)):
        far, near = order * unit * (_ERROR_A_RADIUS * _REACH + 1), order * unit * 2 * std
        if far > 1 or near > 300:
            break
        square = unit**2 * 2 * (2 * _ERROR_A_RADIUS**2 + _UNIFORM_ERROR + math.expm1(near)) * math.exp(far)
        best = min(best, pairs * order / 2 * square + math.log(1 / delta) / (order - 1))
    if best > _LARGEST_SLACK:
        raise UsageError(
            f"expected draws whose numerical error costs an epsilon below {_LARGEST_SLACK:g}, got {best:.3g} for "
            f"{pairs:.3g} pairs of standard deviation {std:g} grid steps; take a coarser grid (privacy.grid_bits)"
        )
    return Slack(epsilon=best, delta=delta + 2 * pairs * math.exp(-(_REACH**2) / 2))


def sum_divergence(std: float, parties: int, size: int) -> float:
    """How far a sum of several parties' rounded Gaussians is from a post-processing of one Gaussian, in epsilon.

    Write each party's Gaussian as N_i = K_i + F_i, an integer and a residual. What is released is x + sum K_i, that
    is z - sum F_i with z = x + sum N_i, the continuous mechanism. Draw other residuals from the law that the true
    ones have given sum N_i = z: this is a post-processing of z, and would be exact if that law did not depend on the
    integer x. It does, but little: given the sum, the joint density of the residuals is a Gaussian summed over a
    shifted copy of the lattice A of integer vectors with sum zero, which is its mean times 1 +- e, where
    e = sum over the dual lattice without 0 of exp(-2 pi^2 std^2 |w|^2) (Poisson summation; Micciancio and Regev 2007,
    lemma 2.8). A dual vector is an integer vector k minus its mean; choose k with median zero, then pairing positive
    with other coordinates gives |w|^2 >= |k|^2 / 2, so 1 + e <= (sum over integers j of exp(-pi^2 std^2 j^2))^n.

    Args:
        std: Standard deviation of one party's draw in grid units, positive.
        parties: How many add such a draw, n.
        size: Coordinates, over all releases.

    Returns:
        An upper bound on the logarithm of the ratio between the real and the post-processed law, 0 for one party.
        With `std` of 64 or more it is below 10^-17000 a coordinate, which the smallest float64 stands for.
    """
    if parties == 1:
        return 0.0
    # Three times the first term bounds the two-sided sum over j != 0 while that term is below 1/3.
    first = math.exp(-((math.pi * std) ** 2))
    if first > 1 / 3:
        return math.inf
    excess = math.expm1(parties * math.log1p(3 * first))
    if excess >= 1:
        return math.inf
    return max(size * (math.log1p(excess) - math.log1p(-excess)), math.ulp(0.0))


def _resolve(uniform: npt.NDArray[np.float64], bits: npt.NDArray[np.uint64], secret: SecretBytes) -> None:
    """Give small uniforms the rest of their word and 64 bits more: they decide the tail of the Gaussian."""
    small = (uniform < _COARSE).nonzero()[0]
    if len(small):
        finer = np.frombuffer(secret.bytes(8 * len(small)), dtype="<u8")
        # 128 zero bits would have no logarithm; half of the last bit keeps the number positive.
        uniform[small] = bits[small] * 2.0**-64 + (finer + 0.5) * 2.0**-128


def _check_std(std: float) -> None:
    if not SMALLEST_STD <= std <= LARGEST_STD:
        raise UsageError(
            f"expected noise of 64 to 2^32 grid steps, got {std:g}; take a finer or coarser grid (privacy.grid_bits)"
        )
