"""A dimension is a function of one person's own events up to a moment and of public constants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import histories, vocabulary
from torch import Tensor, nn

from silhouette_shared.model.dimensions import (
    RECENT_HALF_LIFE_EVENTS,
    Content,
    Deeds,
    Demographics,
    Interests,
    Moments,
    Rhythm,
    Spending,
    mean_so_far,
    running_mean_weights,
)
from silhouette_shared.model.histories import Batch
from silhouette_shared.schema import BEHAVIOURS, BROWSING, FEEDBACK, PURCHASES


def moments(batch: Batch) -> Moments:
    length, words = batch.items.shape[1], vocabulary()
    like = torch.zeros(1)
    return Moments(
        batch=batch,
        states=torch.zeros(*batch.items.shape, 8),
        running=running_mean_weights(length, None, like),
        recent=running_mean_weights(length, RECENT_HALF_LIFE_EVENTS, like),
        categories=words.categories,
        content=words.content,
    )


def batch_of(rows: list[int], *, has_times: bool = True) -> Batch:
    return histories(has_times=has_times).batch(torch.tensor(rows), 12)


def test_plain_weights_are_running_means() -> None:
    values = torch.tensor([2.0, 4.0, 9.0])
    assert (running_mean_weights(3, None, values) @ values).tolist() == [2.0, 3.0, 5.0]


@pytest.mark.parametrize("half_life", [None, 1.0, 10.0])
def test_weights_never_look_ahead_and_sum_to_one(half_life: float | None) -> None:
    weights = running_mean_weights(6, half_life, torch.zeros(1, dtype=torch.float64))
    assert torch.equal(weights, weights.tril())
    assert torch.allclose(weights.sum(1), torch.ones(6, dtype=torch.float64))


def test_an_event_one_half_life_older_weighs_half() -> None:
    weights = running_mean_weights(5, 2.0, torch.zeros(1, dtype=torch.float64))
    assert float(weights[4, 2] / weights[4, 4]) == pytest.approx(0.5)
    assert float(weights[4, 0] / weights[4, 4]) == pytest.approx(0.25)


def plain(layer: nn.Linear) -> None:
    """Make a layer hand its inputs on as far as it can."""
    with torch.no_grad():
        layer.weight.copy_(torch.eye(*layer.weight.shape))
        layer.bias.zero_()


def test_interests_are_the_shares_of_the_categories_so_far() -> None:
    batch = batch_of([3])
    dimension = Interests(6, 3)
    plain(dimension.project)
    token, present = dimension(moments(batch))
    category = vocabulary().categories[batch.items[0]]
    for t in range(12):
        assert torch.allclose(token[0, t, :3], category[: t + 1].mean(0), atol=1e-6)
        assert float(token[0, t, 3:].detach().sum()) == pytest.approx(1.0, abs=1e-5)
    assert present.all()


def test_content_is_the_mean_of_the_items_vectors_and_absent_where_they_say_nothing() -> None:
    batch = batch_of([3])
    dimension = Content(8, 4)
    plain(dimension.project)
    token, present = dimension(moments(batch))
    assert torch.allclose(token[0, -1, :4], vocabulary().content[batch.items[0]].mean(0), atol=1e-6)
    assert present.all()
    blank = replace(moments(batch), content=torch.zeros_like(vocabulary().content))
    assert not dimension(blank)[1].any()


def test_rhythm_is_absent_without_times() -> None:
    dimension = Rhythm(8)
    assert dimension(moments(batch_of([3])))[1].all()
    assert not dimension(moments(batch_of([3], has_times=False)))[1].any()


def test_rhythm_reads_how_often_and_not_in_which_order() -> None:
    """The last moment's token is the same for any order of the events before it."""
    batch = batch_of([3])
    order = torch.tensor([3, 1, 0, 2, 7, 5, 6, 4, 8, 9, 11, 10])
    mixed = replace(batch, **{n: getattr(batch, n)[:, order] for n in ("hours", "weekdays", "gaps")})
    dimension = Rhythm(8)
    one, other = (dimension(moments(b))[0] for b in (batch, mixed))
    assert torch.allclose(one[:, -1], other[:, -1], atol=1e-6)
    assert not torch.allclose(one[:, 0], other[:, 0], atol=1e-6)


def with_behaviours(batch: Batch, names: list[str]) -> Batch:
    """One person who did these things, one after the other."""
    numbers = torch.tensor([[BEHAVIOURS.index(name) + 1 for name in names]])
    return replace(batch, behaviours=numbers)


DAY = ["view", "click", "cart", "purchase", "view", "rate", "search", "return", "share", "favourite", "review", "view"]


@pytest.mark.parametrize("kind", [BROWSING, PURCHASES, FEEDBACK], ids=["browsing", "purchases", "feedback"])
def test_deeds_are_the_mean_state_of_their_own_events_so_far_and_absent_before_the_first(kind: tuple[str, ...]) -> None:
    batch = with_behaviours(batch_of([3]), DAY)
    states = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(1))
    dimension = Deeds(8, kind)
    plain(dimension.project)
    token, present = dimension(replace(moments(batch), states=states))
    for t in range(12):
        own = [event for event in range(t + 1) if DAY[event] in kind]
        assert bool(present[0, t]) == bool(own)
        if own:
            assert torch.allclose(token[0, t], states[0, own].mean(0), atol=1e-6)


def test_every_behaviour_is_of_one_kind() -> None:
    assert sorted(BROWSING + PURCHASES + FEEDBACK) == sorted(BEHAVIOURS)


def test_an_unknown_behaviour_and_padding_are_no_deeds() -> None:
    batch = replace(batch_of([0, 3]), behaviours=torch.zeros(2, 12, dtype=torch.int64))
    assert not Deeds(8, BROWSING)(moments(batch))[1].any()
    viewed = replace(batch_of([0, 3]), behaviours=torch.ones(2, 12, dtype=torch.int64))
    assert torch.equal(Deeds(8, BROWSING)(moments(viewed))[1], viewed.mask)


def test_spending_reads_what_purchases_cost_and_nothing_else() -> None:
    batch = with_behaviours(batch_of([3]), DAY)
    priced = replace(batch, values=torch.full_like(batch.values, 7))
    dimension = Spending(8)
    token, present = dimension(moments(priced))
    assert present[0].tolist() == [False] * 3 + [True] * 9
    dearer = priced.values.clone()
    dearer[0, 5] = 30  # a rating
    assert torch.equal(dimension(moments(replace(priced, values=dearer)))[0], token)
    dearer[0, 3] = 30  # the purchase
    assert not torch.equal(dimension(moments(replace(priced, values=dearer)))[0][0, 3:], token[0, 3:])
    assert not dimension(moments(replace(priced, values=torch.zeros_like(priced.values))))[1].any()


def test_means_so_far_are_those_of_the_chosen_events() -> None:
    values = torch.tensor([[[1.0], [5.0], [3.0]]])
    assert mean_so_far(values, torch.tensor([[False, True, True]]))[0, :, 0].tolist() == [0.0, 5.0, 4.0]


def test_demographics_tells_every_class_of_every_attribute_apart() -> None:
    dimension = Demographics(8, (2, 3))
    people = torch.tensor([[a, b] for a in range(3) for b in range(4)])
    batch = replace(histories([1] * 12).batch(torch.arange(12), 1), attributes=people)
    token, present = dimension(moments(batch))
    assert present[:, 0].tolist() == [bool(a or b) for a, b in people.tolist()]
    distances = torch.cdist(token[:, 0], token[:, 0]).detach()
    distances.fill_diagonal_(1.0)
    assert float(distances.min()) > 1e-3


def last_tokens(dimension: nn.Module, batch: Batch) -> Tensor:
    token: Tensor = dimension(moments(batch))[0]
    return token.detach()


@pytest.mark.parametrize(
    "dimension", [Rhythm(8), Demographics(8, (2, 3)), Interests(8, 3), Content(8, 4)], ids=lambda d: type(d).__name__
)
def test_nobody_else_enters_a_token(dimension: nn.Module) -> None:
    one, other = batch_of([3, 1, 0]), batch_of([3, 5, 6])
    assert torch.equal(last_tokens(dimension, one)[0], last_tokens(dimension, other)[0])
