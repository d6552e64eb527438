"""A map of a node's people in two dimensions; every point is a group of at least k people. Calculation only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_client.segments.making import telling_tags
from silhouette_client.segments.people import PeopleTable
from silhouette_client.segments.segment import Segment, SmallSegmentError, check_least

_SEED = 0
_MOST_PEOPLE = 5000  # t-SNE takes minutes beyond; a sample of people is drawn, the same each time


@dataclass(frozen=True)
class Point:
    """Some people who lie together: where, how many, which segments they are in, and what tells them apart."""

    x: float
    y: float
    people: int
    segment: str  # that at least k of them are in and most over-represented; empty where none is
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Projection:
    """One way to lay the people out."""

    name: str
    points: tuple[Point, ...]
    hidden: int  # people in groups below k, which have no point


def projections(table: PeopleTable, segments: Sequence[Segment], least: int) -> tuple[Projection, ...]:
    """PCA and t-SNE of the unit vectors, each with its groups.

    PCA keeps distances as far as two dimensions can; t-SNE (van der Maaten and Hinton 2008,
    https://jmlr.org/papers/v9/vandermaaten08a.html) keeps who is near whom, and its distances between groups mean
    nothing.

    Raises:
        UsageError: If k is too small.
        SmallSegmentError: If there are too few people for a single point.
    """
    check_least(least)
    rows = np.flatnonzero(np.abs(table.vectors).sum(1) > 0)
    if len(rows) > _MOST_PEOPLE:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, _MOST_PEOPLE, replace=False))
    if len(rows) < 3 * least:
        raise SmallSegmentError(
            f"expected at least {3 * least} people with vectors for a map, got fewer; build more profiles"
        )
    places = {
        "PCA": _pca(table.vectors[rows]),
        "t-SNE": _tsne(table.vectors[rows]),
    }
    members = {one.name: np.isin(rows, _rows_of(table, one)) for one in segments}
    return tuple(_grouped(name, where, rows, table, members, least) for name, where in places.items())


def _rows_of(table: PeopleTable, segment: Segment) -> npt.NDArray[np.int64]:
    inside = frozenset(segment.members)
    return np.flatnonzero([person in inside for person in table.people])


def _pca(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(2, random_state=_SEED).fit_transform(vectors), np.float64)


def _tsne(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(vectors), np.float64)


def _grouped(
    name: str,
    where: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    table: PeopleTable,
    members: Mapping[str, npt.NDArray[np.bool_]],
    least: int,
) -> Projection:
    from sklearn.cluster import KMeans

    count = max(1, min(200, len(rows) // (2 * least)))
    labels = KMeans(count, random_state=_SEED, n_init=1).fit(where).labels_
    points, hidden = [], 0
    for label in range(count):
        inside = labels == label
        people = int(inside.sum())
        if people < least:
            hidden += people
            continue
        x, y = where[inside].mean(0)
        points.append(
            Point(
                x=float(x),
                y=float(y),
                people=people,
                segment=_segment_of(inside, members, least),
                tags=telling_tags(table, rows[inside]),
            )
        )
    return Projection(name, tuple(sorted(points, key=lambda point: -point.people)), hidden)


def _segment_of(inside: npt.NDArray[np.bool_], members: Mapping[str, npt.NDArray[np.bool_]], least: int) -> str:
    best, most = "", 1.0
    for name, member in members.items():
        both = int((inside & member).sum())
        over = (both / inside.sum()) / max(member.mean(), 1e-12)
        if both >= least and over > most:
            best, most = name, over
    return best
