"""The fused softmax is the ordinary one: same losses, same gradients, one tensor of the scores' size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.people import generator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from silhouette_shared.errors import UsageError
from silhouette_shared.model.objective import draw_negatives, losses_of_scores
from silhouette_shared.model.softmax import Prior, Scorer, Tape, next_item_losses

PEOPLE, LENGTH, ITEMS, WIDTH, CONTENT, FEATURES = 4, 6, 30, 5, 3, 2


def normal(*shape: int, name: str) -> Tensor:
    return torch.randn(*shape, generator=generator("softmax", name), dtype=torch.float64)


def parts(content: bool = True) -> tuple[Tensor, Scorer, Tensor]:
    """States, what scores are made of, and targets of which some are missing and some repeat."""
    states = normal(PEOPLE, LENGTH, WIDTH, name="states").requires_grad_()
    table = normal(ITEMS + 1, WIDTH, name="table").requires_grad_()
    projection = normal(CONTENT, WIDTH, name="projection").requires_grad_() if content else None
    public = normal(ITEMS + 1, CONTENT, name="content") if content else None
    targets = torch.randint(1, ITEMS + 1, (PEOPLE, LENGTH), generator=generator("targets"))
    targets[0, 3:], targets[1], targets[2, 1] = 0, 0, targets[2, 0]
    return states, Scorer(table, projection, public), targets


def ordinary_scores(states: Tensor, scorer: Scorer, prior: Prior | None = None) -> Tensor:
    scores = states @ scorer.table.T
    if scorer.projection is not None and scorer.content is not None:
        scores = scores + states @ scorer.projection.T @ scorer.content.T
    if prior is not None:
        scores = scores + prior.queries @ prior.table.T
        if prior.bias is not None:
            scores = scores + prior.bias
    return scores.index_fill(-1, torch.tensor([0]), -torch.inf)


def gradients(losses: Tensor, states: Tensor, scorer: Scorer) -> list[Tensor]:
    wanted = [t for t in (states, scorer.table, scorer.projection) if t is not None]
    weights = torch.arange(1.0, PEOPLE + 1, dtype=torch.float64)
    return list(torch.autograd.grad((losses * weights).sum(), wanted, retain_graph=True))


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("with_prior", ["none", "prior", "prior and bias"])
@pytest.mark.parametrize("count", [0, 1, 7, ITEMS])
def test_losses_and_gradients_are_those_of_the_ordinary_softmax(count: int, with_prior: str, content: bool) -> None:
    states, scorer, targets = parts(content)
    negatives = draw_negatives(ITEMS, count, generator("negatives"))
    prior = None
    if with_prior != "none":
        bias = normal(ITEMS + 1, name="bias") if "bias" in with_prior else None
        prior = Prior(normal(PEOPLE, LENGTH, FEATURES, name="queries"), normal(ITEMS + 1, FEATURES, name="p"), bias)
    expected = losses_of_scores(ordinary_scores(states, scorer, prior), targets, negatives)
    found = next_item_losses(states, scorer, targets, negatives=negatives, prior=prior)
    taped = next_item_losses(states, scorer, targets, negatives=negatives, prior=prior, tape=Tape())
    assert torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(taped, expected, rtol=1e-12)
    assert found[1] == 0.0
    for one, other in zip(gradients(found, states, scorer), gradients(expected, states, scorer), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    by_states = torch.autograd.grad(taped.sum(), states)[0]
    assert torch.allclose(by_states, torch.autograd.grad(expected.sum(), states)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [0, 7])
def test_what_is_on_the_tape_makes_up_each_persons_gradient(count: int) -> None:
    states, scorer, targets = parts()
    negatives = draw_negatives(ITEMS, count, generator("negatives"))
    tape = Tape()
    next_item_losses(states, scorer, targets, negatives=negatives, tape=tape).sum().backward()
    (scored,) = tape.scored
    assert scorer.table.grad is None
    expected = losses_of_scores(ordinary_scores(states, scorer), targets, negatives)
    for person in range(PEOPLE):
        weighted = scored.weights[person, :, None] * scored.states[person]
        found = torch.zeros_like(scorer.table)
        rows = torch.arange(ITEMS + 1) if scored.candidates is None else scored.candidates
        found.index_add_(0, rows, scored.delta[person].T @ weighted)
        if scored.positives is not None and scored.positive_delta is not None:
            found.index_add_(0, scored.positives[person], scored.positive_delta[person, :, None] * weighted)
        assert scored.content_gradient is not None
        assert scorer.projection is not None
        by_table, by_projection = torch.autograd.grad(
            expected[person], [scorer.table, scorer.projection], retain_graph=True
        )
        assert torch.allclose(found, by_table, rtol=1e-9, atol=1e-12)
        assert torch.allclose(scored.content_gradient[person].T @ scored.states[person], by_projection, atol=1e-12)


def test_scores_far_apart_lose_no_loss() -> None:
    """A share may be zero in float32 where its logarithm is not."""
    states = torch.tensor([[[1000.0]]], requires_grad=True)
    table = torch.tensor([[0.0], [1.0], [-1.0]], requires_grad=True)
    for negatives in (None, torch.tensor([1])):
        losses = next_item_losses(states, Scorer(table, None, None), torch.tensor([[2]]), negatives=negatives)
        assert losses.tolist() == [2000.0]
        losses.sum().backward()


def test_nobody_with_a_target_costs_nothing() -> None:
    states, scorer, targets = parts()
    for chosen in (None, torch.tensor([2, 9])):
        losses = next_item_losses(states, scorer, torch.zeros_like(targets), negatives=chosen)
        assert losses.tolist() == [0.0] * PEOPLE
        losses.sum().backward()
        assert states.grad is not None
        assert not states.grad.any()


class Held(TorchDispatchMode):
    """How many tensors at least so large were made."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)}
        if isinstance(found, Tensor) and found.numel() >= self.size:
            self.count += found.untyped_storage().data_ptr() not in known
        return found


@pytest.mark.parametrize("tape", [None, Tape()])
def test_one_tensor_of_the_scores_size_is_made_and_no_second(tape: Tape | None) -> None:
    people, length, items = 30, 20, 4000
    states = torch.randn(people, length, WIDTH, generator=generator("large"), requires_grad=True)
    table = torch.randn(items + 1, WIDTH, generator=generator("large table"), requires_grad=True)
    targets = torch.randint(1, items + 1, (people, length), generator=generator("large targets"))
    with Held(people * length * items // 2) as held:
        next_item_losses(states, Scorer(table, None, None), targets, tape=tape).sum().backward()
    assert held.count == 1
    with Held(people * length * items // 2) as ordinary:
        losses_of_scores(states @ table.T, targets).sum().backward()
    assert ordinary.count > 1


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 5))
def test_negatives_are_that_many_different_items(items: int, count: int, stream: int) -> None:
    if count > items:
        with pytest.raises(UsageError, match=rf"expected at most {items} negatives, one an item, got {count}; lower"):
            draw_negatives(items, count, generator(stream))
        return
    found = draw_negatives(items, count, generator(stream))
    if count == 0:
        assert found is None
        return
    assert found is not None
    assert len(set(found.tolist())) == count
    assert set(found.tolist()) <= set(range(1, items + 1))


def test_every_item_is_as_likely_to_be_a_negative() -> None:
    draw, times = generator("even"), 4000
    counts = torch.zeros(11)
    for _ in range(times):
        found = draw_negatives(10, 3, draw)
        assert found is not None
        counts[found] += 1
    error = (times * 0.3 * 0.7) ** 0.5
    assert (counts[1:] - 0.3 * times).abs().max() < 4 * error
    assert abs(0.35 * times - 0.3 * times) > 4 * error  # another chance would be noticed
