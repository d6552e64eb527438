"""A prior adds what it says to every score, the same in both forms of the loss, and nothing of it is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import ITEMS, LENGTH, encoder, generator, histories, vocabulary
from torch import Tensor

from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.objective import person_losses
from silhouette_shared.model.prior import ItemPrior, PriorShape
from silhouette_shared.model.vector import Layout

SHAPE = PriorShape(rank=3, half_life=2.0, content_half_life=5.0)
CONTENT = vocabulary().content


def prior(**changes: object) -> ItemPrior:
    draw = generator("prior")
    features = torch.randn(ITEMS + 1, SHAPE.rank, generator=draw)
    features[0] = 0.0
    made = ItemPrior(
        bias=torch.randn(ITEMS + 1, generator=draw),
        features=features,
        content_mean=torch.randn(CONTENT.shape[1], generator=draw),
        content_weight=2.5,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def with_prior(vector: Tensor | None = None) -> ProfileEncoder:
    made = encoder(replace(vocabulary(), prior=SHAPE), scale=20.0)
    made.set_prior(prior().vector() if vector is None else vector)
    return made


def test_a_vector_holds_the_whole_prior() -> None:
    again = ItemPrior.of(prior().vector(), SHAPE, ITEMS, CONTENT.shape[1])
    assert torch.equal(again.bias, prior().bias)
    assert torch.equal(again.features, prior().features)
    assert torch.equal(again.content_mean, prior().content_mean)
    assert again.content_weight == 2.5


def test_a_vector_of_another_length_or_a_negative_weight_is_refused() -> None:
    vector = prior().vector()
    with pytest.raises(ValueError, match=rf"expected a prior of {len(vector)} numbers, got shape"):
        ItemPrior.of(vector[1:], SHAPE, ITEMS, CONTENT.shape[1])
    with pytest.raises(ValueError, match=f"expected a prior of {len(vector)} numbers, got {len(vector) - 1}"):
        with_prior(vector[1:])
    with pytest.raises(ValueError, match="expected a prior of 0 numbers, got 4"):
        encoder().set_prior(vector[:4])
    with pytest.raises(ValueError, match="expected a content weight of at least 0, got a negative one"):
        with_prior(prior(content_weight=-1.0).vector())


def test_an_item_without_a_description_has_none_in_the_prior() -> None:
    content = CONTENT.clone()
    content[4] = 0.0
    columns = prior().columns(content)
    assert float(columns[4, SHAPE.rank :].abs().sum()) == 0
    assert float(columns[0].abs().sum()) == 0
    assert torch.allclose(columns[5, SHAPE.rank :], 2.5**0.5 * (content[5] - prior().content_mean))


def test_scores_are_those_of_the_encoder_and_what_the_prior_says_of_the_events_so_far() -> None:
    people = histories()
    batch = people.batch(torch.arange(len(people)), LENGTH)
    plain, made = encoder(scale=20.0), with_prior()
    added = made.item_scores(made(batch).state) - plain.item_scores(plain(batch).state)
    columns = prior().columns(CONTENT)
    for person, length in enumerate(batch.lengths.tolist()):
        for moment in range(length):
            so_far = columns[batch.items[person, : moment + 1]]
            age = torch.arange(moment, -1, -1.0)
            near, far = torch.exp2(-age / 2.0), torch.exp2(-age / 5.0)
            query = torch.cat([near @ so_far[:, :3] / near.sum(), far @ so_far[:, 3:] / far.sum()])
            expected = prior().bias + columns @ query
            assert torch.allclose(added[person, moment, 1:], expected[1:], atol=2e-4)


def test_a_prior_of_zeros_adds_nothing() -> None:
    people = histories()
    batch = people.batch(torch.arange(len(people)), LENGTH)
    plain, made = encoder(scale=20.0), with_prior(torch.zeros(SHAPE.size(ITEMS, CONTENT.shape[1])))
    assert torch.allclose(made.item_scores(made(batch).state), plain.item_scores(plain(batch).state), atol=1e-5)


def test_both_forms_of_the_loss_see_the_prior_and_it_has_no_gradient() -> None:
    people = histories()
    batch = people.training_batch(torch.arange(len(people)), LENGTH, None)

    def losses(made: ProfileEncoder, *, per_person: bool) -> Tensor:
        return person_losses(
            made,
            batch,
            attribute_weight=0.0,
            attribute_masking=0.0,
            generator=generator("objective"),
            per_person=per_person,
        )

    ordinary, fused = losses(with_prior(), per_person=True), losses(with_prior(), per_person=False)
    assert torch.allclose(ordinary, fused, atol=1e-5)
    assert not torch.allclose(fused, losses(encoder(scale=20.0), per_person=False), atol=0.1)
    made = with_prior()
    before = made.get_buffer("prior_columns").clone()
    losses(made, per_person=False).sum().backward()
    assert torch.equal(made.get_buffer("prior_columns"), before)
    assert Layout.of(made) == Layout.of(encoder())


def test_a_gradient_with_the_prior_is_that_of_the_ordinary_loss() -> None:
    people = histories()
    batch = people.training_batch(torch.arange(len(people)), LENGTH, None)
    gradients = []
    for per_person in (True, False):
        made = with_prior()
        losses = person_losses(
            made,
            batch,
            attribute_weight=0.0,
            attribute_masking=0.0,
            generator=generator("objective"),
            per_person=per_person,
        )
        losses.sum().backward()
        gradients.append({name: p.grad for name, p in made.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-4), name
