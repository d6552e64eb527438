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
from silhouette_shared.randomness import SecretBytes, SecureSource

SMALLEST_STD, LARGEST_STD = 64.0, 2.0**32
"""In grid units. Below, the grid is too coarse for the arguments here; above, float64 is."""

_PAIRS = 16384  # in one block: larger ones leave the cache, smaller ones pay for calls; torch splits none over threads
_COARSE = 2.0**-20  # below it, a uniform of 63 bits has too few left and takes 191
_TO_INTEGER = 1.5 * 2.0**52  # adding it rounds to the nearest integer and leaves that in the low bits
_TO_INTEGER_BITS = np.int64(np.float64(_TO_INTEGER).view(np.int64))

_REACH = 12.0  # standard deviations up to which cell probabilities are compared
_ERROR_A_RADIUS = 20.0  # kappa below, in units of 2^-53
_LARGEST_ERROR = 512.0  # kappa r + a below, where r is above 1
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

    Box and Muller 1958 in float64: a radius sqrt(-2 ln U) and an angle give two independent Gaussians. U has 63 bits,
    and 191 where it is small, so that the tail is resolved out to 16 standard deviations.

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
    scratch = _Scratch(min(_PAIRS, (count + 1) // 2))
    for start in range(0, count, 2 * _PAIRS):
        block = drawn[start : start + 2 * _PAIRS]
        pairs = (len(block) + 1) // 2
        if pairs < scratch.pairs:
            scratch = _Scratch(pairs)
        first, second = scratch.draw(std, secret)
        np.subtract(first, _TO_INTEGER_BITS, out=block[:pairs])
        np.subtract(second[: len(block) - pairs], _TO_INTEGER_BITS, out=block[pairs:])
    return drawn


class _Scratch:
    """Memory of one block, small enough for the processor's cache, as torch and NumPy see it."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs
        words = torch.empty(2 * pairs, dtype=torch.int64)
        self._bytes = words.numpy().view(np.uint8)
        self._of_radius, self._of_angle = words[:pairs], words[pairs:]
        self._radius, self._cosine, self._sine = torch.empty(3, pairs, dtype=torch.float64)
        self._uniform = self._radius.numpy()
        self._drawn = self._cosine.view(torch.int64).numpy(), self._sine.view(torch.int64).numpy()

    def draw(self, std: float, secret: SecretBytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first and the second of every pair, each plus `_TO_INTEGER_BITS`, shape (P,); until the next call."""
        if isinstance(secret, SecureSource):
            secret.write(16 * self.pairs, self._bytes)
        else:
            self._bytes[:] = np.frombuffer(secret.bytes(16 * self.pairs), dtype=np.uint8)
        radius, cosine, sine = self._radius, self._cosine, self._sine
        radius.copy_(self._of_radius).abs_().mul_(2.0**-63)  # U, in [0, 1]
        if self._uniform.min() < _COARSE:
            _resolve(self._uniform, self._of_radius.numpy(), secret)
        radius.log_().mul_(-2.0 * std * std).sqrt_()
        cosine.copy_(self._of_angle).mul_(math.pi * 2.0**-63)  # the angle, in [-pi, pi]
        torch.sin(cosine, out=sine)
        cosine.cos_().mul_(radius).add_(_TO_INTEGER)
        sine.mul_(radius).add_(_TO_INTEGER)
        return self._drawn


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

    Proven, given that `log`, `sin` and `cos` are right to 2 units in the last place (the vector library that torch uses
    on a CPU claims 1), `sqrt`, sums and products correctly rounded (IEEE 754), and the bytes uniform:

    1. Couple every drawn pair with the ideal one that has the same leading bits. Before rounding to integers, a
       coordinate of the pair differs by at most `std 2^-53 (kappa r + a)` at radius r. In units of 2^-53 the angle is
       off by 7.4: its word as a float64, pi and the product, 2.4 together, times pi. Sine and cosine are off by 2; the
       logarithm by 2, halved from 4 by the root; root and scale by 2.5; the last product by 1. That is less than kappa
       = 20. U is off by its rounding, 2^-54 and U 2^-53 at most, and its grid, 2^-63, which moves the radius by
       a = 1.01 / (U r) units at most, and by a = (2 + 2^-9 / U) / r; where U is below 2^-20, by three roundings of
       itself, which is a = 6 / r. So kappa r + a is at most 512 where r is above 1.
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
        far, near = order * unit * _LARGEST_ERROR, order * unit * 2 * std
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


def _resolve(uniform: npt.NDArray[np.float64], words: npt.NDArray[np.int64], secret: SecretBytes) -> None:
    """Give small uniforms the rest of their word and 128 bits more: they decide the tail of the Gaussian."""
    (small,) = (uniform < _COARSE).nonzero()
    whole = words[small] ^ (words[small] >> 63)  # 0 to 2^63 - 1: two words of other signs for each
    finer = np.frombuffer(secret.bytes(16 * len(small)), dtype="<u8").reshape(2, -1)
    # 191 zero bits would have no logarithm; half of the last bit keeps the number positive.
    uniform[small] = whole * 2.0**-63 + (finer[0] * 2.0**-127 + (finer[1] + 0.5) * 2.0**-191)


def _check_std(std: float) -> None:
    if not SMALLEST_STD <= std <= LARGEST_STD:
        raise UsageError(
            f"expected noise of 64 to 2^32 grid steps, got {std:g}; take a finer or coarser grid (privacy.grid_bits)"
        )
