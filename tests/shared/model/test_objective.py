"""The loss is one value a person, and nobody else's record enters it."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.people import LENGTH, encoder, generator, histories
from torch import Tensor
from torch.nn import functional as F

from silhouette_shared.config import DimensionName
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Batch
from silhouette_shared.model.objective import (
    hide_attributes,
    losses_of_scores,
    next_behaviour_losses,
    person_losses,
)
from silhouette_shared.model.softmax import next_item_losses
from silhouette_shared.schema import BEHAVIOURS


def training_batch(rows: list[int] | None = None) -> Batch:
    people = histories()
    return people.training_batch(torch.arange(7) if rows is None else torch.tensor(rows), LENGTH, None)


def losses(
    batch: Batch,
    model: ProfileEncoder | None = None,
    *,
    weight: float = 0.3,
    masking: float = 1.0,
    per_person: bool = False,
    stream: str = "objective",
) -> Tensor:
    return person_losses(
        model or encoder(scale=10.0),
        batch,
        attribute_weight=weight,
        attribute_masking=masking,
        generator=generator(stream),
        per_person=per_person,
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_both_ways_to_the_loss_and_its_gradient_agree(dropout: float) -> None:
    found = []
    for per_person in (False, True):
        model = encoder(scale=10.0, dropout=dropout)
        value = losses(training_batch(), model, masking=0.5, per_person=per_person)
        (value * torch.arange(1.0, 8.0)).sum().backward()
        found.append((value, [p.grad for p in model.parameters()]))
    (packed, one), (padded, other) = found
    assert torch.allclose(packed, padded, rtol=1e-5)
    for a, b in zip(one, other, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()) + 1e-8)


def test_the_loss_is_the_mean_of_minus_log_of_the_next_items_share_over_ones_own_positions() -> None:
    batch, model = training_batch(), encoder(scale=10.0)
    scores = model.item_scores(model(batch).state)
    for found in (
        losses_of_scores(scores, batch.targets),
        next_item_losses(model(batch).state, model.scorer, batch.targets),
    ):
        for row in range(7):
            own = [
                -scores[row, t, 1:].softmax(-1)[target - 1].log()
                for t, target in enumerate(batch.targets[row].tolist())
                if target
            ]
            expected = torch.stack(own).mean() if own else torch.tensor(0.0)
            assert float(found[row].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.parametrize("per_person", [False, True])
def test_somebody_with_nothing_to_predict_has_a_loss_from_attributes_alone(per_person: bool) -> None:
    batch = replace(training_batch([2]), attributes=torch.tensor([[1, 3]]))
    assert not batch.targets.any()
    assert losses(batch, weight=0.0, per_person=per_person).tolist() == [0.0]
    model = encoder(scale=10.0)
    value = losses(batch, model, weight=0.3, per_person=per_person)
    hidden = replace(batch, attributes=torch.zeros_like(batch.attributes))
    logits = model.attribute_scores(model(hidden).vector[:, 0])
    expected = 0.3 * sum(
        F.cross_entropy(part, torch.tensor([truth])) for part, truth in zip(logits, (0, 2), strict=True)
    )
    assert float(value.detach()) == pytest.approx(float(torch.as_tensor(expected).detach()), rel=1e-5)
    value.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_what_is_not_hidden_or_not_declared_costs_nothing() -> None:
    batch = training_batch()
    shown = losses(batch, weight=5.0, masking=0.0)
    assert torch.equal(shown, losses(batch, weight=0.0, masking=0.0))
    undeclared = replace(batch, attributes=torch.zeros_like(batch.attributes))
    assert torch.equal(losses(undeclared, weight=5.0), losses(undeclared, weight=0.0))


def test_a_hidden_attribute_is_not_seen_by_the_encoder() -> None:
    one = training_batch()
    other = replace(one, attributes=torch.where(one.attributes > 0, one.attributes % 2 + 1, 0))
    assert not torch.equal(one.attributes, other.attributes)
    assert torch.equal(losses(one, weight=0.0), losses(other, weight=0.0))
    assert not torch.equal(losses(one, weight=0.0, masking=0.0), losses(other, weight=0.0, masking=0.0))


@given(st.floats(0, 1), st.integers(0, 9))
def test_every_attribute_is_either_seen_or_the_truth_to_be_guessed(chance: float, stream: int) -> None:
    batch = training_batch()
    visible, truth = hide_attributes(batch, chance, generator(stream))
    assert torch.equal(visible.attributes + truth, batch.attributes)
    assert (visible.attributes * truth == 0).all()
    if chance in (0.0, 1.0):
        assert torch.equal(truth, batch.attributes if chance == 1.0 else torch.zeros_like(truth))


@pytest.mark.parametrize(("chance", "right"), [(0.3, True), (0.35, False)])
def test_attributes_are_hidden_at_the_rate_that_was_asked_for(chance: float, right: bool) -> None:
    batch = replace(training_batch([0]), attributes=torch.ones(20_000, 2, dtype=torch.int64))
    _, truth = hide_attributes(batch, chance, generator("rate"))
    error = (0.3 * 0.7 / 40_000) ** 0.5
    assert (abs(float(truth.double().mean()) - 0.3) < 5 * error) == right
    both = float((truth[:, 0] * truth[:, 1]).double().mean())
    assert abs(both - chance**2) < 5 * 0.5 / 20_000**0.5  # one attribute does not follow the other


@pytest.mark.parametrize("row", range(7))
def test_a_persons_gradient_does_not_change_with_anybody_elses_record(row: int) -> None:
    """In the batch whose shape stays the same, not by a single bit."""
    batch = training_batch([3] * 7)
    mine = training_batch([1])
    found = []
    for shift in (0, 5):
        items = (batch.items + shift - 1) % 20 + 1
        items[row] = mine.items[0]
        targets = (batch.targets + 2 * shift - 1) % 20 + 1
        targets[row] = mine.targets[0]
        attributes = (batch.attributes + shift) % 3
        attributes[row] = mine.attributes[0]
        mixed = replace(batch, items=items, targets=targets, attributes=attributes)
        model = encoder(scale=10.0, dropout=0.3)
        value = losses(mixed, model, masking=0.5, per_person=True)
        value[row].backward()
        found.append([value[row].detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dimension", get_args(DimensionName))
def test_with_every_dimension_a_persons_gradient_does_not_change_when_everything_of_everybody_else_does(
    dimension: DimensionName,
) -> None:
    """Items, behaviours, values, times, texts, declared attributes and targets: not by a single bit."""
    mine, row = histories(texts=3), 3
    start, end = mine.offsets[row : row + 2].tolist()
    gradients = []
    for seed in (1, 2):
        others = histories(texts=3, seed=seed)
        parts = {}
        for name in ("items", "behaviours", "values", "timestamps", "texts", "attributes"):
            value = getattr(others, name).clone()
            own = slice(row, row + 1) if name == "attributes" else slice(start, end)
            value[own] = getattr(mine, name)[own]
            parts[name] = value
        batch = replace(others, **parts).training_batch(torch.arange(7), LENGTH, None)
        model = encoder(scale=10.0, dimensions=(dimension,), text_width=3, behaviour_head=True)
        value = person_losses(
            model,
            batch,
            attribute_weight=0.3,
            attribute_masking=0.5,
            behaviour_weight=0.3,
            generator=generator("every dimension"),
            per_person=True,
        )
        value[row].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any(name.startswith(f"dimensions.{dimension}.") and bool((g != 0).any()) for name, g in gradients[0].items())
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name])


def test_a_long_history_counts_no_more_than_a_short_one() -> None:
    untrained = encoder()  # nearly even scores: every position costs log V
    value = losses(training_batch([0, 1, 3]), untrained, weight=0.0)
    assert torch.allclose(value, torch.full((3,), 20.0).log(), rtol=0.05)


def test_the_next_behaviour_is_the_mean_of_cross_entropies_and_nothing_where_there_is_one_behaviour_only() -> None:
    scores = torch.randn(4, 3, len(BEHAVIOURS), generator=generator("behaviours"))
    following = torch.tensor([[1, 6, 0], [6, 6, 6], [0, 0, 0], [0, 2, 10]])
    found = next_behaviour_losses(scores, following)
    chances = -scores.log_softmax(-1)
    assert float(found[0]) == pytest.approx(float(chances[0, 0, 0] + chances[0, 1, 5]) / 2, rel=1e-5)
    assert float(found[3]) == pytest.approx(float(chances[3, 1, 1] + chances[3, 2, 9]) / 2, rel=1e-5)
    assert found[1:3].tolist() == [0.0, 0.0]


def test_the_next_behaviours_part_of_a_loss_is_its_weight_times_it_and_needs_the_head() -> None:
    batch = histories().training_batch(torch.arange(7), LENGTH, None)
    model = encoder(scale=10.0, behaviour_head=True)

    def losses(weight: float, with_model: ProfileEncoder) -> Tensor:
        return person_losses(
            with_model,
            batch,
            attribute_weight=0.0,
            attribute_masking=0.0,
            behaviour_weight=weight,
            generator=generator("objective"),
        )

    part = next_behaviour_losses(model.behaviour_scores(model(batch).state), batch.next_behaviours)
    assert torch.allclose(losses(0.5, model) - losses(0.0, model), 0.5 * part, atol=1e-5)
    assert (part > 0).any()
    bare = encoder(scale=10.0)
    assert torch.equal(losses(0.5, bare), losses(0.0, bare))
    people, starts = histories(), histories().offsets
    for row in (0, 1):
        own = people.behaviours[int(starts[row]) : int(starts[row + 1])]
        length = int(batch.lengths[row])
        assert batch.next_behaviours[row, :length].tolist() == own[-length:].tolist()
