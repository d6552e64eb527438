"""Traits and tags are what their definitions say, person by person."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from tests.people import ITEMS, histories, only, vocabulary

from silhouette_client.profiles.definitions import TRAITS
from silhouette_client.profiles.tags import tags_of
from silhouette_client.profiles.traits import trait_scores
from silhouette_shared.model.histories import VALUE_BUCKETS, Histories
from silhouette_shared.schema import BEHAVIOURS

DAY, HOUR = 86_400, 3_600
MONDAY = 4 * DAY  # 1970-01-05
CATEGORIES = vocabulary().categories  # item i has category (i - 1) mod 3
PURCHASE, RETURN, VIEW = (BEHAVIOURS.index(name) + 1 for name in ("purchase", "return", "view"))


def person(items: list[int], **changes: object) -> Histories:
    base = histories([len(items)])
    return replace(base, items=torch.tensor(items), **changes)  # type: ignore[arg-type]


def score(name: str, people: Histories, *, now: int | None = None) -> float:
    column = [trait.name for trait in TRAITS].index(name)
    return float(trait_scores(people, CATEGORIES, now=now)[0, column])


def test_known_scores() -> None:
    times = torch.tensor([MONDAY + 19 * HOUR, MONDAY + DAY, MONDAY + 4 * DAY + 19 * HOUR, MONDAY + 5 * DAY])
    made = person(
        [1, 1, 2, 4],
        timestamps=times,
        behaviours=torch.tensor([PURCHASE, PURCHASE, RETURN, VIEW]),
        values=torch.tensor([16, 32, 60, 60]),
    )
    days = (5 * DAY - 19 * HOUR) / DAY
    assert score("intensity", made) == pytest.approx(4 / days)
    assert score("recency", made, now=int(times[-1]) + 30 * DAY) == pytest.approx(0.5)
    assert score("recency", made, now=0) == 1.0
    assert score("breadth", made) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3))
    assert score("loyalty", made) == pytest.approx(1 / 3)
    assert score("novelty_seeking", made) == pytest.approx(2 / 3)
    assert score("price_level", made) == pytest.approx(24 / VALUE_BUCKETS)
    assert score("return_rate", made) == pytest.approx(0.5)
    assert score("evening_activity", made) == pytest.approx(0.5)
    assert score("weekend_activity", made) == pytest.approx(0.25)


def test_where_the_record_does_not_say_a_trait_is_open_and_no_error() -> None:
    names = [trait.name for trait in TRAITS]
    bare = person([1], behaviours=torch.tensor([0]), values=torch.tensor([0]), has_times=False)
    found = dict(zip(names, trait_scores(bare, torch.zeros(ITEMS + 1, 0))[0].tolist(), strict=True))
    assert all(math.isnan(value) for value in found.values())
    known = dict(zip(names, trait_scores(bare, CATEGORIES)[0].tolist(), strict=True))
    assert {name for name, value in known.items() if not math.isnan(value)} == {"breadth"}


def test_a_persons_traits_are_the_same_bit_for_bit_alone_and_among_others() -> None:
    people = histories()
    together = trait_scores(people, CATEGORIES, now=2_000_000)
    for row in range(len(people)):
        alone = trait_scores(only(people, [row]), CATEGORIES, now=2_000_000)
        assert torch.equal(alone[0].nan_to_num(-1), together[row].nan_to_num(-1))


def test_every_trait_has_a_definition_of_its_own() -> None:
    assert len({trait.name for trait in TRAITS}) == len({trait.definition for trait in TRAITS}) == len(TRAITS) == 9
    assert all(trait.definition and trait.unit for trait in TRAITS)


def test_tags_come_with_the_events_that_support_them_newest_first_and_a_binomial_confidence() -> None:
    made = person([1, 2, 4, 7, 10, 3])  # four of category 0, whose share of 20 items is 7/20
    (tag,) = tags_of(made, 0, CATEGORIES, supporting=3)
    assert (tag.category, tag.events) == (0, (4, 3, 2))
    assert (tag.share, tag.expected) == pytest.approx((4 / 6, 7 / 20))
    below, at = stats.binom.cdf(3, 6, 7 / 20), stats.binom.pmf(4, 6, 7 / 20)
    assert tag.confidence == pytest.approx(below + at / 2)


def test_the_same_share_of_more_events_is_surer() -> None:
    few, many = (tags_of(person([1, 1, 2] * times), 0, CATEGORIES)[0] for times in (1, 10))
    assert few.share == many.share
    assert 0.5 < few.confidence < many.confidence <= 1


def test_without_categories_or_above_the_catalogues_share_there_is_no_tag() -> None:
    assert tags_of(person([1, 2]), 0, torch.zeros(ITEMS + 1, 0)) == []
    everything = torch.ones(ITEMS + 1, 1)
    everything[0] = 0
    assert tags_of(person([1, 2]), 0, everything) == []
