"""A dimension is a function of one person's own events up to a moment and of public constants."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

import pytest
import torch
from tests.people import LENGTH, encoder, histories, vocabulary
from torch import Tensor, nn

from silhouette_shared.config import DimensionName
from silhouette_shared.errors import UsageError
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
from silhouette_shared.model.encoder import Profile, ProfileEncoder
from silhouette_shared.model.histories import Batch
from silhouette_shared.schema import BEHAVIOURS, BROWSING, FEEDBACK, PURCHASES

TEXT = 3
BOUGHT, REVIEW, RATE = (BEHAVIOURS.index(name) + 1 for name in ("purchase", "review", "rate"))


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


def written(rows: list[int], *, seed: int = 0) -> Batch:
    return histories(seed=seed, texts=TEXT).batch(torch.tensor(rows), LENGTH)


def profile_of(batch: Batch, model: ProfileEncoder) -> Profile:
    with torch.no_grad():
        found: Profile = model(batch)
    return found


def everybody() -> Batch:
    """People of whom every dimension knows something."""
    batch = written(list(range(7)))
    bought = batch.behaviours.masked_fill(batch.mask & (batch.behaviours % 2 == 0), BOUGHT)
    bought[:, 0] = BOUGHT
    kinds = torch.where(torch.arange(bought.shape[1]) % 3 == 1, torch.where(batch.mask, REVIEW, 0), bought)
    kinds[:, 2] = torch.where(batch.mask[:, 2], 1, 0)
    return replace(batch, attributes=torch.full((7, 2), 1), behaviours=kinds)


@pytest.mark.parametrize("name", get_args(DimensionName))
@pytest.mark.parametrize("row", [0, 3])
def test_everybody_elses_records_do_not_change_a_persons_gradient_through_a_dimension_in_a_single_bit(
    name: DimensionName, row: int
) -> None:
    batch, strangers = everybody(), written([1, 3, 1, 3, 1, 3, 1], seed=8)
    keep = torch.arange(7) == row

    def mix(field: str) -> Tensor:
        mine, theirs = getattr(batch, field), getattr(strangers, field)
        return torch.where(keep.view(-1, *[1] * (mine.dim() - 1)), mine, theirs)

    changed = replace(batch, **{f.name: mix(f.name) for f in fields(Batch)})
    assert not torch.equal(changed.items, batch.items)
    found = []
    for given in (batch, changed):
        model = encoder(scale=10.0, dimensions=(name,), text_width=TEXT)
        model(given).vector[row].square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.dimensions[name].parameters() if p.dim() > 1)
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_texts_are_absent_without_harm_and_the_mean_is_over_what_was_written() -> None:
    model = encoder(scale=10.0, dimensions=("activity", "feedback"), text_width=TEXT)
    bare = histories().batch(torch.tensor([3]), LENGTH)
    silent = replace(bare, texts=torch.zeros(1, LENGTH, TEXT))
    assert torch.equal(profile_of(bare, model).vector, profile_of(silent, model).vector)
    texts = torch.zeros(1, LENGTH, TEXT)
    texts[0, 0] = 1.0
    kinds = torch.tensor([[REVIEW] + [RATE] * (LENGTH - 1)])
    read: list[Tensor] = []
    project = model.dimensions["feedback"].get_submodule("project")
    handle = project.register_forward_hook(lambda _m, given, _o: read.append(given[0]))
    profile_of(replace(silent, behaviours=kinds, texts=texts), model)
    handle.remove()
    assert (read[0][0, :, -TEXT:] == 1.0).all()


def test_a_text_at_an_event_of_another_dimension_is_not_feedback() -> None:
    model = encoder(scale=10.0, dimensions=("activity", "feedback"), text_width=TEXT)
    batch = replace(written([3]), behaviours=torch.tensor([[REVIEW] + [BOUGHT] * (LENGTH - 1)]))
    other = batch.texts.clone()
    other[0, 1:] += 1.0
    assert torch.equal(profile_of(batch, model).vector, profile_of(replace(batch, texts=other), model).vector)


def test_without_a_head_for_the_next_behaviour_asking_for_it_is_refused() -> None:
    with pytest.raises(UsageError, match="expected an encoder with a head for the next behaviour, got one without"):
        encoder().behaviour_scores(torch.zeros(1, 8))
    made = encoder(behaviour_head=True)
    assert made.behaviour_scores(torch.zeros(2, 3, 8)).shape == (2, 3, len(BEHAVIOURS))
