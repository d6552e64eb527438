"""A prior says what the released sums say, and no more than their noise allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.people import generator
from torch import Tensor

from silhouette_server.statistics import ReleasedSum, active_items, make_prior
from silhouette_shared.config import Statistics
from silhouette_shared.config.tables import EstimatorName
from silhouette_shared.model.pairs import pair_count, pair_numbers

ITEMS, ACTIVE = 60, 40
SETTINGS = Statistics(active_items=ACTIVE, rank=6)
CONTENT = torch.zeros(ITEMS + 1, 3)


def popularity() -> ReleasedSum:
    values = torch.cat([torch.zeros(1), torch.linspace(50, 2, ITEMS)]).double()
    return ReleasedSum(values, 0.5)


def expected() -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of the active items, and what popularity alone gives each."""
    masses = popularity().values[1 : ACTIVE + 1]
    first, second = torch.triu_indices(ACTIVE, ACTIVE, 1)
    return first, second, 0.01 * masses[first] * masses[second]


def together(likes: Tensor, noise_std: float) -> ReleasedSum:
    """Transitions of items that are near one another twice as often if `likes` says they are of one kind."""
    first, second, counts = expected()
    counts = counts * (1 + (likes[first] == likes[second]))
    noise = torch.randn(len(counts), generator=generator("transitions"), dtype=torch.float64)
    return ReleasedSum(counts + noise_std * noise, noise_std)


def active() -> np.ndarray:
    return active_items(popularity(), ACTIVE)


def test_the_most_popular_items_are_active_and_equal_ones_keep_their_order() -> None:
    values = torch.tensor([9.0, 3.0, 5.0, 3.0, 8.0, 3.0], dtype=torch.float64)
    assert active_items(ReleasedSum(values, 0.1), 3).tolist() == [4, 2, 1]
    assert active_items(ReleasedSum(values, 0.1), 100).tolist() == [4, 2, 1, 3, 5]


def test_items_that_people_have_near_one_another_have_features_that_say_so() -> None:
    kinds = torch.arange(ACTIVE) % 3
    found = make_prior(SETTINGS, CONTENT, popularity(), active(), together(kinds, 0.3))
    products = found.features[1 : ACTIVE + 1] @ found.features[1 : ACTIVE + 1].T
    same = (kinds[:, None] == kinds).fill_diagonal_(False)
    other = kinds[:, None] != kinds
    assert float(products[same].mean()) > float(products[other].mean()) + 1.0
    assert float(found.features[ACTIVE + 1 :].abs().sum()) == 0.0
    assert float(found.features[0].abs().sum()) == 0.0


def test_what_is_no_larger_than_its_noise_makes_no_two_items_alike() -> None:
    _, _, counts = expected()
    exact = make_prior(SETTINGS, CONTENT, popularity(), active(), ReleasedSum(counts, 0.3))
    assert float(exact.features.abs().sum()) == 0.0
    kinds = torch.arange(ACTIVE) % 3
    drowned = make_prior(SETTINGS, CONTENT, popularity(), active(), ReleasedSum(together(kinds, 0.3).values, 50.0))
    assert float(drowned.features.abs().sum()) == 0.0


def test_the_bias_is_the_logarithm_of_popularity_down_to_its_noise() -> None:
    values = torch.tensor([0.0, 100.0, 10.0, 0.4, -3.0], dtype=torch.float64)
    found = make_prior(SETTINGS, torch.zeros(5, 3), ReleasedSum(values, 4.0), np.empty(0, np.int64), None).bias
    assert float(found[1] - found[2]) == pytest.approx(np.log(10.0))
    assert float(found[3]) == float(found[4])
    assert float(found[2] - found[3]) == pytest.approx(np.log(10.0 / (0.7 * 4.0)))
    assert float(found[1:].mean()) == pytest.approx(0.0, abs=1e-6)


def content_of(kinds: Tensor) -> Tensor:
    content = torch.zeros(ITEMS + 1, 3)
    content[torch.arange(1, ACTIVE + 1), kinds] = 1.0
    return content


def test_content_counts_as_far_as_the_transitions_bear_it_out() -> None:
    kinds = torch.arange(ACTIVE) % 3
    borne_out = make_prior(SETTINGS, content_of(kinds), popularity(), active(), together(kinds, 0.3))
    other = torch.arange(ACTIVE) // 14
    misleading = make_prior(SETTINGS, content_of(other), popularity(), active(), together(kinds, 0.3))
    assert borne_out.content_weight > 0.7 * SETTINGS.content_weight
    assert misleading.content_weight < 0.2 * SETTINGS.content_weight
    nothing = make_prior(SETTINGS, CONTENT, popularity(), active(), together(kinds, 0.3))
    assert nothing.content_weight == 0.0


def test_popularity_alone_has_no_features_and_takes_the_content_as_it_is() -> None:
    kinds = torch.arange(ACTIVE) % 3
    found = make_prior(SETTINGS, content_of(kinds), popularity(), active(), None)
    assert float(found.features.abs().sum()) == 0.0
    assert found.content_weight == SETTINGS.content_weight


def test_more_features_than_active_items_are_zeros() -> None:
    few = Statistics(active_items=4, rank=10)
    numbers = active_items(popularity(), 4)
    values = torch.randn(pair_count(4), generator=generator("few"), dtype=torch.float64)
    found = make_prior(few, CONTENT, popularity(), numbers, ReleasedSum(values, 1.0))
    assert found.features.shape == (ITEMS + 1, 10)
    assert bool(found.features.isfinite().all())
    assert float(found.features[:, 4:].abs().sum()) == 0.0


def test_all_zero_transitions_make_no_features() -> None:
    found = make_prior(
        SETTINGS, CONTENT, popularity(), active(), ReleasedSum(torch.zeros(pair_count(ACTIVE)).double(), 1.0)
    )
    assert float(found.features.abs().sum()) == 0.0
    assert bool(found.vector().isfinite().all())


def test_the_same_sums_give_the_same_prior_and_the_order_of_items_carries_over() -> None:
    kinds = torch.arange(ACTIVE) % 3
    made = [make_prior(SETTINGS, content_of(kinds), popularity(), active(), together(kinds, 0.3)) for _ in range(2)]
    assert torch.equal(made[0].vector(), made[1].vector())
    turned = active()[::-1].copy()
    first, second = torch.triu_indices(ACTIVE, ACTIVE, 1)
    numbers = pair_numbers(ACTIVE - 1 - first, ACTIVE - 1 - second, ACTIVE)
    values = together(kinds, 0.3).values[numbers]
    again = make_prior(SETTINGS, content_of(kinds), popularity(), turned, ReleasedSum(values, 0.3))
    assert torch.allclose(again.features @ again.features.T, made[0].features @ made[0].features.T, atol=1e-3)


POSTERIOR = Statistics(active_items=ACTIVE, rank=6, estimator="posterior")


def test_the_posterior_estimator_says_what_is_alike_and_nothing_where_there_is_nothing_but_noise() -> None:
    kinds = torch.arange(ACTIVE) % 3
    found = make_prior(POSTERIOR, CONTENT, popularity(), active(), together(kinds, 0.3))
    products = found.features[1 : ACTIVE + 1] @ found.features[1 : ACTIVE + 1].T
    same = (kinds[:, None] == kinds).fill_diagonal_(False)
    assert float(products[same].mean()) > float(products[kinds[:, None] != kinds].mean()) + 0.2
    assert float(found.features[ACTIVE + 1 :].abs().sum()) == 0.0
    drowned = make_prior(POSTERIOR, CONTENT, popularity(), active(), ReleasedSum(together(kinds, 0.3).values, 50.0))
    assert float(drowned.features.abs().sum()) == 0.0


def test_the_posterior_estimator_keeps_features_of_pairs_that_a_few_people_had_below_the_noise_out() -> None:
    """Two items that stand out by far are alike; a pair at half of the noise is not told from all the others."""
    values = torch.zeros(pair_count(ACTIVE), dtype=torch.float64)
    values += torch.randn(len(values), generator=generator("few pairs"), dtype=torch.float64)
    strong, weak = (
        int(pair_numbers(torch.tensor(first), torch.tensor(second), ACTIVE)) for first, second in ((3, 9), (4, 20))
    )
    values[strong], values[weak] = 30.0, 0.5
    found = make_prior(POSTERIOR, CONTENT, popularity(), active(), ReleasedSum(values, 1.0)).features
    assert float(found[4] @ found[10]) > 5 * abs(float(found[5] @ found[21]))


@pytest.mark.parametrize("estimator", ["excess", "posterior"])
def test_a_catalogue_of_one_item_has_a_prior_without_features(estimator: EstimatorName) -> None:
    one = ReleasedSum(torch.tensor([0.0, 7.0], dtype=torch.float64), 1.0)
    none = ReleasedSum(torch.zeros(0, dtype=torch.float64), 1.0)
    settings = Statistics(rank=2, estimator=estimator)
    made = make_prior(settings, torch.tensor([[0.0], [0.5]]), one, active_items(one, 5), none)
    assert torch.equal(made.bias, torch.zeros(2))
    assert torch.equal(made.features, torch.zeros(2, 2))
