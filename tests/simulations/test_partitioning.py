"""Dealing people to partners: everybody once, nobody empty, in the proportions asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.errors import UsageError
from silhouette_simulations.partitioning import PartitionSpec, describe, favourites, partition

CATALOGUE = Catalogue(
    items=("1", "2", "3", "4"),
    titles=("a", "b", "c", "d"),
    categories=("Action", "Drama", "War"),
    category_matrix=np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]], dtype=np.float32),
    texts=("", "", "", ""),
    content=np.zeros((4, 0), dtype=np.float32),
)


def people(count: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    generator = np.random.Generator(np.random.PCG64(seed))
    names = [f"u{number}" for number in range(count)]
    events = pd.DataFrame(
        {
            "user": [name for name in names for _ in range(3)],
            "item": [str(item) for item in generator.integers(1, 5, size=3 * count)],
        }
    )
    occupations = [["artist", "doctor", "lawyer", None][number % 4] for number in range(count)]
    return events, pd.DataFrame({"user": names, "occupation": occupations})


def deal(count: int, seed: int = 0, **choices: Any) -> dict[str, tuple[str, ...]]:
    events, users = people(count)
    return partition(events, users, CATALOGUE, PartitionSpec(**choices), seed)


@st.composite
def specs(draw: st.DrawFn) -> PartitionSpec:
    partners = draw(st.integers(1, 8))
    scheme: Any = draw(st.sampled_from(["random", "dirichlet", "sizes", "attribute"]))
    ratios = st.lists(st.floats(1e-3, 1e3), min_size=partners, max_size=partners)
    return PartitionSpec(
        partners=partners,
        scheme=scheme,
        concentration=draw(st.floats(1e-6, 100)),
        ratios=tuple(draw(ratios)) if scheme == "sizes" or (scheme == "dirichlet" and draw(st.booleans())) else (),
        attribute="occupation" if scheme == "attribute" else "",
    )


@settings(max_examples=60, deadline=None)
@given(spec=specs(), count=st.integers(8, 60), seed=st.integers(0, 2**32))
def test_every_user_is_at_exactly_one_partner_and_no_partner_is_empty(
    spec: PartitionSpec, count: int, seed: int
) -> None:
    events, users = people(count)
    partners = partition(events, users, CATALOGUE, spec, seed)
    assert list(partners) == [f"partner-{number}" for number in range(spec.partners)]
    assert all(partners.values())
    everyone = [user for members in partners.values() for user in members]
    assert sorted(everyone) == sorted(users["user"])
    position = {user: row for row, user in enumerate(users["user"])}
    for members in partners.values():
        assert list(members) == sorted(members, key=position.__getitem__)
    assert partition(events, users, CATALOGUE, spec, seed) == partners


def test_another_seed_deals_otherwise() -> None:
    assert deal(40, seed=1) != deal(40, seed=2)


def test_a_deal_is_the_same_on_every_machine() -> None:
    assert deal(6, partners=2) == {
        "partner-0": ("u2", "u3", "u5"),
        "partner-1": ("u0", "u1", "u4"),
    }


def test_random_sizes_differ_by_at_most_one() -> None:
    sizes = sorted(len(members) for members in deal(43, partners=5).values())
    assert sizes == [8, 8, 9, 9, 9]


def test_sizes_follow_the_ratios_with_largest_remainders() -> None:
    dealt = deal(943, partners=5, scheme="sizes", ratios=(1, 2, 4, 8, 16))
    # Quotas 30.42, 60.84, 121.68, 243.35, 486.71: the three largest fractions round up.
    assert [len(members) for members in dealt.values()] == [30, 61, 122, 243, 487]


def test_a_vanishing_ratio_still_gets_a_person() -> None:
    dealt = deal(20, partners=3, scheme="sizes", ratios=(1e-6, 1, 1))
    assert [len(members) for members in dealt.values()] == [1, 9, 10]


def test_a_small_concentration_separates_favourites_and_a_large_one_mixes_them() -> None:
    events, users = people(600)

    def one_sidedness(concentration: float) -> float:
        spec = PartitionSpec(partners=3, scheme="dirichlet", concentration=concentration)
        shares = []
        for seed in range(10):
            dealt = partition(events, users, CATALOGUE, spec, seed)
            numbers = describe(dealt, events, users, CATALOGUE).values()
            shares.append(np.average([n.favourite_share for n in numbers], weights=[n.users for n in numbers]))
        return float(np.mean(shares))

    favourite = favourites(events, users, CATALOGUE)
    overall = np.bincount(favourite).max() / 600
    assert one_sidedness(1000.0) == pytest.approx(overall, abs=0.05)
    assert one_sidedness(0.05) > overall + 0.1


def test_dirichlet_with_ratios_has_these_sizes_and_mixtures_of_its_own() -> None:
    events, users = people(620)
    ratios = (1, 2, 4, 8, 16)

    def smallest_share(concentration: float) -> float:
        spec = PartitionSpec(partners=5, scheme="dirichlet", concentration=concentration, ratios=ratios)
        shares = []
        for seed in range(20):
            dealt = partition(events, users, CATALOGUE, spec, seed)
            assert [len(members) for members in dealt.values()] == [20, 40, 80, 160, 320]
            shares.append(describe(dealt, events, users, CATALOGUE)["partner-0"].favourite_share)
        return float(np.mean(shares))

    overall = np.bincount(favourites(events, users, CATALOGUE)).max() / 620
    assert smallest_share(1e4) == pytest.approx(overall, abs=0.05)
    assert smallest_share(0.1) > overall + 0.1


def test_by_attribute_a_partner_holds_few_values() -> None:
    _, users = people(80)
    dealt = deal(80, partners=4, scheme="attribute", attribute="occupation")
    values = dict(zip(users["user"], users["occupation"], strict=True))
    held = [{values[user] for user in members} for members in dealt.values()]
    assert [words if None not in words else {None} for words in held][:3] == [
        {"artist"},
        {"doctor"},
        {"lawyer"},
    ]
    assert len(held[3]) == 1


def test_the_favourite_is_the_most_frequent_category_and_ties_go_to_the_first_name() -> None:
    events = pd.DataFrame({"user": ["a", "a", "a", "b", "b", "c"], "item": ["2", "2", "1", "3", "1", "4"]})
    users = pd.DataFrame({"user": ["a", "b", "c"]})
    assert favourites(events, users, CATALOGUE).tolist() == [1, 0, 3]
    tied = pd.DataFrame({"user": ["a"], "item": ["3"]})
    assert favourites(tied, users.head(1), CATALOGUE).tolist() == [0]


def test_the_description_counts_people_and_events() -> None:
    events, users = people(10)
    numbers = describe(deal(10, partners=2), events, users, CATALOGUE)
    assert [(n.users, n.events) for n in numbers.values()] == [(5, 15), (5, 15)]
    assert all(n.favourite in CATALOGUE.categories for n in numbers.values())


def test_too_few_people_are_refused() -> None:
    with pytest.raises(UsageError, match="expected at least 5 people for 5 partners, got 4"):
        deal(4)


def test_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(UsageError, match="attribute out of occupation, got 'age'"):
        deal(20, scheme="attribute", attribute="age")


def test_dirichlet_without_categories_is_refused() -> None:
    events, users = people(20)
    bare = Catalogue(
        items=CATALOGUE.items,
        titles=CATALOGUE.titles,
        categories=(),
        category_matrix=np.zeros((4, 0), dtype=np.float32),
        texts=CATALOGUE.texts,
        content=CATALOGUE.content,
    )
    with pytest.raises(UsageError, match="item categories"):
        partition(events, users, bare, PartitionSpec(scheme="dirichlet"), 0)
