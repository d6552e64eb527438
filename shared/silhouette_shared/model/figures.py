"""What is counted over people with privacy beside the training: its cells, and how a noised sum of them is read.

A figure is a vector a person, of L2 norm at most one after `weight`, whatever the record. What a cell means and where
the edges of a bin lie is public and fixed here, never taken from the people. A new figure is an entry here and a
function of one person's record in `silhouette_client.training.figures`.

Quantiles are read from the noised histogram, which costs nothing further: Dwork and Roth 2014, section 2.3,
https://www.cis.upenn.edu/~aaroth/Papers/privacybook.pdf.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_shared.config import ReleaseName
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.histories import VALUE_BUCKETS
from silhouette_shared.schema import BEHAVIOURS

CUTOFF = 10
"""Of the hits and of NDCG in the federated evaluation."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

LENGTH_EDGES = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0)
"""Least events of a person in each bin; the last bin is open."""

DAILY_EDGES = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0)
"""Least events on a day with any."""

VALUE_EDGES = tuple(2.0 ** (bucket / 4) - 1.0 for bucket in range(VALUE_BUCKETS))
"""Least mean value of a person's events: the buckets that the encoder reads."""

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One thing that is counted.

    Args:
        cells: Names of its cells, by the public vocabulary.
        weight: What a person's vector is multiplied by, so that its L2 norm is at most one.
        edges: Where the cells are bins: the least value of each, ascending; the last bin is open.
    """

    cells: Callable[[Vocabulary], tuple[str, ...]]
    weight: Callable[[Vocabulary], float] = lambda vocabulary: 1.0
    edges: tuple[float, ...] = ()


def _bins(edges: tuple[float, ...]) -> Figure:
    return Figure(lambda vocabulary: tuple(f"from {edge:.4g}" for edge in edges), edges=edges)


def _classes(vocabulary: Vocabulary) -> tuple[str, ...]:
    # Class 0 is not declared; with it everybody has exactly one class of each attribute.
    return tuple(f"{name}/{number}" for name, count in vocabulary.attributes for number in range(count + 1))


FIGURES: Mapping[ReleaseName, Figure] = {
    "attributes": Figure(_classes, lambda vocabulary: 1 / math.sqrt(max(1, len(vocabulary.attributes)))),
    "behaviours": Figure(lambda vocabulary: ("unknown", *BEHAVIOURS)),
    "lengths": _bins(LENGTH_EDGES),
    "pace": _bins(DAILY_EDGES),
    "value": _bins(VALUE_EDGES),
    "evaluation": Figure(lambda vocabulary: ("hits", "ndcg", "people"), lambda vocabulary: 1 / math.sqrt(3)),
}
"""Every figure, by the purpose of its round. `evaluation` is of the trained model; the others are of the records."""


@dataclass(frozen=True)
class Cell:
    """One cell of a released figure."""

    name: str
    people: float  # estimate; noise may make it negative
    noise: float  # standard deviation of the estimate


@dataclass(frozen=True)
class Quantile:
    """One quantile as the bins tell it: it lies from `low` to below `high`, None where the bin is open."""

    share: float
    low: float
    high: float | None


@dataclass(frozen=True)
class Released:
    """A figure as everybody may see it.

    Args:
        name: Of the figure.
        cells: In their order.
        quantiles: Of a figure in bins; none where noise leaves nobody.
        partners: Whose people are in it.
    """

    name: str
    cells: tuple[Cell, ...]
    quantiles: tuple[Quantile, ...]
    partners: int


def read_figure(name: ReleaseName, vocabulary: Vocabulary, total: Sums, noise_std: float, partners: int) -> Released:
    """Read a noised sum; post-processing of what was charged.

    Args:
        name: Of the figure.
        vocabulary: Public.
        total: The sum over people with its noise, shape (cells,).
        noise_std: Of each coordinate of it.
        partners: Whose people are in it.
    """
    figure = FIGURES[name]
    weight = figure.weight(vocabulary)
    people = total / weight
    cells = tuple(
        Cell(label, float(value), noise_std / weight)
        for label, value in zip(figure.cells(vocabulary), people, strict=True)
    )
    return Released(name, cells, quantiles(people, figure.edges) if figure.edges else (), partners)


def quantiles(histogram: Sums, edges: tuple[float, ...]) -> tuple[Quantile, ...]:
    """In which bin each of `QUANTILES` lies, from a noised histogram.

    The counts up to a bin are made to rise by the mean of the largest before and the smallest after; nothing else is
    assumed. Where noise leaves nobody there are none.

    Args:
        histogram: People in each bin, with noise.
        edges: Least value of each bin.

    >>> quantiles(np.array([10.0, 80.0, 10.0]), (0.0, 1.0, 2.0))[2]
    Quantile(share=0.5, low=1.0, high=2.0)
    """
    below = np.cumsum(histogram)
    rising = (np.maximum.accumulate(below) + np.minimum.accumulate(below[::-1])[::-1]) / 2
    if rising[-1] <= 0:
        return ()
    found = []
    for share in QUANTILES:
        bin_ = min(int(np.searchsorted(rising, share * rising[-1])), len(edges) - 1)
        found.append(Quantile(share, edges[bin_], edges[bin_ + 1] if bin_ + 1 < len(edges) else None))
    return tuple(found)


def mean_of(released: Released, cell: str) -> tuple[float, float] | None:
    """Of the federated evaluation: a sum over the people who were evaluated, a person, and its noise.

    Returns:
        The ratio and its standard deviation to first order (the noise alone; people are a sample beside it), or None
        where noise leaves nobody.
    """
    by_name = {one.name: one for one in released.cells}
    people = by_name["people"].people
    if people <= 0:
        return None
    ratio = by_name[cell].people / people
    return ratio, math.hypot(by_name[cell].noise, ratio * by_name["people"].noise) / people
