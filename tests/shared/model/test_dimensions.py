"""Each dimension is a function of one person's own events so far, and absent where they do not say."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from tests.people import LENGTH, encoder, generator, histories
from torch import Tensor

from silhouette_shared.config import DimensionName
from silhouette_shared.errors import UsageError
from silhouette_shared.model.dimensions import BROWSING, FEEDBACK, PURCHASES, Moments, SomeBehaviours
from silhouette_shared.model.encoder import Profile, ProfileEncoder
from silhouette_shared.model.histories import Batch
from silhouette_shared.schema import BEHAVIOURS

TEXT = 3
ALL: tuple[DimensionName, ...] = (
    "activity",
    "rhythm",
    "demographics",
    "interests",
    "content",
    "browsing",
    "purchases",
    "feedback",
    "spending",
)
BOUGHT, RETURNED, REVIEW, RATE = (BEHAVIOURS.index(name) + 1 for name in ("purchase", "return", "review", "rate"))


def batch_of(rows: list[int], *, seed: int = 0) -> Batch:
    return histories(seed=seed, texts=TEXT).batch(torch.tensor(rows), LENGTH)


def profile_of(batch: Batch, model: ProfileEncoder) -> Profile:
    with torch.no_grad():
        found: Profile = model(batch)
    return found


def everybody() -> Batch:
    """People of whom every dimension knows something."""
    batch = batch_of(list(range(7)))
    bought = batch.behaviours.masked_fill(batch.mask & (batch.behaviours % 2 == 0), BOUGHT)
    bought[:, 0] = BOUGHT
    kinds = torch.where(torch.arange(bought.shape[1]) % 3 == 1, torch.where(batch.mask, REVIEW, 0), bought)
    kinds[:, 2] = torch.where(batch.mask[:, 2], 1, 0)
    return replace(batch, attributes=torch.full((7, 2), 1), behaviours=kinds)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("row", [0, 3])
def test_everybody_elses_records_do_not_change_a_persons_gradient_through_a_dimension_in_a_single_bit(
    name: DimensionName, row: int
) -> None:
    batch, strangers = everybody(), batch_of([1, 3, 1, 3, 1, 3, 1], seed=8)
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


GROUPS: list[tuple[DimensionName, tuple[str, ...]]] = [
    ("browsing", ("view", "click", "search")),
    ("purchases", ("cart", "purchase", "return")),
    ("feedback", ("favourite", "rate", "review", "share")),
    ("spending", ("purchase",)),
]


@pytest.mark.parametrize(("name", "members"), GROUPS)
def test_a_dimension_of_some_behaviours_is_there_from_the_first_of_them_on(
    name: DimensionName, members: tuple[str, ...]
) -> None:
    batch = batch_of([3])
    model = encoder(scale=10.0, dimensions=("activity", name))
    for number, behaviour in enumerate(BEHAVIOURS, start=1):
        kinds = torch.zeros_like(batch.behaviours)
        kinds[0, 2] = number
        there = profile_of(replace(batch, behaviours=kinds), model).weights[0, :, 1] > 0
        first = 2 if behaviour in members else LENGTH
        assert there.tolist() == [moment >= first for moment in range(LENGTH)], behaviour


def test_every_behaviour_belongs_to_one_of_the_three_dimensions() -> None:
    assert sorted(BROWSING + PURCHASES + FEEDBACK) == sorted(BEHAVIOURS)


def test_a_dimension_of_some_behaviours_is_the_mean_of_their_states_and_of_no_others() -> None:
    states = torch.randn(1, 4, 8, generator=generator("states"))
    batch = replace(histories([4]).batch(torch.tensor([0]), 4), behaviours=torch.tensor([[1, 6, 3, 0]]))
    made = SomeBehaviours(8, BROWSING)
    nothing = torch.zeros(21, 0)
    moments = Moments(
        batch=batch, states=states, running=torch.eye(4), recent=torch.eye(4), categories=nothing, content=nothing
    )
    with torch.no_grad():
        made.project.weight.copy_(torch.eye(8))
        made.project.bias.zero_()
        token, there = made(moments)
    both = (states[0, 0] + states[0, 2]) / 2
    assert torch.allclose(token[0], torch.stack([states[0, 0], states[0, 0], both, both]), atol=1e-6)
    assert there.tolist() == [[True, True, True, True]]


def test_spending_tells_dear_from_cheap_many_from_few_and_returned_from_kept() -> None:
    batch = histories([6]).batch(torch.tensor([0]), LENGTH)
    model = encoder(scale=10.0, dimensions=("spending",))

    def token(behaviours: list[int], values: list[int]) -> Tensor:
        tokens: list[Tensor] = []
        handle = model.dimensions["spending"].register_forward_hook(lambda _m, _g, out: tokens.append(out[0][0, -1]))
        profile_of(replace(batch, behaviours=torch.tensor([behaviours]), values=torch.tensor([values])), model)
        handle.remove()
        return tokens[0]

    usual = token([BOUGHT, BOUGHT, 0, 0, 0, 0], [10] * 6)
    assert torch.equal(usual, token([0, BOUGHT, 0, BOUGHT, 0, 0], [10] * 6))
    assert torch.equal(usual, token([BOUGHT, BOUGHT, 0, 0, 0, 0], [10, 10, 30, 30, 30, 30]))
    for other in (
        token([BOUGHT, BOUGHT, 0, 0, 0, 0], [10, 30, 10, 10, 10, 10]),
        token([BOUGHT] * 5 + [0], [10] * 6),
        token([BOUGHT, BOUGHT, RETURNED, 0, 0, 0], [10] * 6),
    ):
        assert not torch.allclose(usual, other, atol=1e-4)


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
    batch = replace(batch_of([3]), behaviours=torch.tensor([[REVIEW] + [BOUGHT] * (LENGTH - 1)]))
    other = batch.texts.clone()
    other[0, 1:] += 1.0
    assert torch.equal(profile_of(batch, model).vector, profile_of(replace(batch, texts=other), model).vector)


def test_without_a_head_for_the_next_behaviour_asking_for_it_is_refused() -> None:
    with pytest.raises(
        UsageError, match="expected an encoder with a head for the next behaviour, got one without"
    ):
        encoder().behaviour_scores(torch.zeros(1, 8))
    made = encoder(behaviour_head=True)
    assert made.behaviour_scores(torch.zeros(2, 3, 8)).shape == (2, 3, len(BEHAVIOURS))
