"""From what passed through the production path to the numbers that are judged; no model and no data in here."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from silhouette_shared.privacy.audit.evidence import Correlations, Moments, Noise, Sampling

Vector = NDArray[np.float64]

CORRELATED = 1 << 16
"""Coordinates of a release that are kept for correlations, evenly spread over all."""

_SEARCHED_INSIDE = 3
"""Releases searched for a stretch that repeats inside them."""


class NoiseMeter:
    """Collects the noise of one release after the other, in declared standard deviations.

    Args:
        rows: Which row of a table, or which vector, each coordinate belongs to: numbers from 0, shape (D,).
        untouched: Coordinates that no person's gradient reaches, shape (D,).
    """

    def __init__(self, rows: NDArray[np.int64], untouched: NDArray[np.bool_]) -> None:
        self._rows, self._untouched = rows, untouched
        self._row_sizes = np.bincount(rows)
        self._row_squares = np.zeros(len(self._row_sizes))
        self._sums = np.zeros((2, 4))  # untouched, everywhere: count, sum of the first, second and fourth power
        self._kept: list[NDArray[np.float32]] = []
        self._inside: list[float] = []
        self._stride = max(1, len(rows) // CORRELATED)

    def add(self, alone: Vector, without_sum: Vector) -> None:
        """Take in one release.

        Args:
            alone: The release as it is, read on the untouched coordinates only, shape (D,).
            without_sum: The release less the clipped sum that went in, shape (D,).
        """
        for place, values in enumerate((alone[self._untouched], without_sum)):
            squares = values**2
            self._sums[place] += (len(values), values.sum(), squares.sum(), (squares**2).sum())
        self._row_squares += np.bincount(self._rows, weights=without_sum**2, minlength=len(self._row_sizes))
        self._kept.append(without_sum[:: self._stride].astype(np.float32))
        if len(self._inside) < _SEARCHED_INSIDE:
            self._inside.append(repeats(without_sum))

    @property
    def releases(self) -> NDArray[np.float32]:
        """The kept coordinates of every release, shape (T, K)."""
        return np.stack(self._kept)

    @property
    def largest_inside(self) -> tuple[float, int]:
        """Largest correlation of a release with itself moved, and how many distances were tried."""
        return max(self._inside), len(self._inside) * (len(self._rows) // 2)

    def noise(self) -> Noise:
        """Size of the noise, over all releases so far."""
        draws = self._row_sizes * len(self._kept)
        squares = self._row_squares / draws
        tail = 2 * np.minimum(stats.chi2.cdf(self._row_squares, draws), stats.chi2.sf(self._row_squares, draws))
        return Noise(
            untouched=_moments(self._sums[0]),
            everywhere=_moments(self._sums[1]),
            rows=len(draws),
            least_row=float(squares.min()),
            row_tail=float(tail.min() * len(draws)),
        )


def _moments(sums: Vector) -> Moments:
    count, first, second, fourth = sums.tolist()
    return Moments(samples=int(count), mean=first / count, square=second / count, fourth=fourth / count)


def repeats(vector: Vector) -> float:
    """Largest correlation, by magnitude, of a vector with itself moved around by 1 to D // 2 places."""
    spectrum = np.abs(np.fft.rfft(vector)) ** 2
    moved = np.fft.irfft(spectrum, n=len(vector))
    largest = float(np.abs(moved[1 : len(vector) // 2 + 1]).max())
    return largest / float(moved[0]) if moved[0] > 0 else 1.0  # nothing at all repeats everywhere


def correlations(one: NoiseMeter, other: NoiseMeter) -> Correlations:
    """How much the noise of steps and of two partners has in common."""
    first, second = one.releases, other.releases
    steps, coordinates = first.shape
    own = _correlations(first, first)
    between = _correlations(first, second)
    size = np.linalg.norm(first, axis=1)
    far = np.linalg.norm(second, axis=1)
    inside, distances = max((one.largest_inside, other.largest_inside))
    apart = np.abs(np.triu(own, k=1))
    return Correlations(
        coordinates=coordinates,
        steps=steps,
        # Weighted by the sizes, so that each is the correlation of the steps put one after the other.
        adjacent=_mean(np.diagonal(own, 1), size[:-1] * size[1:]),
        largest_steps=float(apart.max()),
        partners=_mean(np.diagonal(between), size * far),
        largest_partners=float(np.abs(between).max()),
        largest_inside=inside,
        distances=2 * distances,
    )


def _mean(values: Vector, weights: Vector) -> float:
    return float((values * weights).sum() / weights.sum()) if weights.sum() > 0 else 1.0


def _correlations(first: NDArray[np.float32], second: NDArray[np.float32]) -> Vector:
    one, other = first.astype(np.float64), second.astype(np.float64)
    sizes = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)[None]
    # Noise that is nothing at all correlates with everything: it must not pass as independent.
    return np.where(sizes > 0, one @ other.T / np.where(sizes > 0, sizes, 1), 1.0)


def sampling(samples: Sequence[NDArray[np.int64]], elsewhere: Sequence[NDArray[np.int64]], people: int) -> Sampling:
    """Count who was in which step.

    Args:
        samples: Row numbers of the people of each step, at one partner.
        elsewhere: The same at another partner with as many people.
        people: Number of people of each.
    """
    here, there = (_presence(steps, people) for steps in (samples, elsewhere))
    times = here.sum(0)
    return Sampling(
        people=people,
        steps=len(samples),
        sizes=tuple(here.sum(1).tolist()),
        times=tuple(np.bincount(times, minlength=len(samples) + 1).tolist()),
        consecutive=int((here[1:] & here[:-1]).sum()),
        twice=sum(len(rows) - len(np.unique(rows)) for rows in (*samples, *elsewhere)),
        shared=int((here & there).sum()),
    )


def _presence(samples: Sequence[NDArray[np.int64]], people: int) -> NDArray[np.bool_]:
    there = np.zeros((len(samples), people), dtype=np.bool_)
    for step, rows in enumerate(samples):
        there[step, rows] = True
    return there
