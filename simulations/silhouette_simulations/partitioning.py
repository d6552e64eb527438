"""Dealing people to simulated partners.

Every person goes to exactly one partner and no partner stays empty. The draw depends on the seed
and on the order of the users only, so a run can be taken up again on another machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Partition as PartitionSpec
from silhouette_shared.errors import UsageError

__all__ = ["Description", "PartitionSpec", "describe", "partition"]


@dataclass(frozen=True, kw_only=True)
class Description:
    """One partner in numbers: its people, their events, and the category they like most.

    `favourite_share` is the share of the partner's people, between 0 and 1, who share that
    favourite; a data set without categories has `favourite` "" and a share of 0.
    """

    users: int
    events: int
    favourite: str
    favourite_share: float


def partition(
    events: pd.DataFrame,
    users: pd.DataFrame,
    catalogue: Catalogue,
    spec: PartitionSpec,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """Deal every user to one partner.

    - `random`: sizes differ by at most one.
    - `sizes`: sizes follow `spec.ratios`, rounded by largest remainders; who goes where is random.
    - `dirichlet`: the people who share a favourite category (the most frequent one among a
      person's events, ties to the first by name) are spread over the partners in shares drawn
      from a symmetric Dirichlet distribution; the smaller `spec.concentration`, the more
      one-sided. Partner sizes arise from it. Hsu et al. 2019, https://arxiv.org/abs/1909.06335,
      with categories in place of labels. With `spec.ratios` the sizes follow these, and each
      partner draws its own mixture of favourites around everybody's, as that paper does
      (section 3): smallest partner first, so that who is left over shapes the largest one least.
    - `attribute`: people are sorted by the declared attribute's value and dealt in equal slices,
      so that each partner holds few values; people without a value come last. Order inside a
      value is random.

    A partner that would be empty gets one person from the largest (the first of the largest, its
    last person in drawn order), until nobody is empty.

    Args:
        events: Columns of `schema.EVENTS`.
        users: Column `user` and the declared attributes.
        catalogue: Tells an item's categories, for `dirichlet`.
        spec: How to deal.
        seed: Start of the reproducible generator.

    Returns:
        Partner name, `partner-0` and so on, to its user ids in the order of `users`.

    Raises:
        UsageError: If there are fewer people than partners, or the data set lacks the attribute
            or the categories that the scheme needs.
    """
    people = len(users)
    if people < spec.partners:
        raise UsageError(
            f"expected at least {spec.partners} people for {spec.partners} partners, "
            f"got {people}; ask for fewer partners"
        )
    generator = Generator(PCG64(seed))
    order = generator.permutation(people)
    if spec.scheme == "dirichlet":
        favourite = favourites(events, users, catalogue)
        groups = (_mixtures if spec.ratios else _dirichlet)(favourite, order, spec, generator)
    elif spec.scheme == "attribute":
        groups = _slices(_by_attribute(users, order, spec.attribute), [1.0] * spec.partners)
    else:
        ratios = spec.ratios if spec.scheme == "sizes" else [1.0] * spec.partners
        groups = _slices(order, ratios)
    _fill(groups)
    ids = users["user"].tolist()
    return {f"partner-{number}": tuple(ids[row] for row in sorted(group)) for number, group in enumerate(groups)}


def favourites(events: pd.DataFrame, users: pd.DataFrame, catalogue: Catalogue) -> NDArray[np.int64]:
    """Return the position of every user's most frequent category, shape (users,).

    An event counts once for each category of its item; a tie goes to the smaller position. A
    user none of whose items has a category gets `len(catalogue.categories)`.

    Raises:
        UsageError: If the catalogue has no categories.
    """
    width = len(catalogue.categories)
    if not width:
        raise UsageError(
            'expected a data set with item categories for scheme = "dirichlet", got one without; use another scheme'
        )
    rows = pd.Index(users["user"]).get_indexer(pd.Index(events["user"]))
    items = pd.Index(catalogue.items).get_indexer(pd.Index(events["item"]))
    counted = (rows >= 0) & (items >= 0)
    counts = np.zeros((len(users), width), dtype=np.int64)
    for position in range(width):
        belongs = catalogue.category_matrix[items[counted], position] > 0
        counts[:, position] = np.bincount(rows[counted][belongs], minlength=len(users))
    favourite: NDArray[np.int64] = counts.argmax(axis=1).astype(np.int64)
    favourite[counts.sum(axis=1) == 0] = width
    return favourite


def describe(
    partners: Mapping[str, Sequence[str]],
    events: pd.DataFrame,
    users: pd.DataFrame,
    catalogue: Catalogue,
) -> dict[str, Description]:
    """Return the numbers of every partner, to show how unlike they are.

    Exact counts: for simulations, never for a deployment's coordinator.
    """
    per_user = events["user"].value_counts()
    liked = None
    if catalogue.categories:
        liked = pd.Series(favourites(events, users, catalogue), index=pd.Index(users["user"]))
    described = {}
    for name, members in partners.items():
        favourite, share = "", 0.0
        if liked is not None and members:
            counts = np.bincount(liked.reindex(list(members)).to_numpy(), minlength=len(catalogue.categories) + 1)[:-1]
            if counts.any():
                favourite = catalogue.categories[int(counts.argmax())]
                share = float(counts.max() / len(members))
        described[name] = Description(
            users=len(members),
            events=int(per_user.reindex(list(members), fill_value=0).sum()),
            favourite=favourite,
            favourite_share=share,
        )
    return described


def _apportioned(total: int, ratios: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Split `total` in the given ratios; remainders go to the largest fractions, then in order."""
    weights = np.asarray(ratios, dtype=np.float64)
    quotas = total * (weights / weights.sum())
    sizes = np.floor(quotas).astype(np.int64)
    rest = np.argsort(-(quotas - sizes), kind="stable")[: total - int(sizes.sum())]
    sizes[rest] += 1
    return [int(size) for size in sizes]


def _slices(order: NDArray[np.int64], ratios: Sequence[float]) -> list[list[int]]:
    ends = np.cumsum(_apportioned(len(order), ratios))[:-1]
    return [[int(row) for row in group] for group in np.split(order, ends)]


def _dirichlet(
    favourite: NDArray[np.int64],
    order: NDArray[np.int64],
    spec: PartitionSpec,
    generator: Generator,
) -> list[list[int]]:
    groups: list[list[int]] = [[] for _ in range(spec.partners)]
    for category in range(int(favourite.max()) + 1):
        members = order[favourite[order] == category]
        # Drawn also for a category that is nobody's favourite, so that one person more or
        # less does not change the shares of all later categories.
        shares = generator.dirichlet([spec.concentration] * spec.partners)
        if not np.isfinite(shares).all() or not shares.sum() > 0:
            # A concentration so small that all gamma draws round to zero: one partner takes all.
            shares = np.eye(spec.partners)[generator.integers(spec.partners)]
        for group, part in zip(groups, _slices(members, list(shares)), strict=True):
            group.extend(part)
    return groups


def _mixtures(
    favourite: NDArray[np.int64],
    order: NDArray[np.int64],
    spec: PartitionSpec,
    generator: Generator,
) -> list[list[int]]:
    """Partners of given sizes, each with a mixture of favourites drawn from a Dirichlet distribution of its own."""
    waiting = [[int(row) for row in order[favourite[order] == group]] for group in range(int(favourite.max()) + 1)]
    sizes = _apportioned(len(order), spec.ratios)
    groups: list[list[int]] = [[] for _ in range(spec.partners)]
    # Everybody's mixture is the mean; the sum is that of a symmetric distribution over as many categories.
    concentration = spec.concentration * np.array([max(len(members), 1e-9) for members in waiting])
    concentration *= len(waiting) / len(order)
    for partner in sorted(range(spec.partners), key=lambda number: sizes[number]):
        # A gamma draw each, in logarithms: a category that has run out leaves the others in their proportion.
        weights = np.log(generator.gamma(concentration + 1))
        weights += np.log1p(-generator.random(len(waiting))) / concentration
        while len(groups[partner]) < sizes[partner]:
            left = np.array([len(members) for members in waiting])
            share = np.exp(np.where(left > 0, weights, -np.inf) - weights[left > 0].max())
            wanted = np.minimum(left, _apportioned(sizes[partner] - len(groups[partner]), list(share)))
            for members, count in zip(waiting, wanted, strict=True):
                groups[partner] += [members.pop() for _ in range(count)]
    return groups


def _by_attribute(users: pd.DataFrame, order: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    declared = [column for column in users.columns if column != "user"]
    if name not in declared:
        raise UsageError(
            f"expected a declared attribute out of {', '.join(declared) or 'none at all'}, "
            f"got {name!r}; change the plan's partition"
        )
    values = users[name]
    known = sorted(values.dropna().unique())
    rank = pd.Index(known).get_indexer(pd.Index(values)).astype(np.int64)
    rank[rank < 0] = len(known)
    return order[np.argsort(rank[order], kind="stable")]


def _fill(groups: list[list[int]]) -> None:
    for group in groups:
        if not group:
            largest = max(groups, key=len)
            group.append(largest.pop())
