"""Server optimisers move the model as their papers say, and go on after a restart as if there had been none."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from tests.people import generator
from torch import Tensor

from silhouette_server.strategy.optimisers import ServerOptimiser
from silhouette_shared.config import Privacy, Training

Kind = Literal["average", "momentum", "adam", "adam_corrected"]
KINDS: tuple[Kind, ...] = ("average", "momentum", "adam", "adam_corrected")
RATE, MOMENTUM = 0.5, 0.8
NOISE = 0.7  # known, of every update


def optimiser(kind: Kind, start: Tensor | None = None) -> ServerOptimiser:
    schedule = Privacy(server_optimiser=kind, server_learning_rate=RATE, server_momentum=MOMENTUM)
    return ServerOptimiser(schedule, torch.zeros(6) if start is None else start)


def updates(count: int) -> list[Tensor]:
    return list(torch.randn(count, 6, generator=generator("updates")))


def by_hand(kind: Kind, steps: list[Tensor]) -> Tensor:
    model, first, second = (torch.zeros(6, dtype=torch.float64) for _ in range(3))
    for number, step in enumerate(steps, start=1):
        if kind == "average":
            model += RATE * step
        elif kind == "momentum":
            first = MOMENTUM * first + step
            model += RATE * first
        else:
            first = MOMENTUM * first + (1 - MOMENTUM) * step
            second = 0.99 * second + 0.01 * step.double().square()
            mean, spread = first / (1 - MOMENTUM**number), second / (1 - 0.99**number)
            if kind == "adam_corrected":
                spread = torch.maximum(spread - NOISE**2, torch.tensor(0.05 * NOISE**2))
            model += RATE * mean / (spread.sqrt() + 1e-8)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_moves_as_the_formula_says(kind: Kind) -> None:
    made = optimiser(kind)
    for step in updates(5):
        made.step(step, NOISE)
    assert torch.allclose(made.parameters.double(), by_hand(kind, updates(5)), rtol=1e-5, atol=1e-6)


def test_averaging_at_rate_one_is_the_mean_of_the_partners_models() -> None:
    start = torch.arange(6.0)
    made = ServerOptimiser(Training(), start)
    made.step(torch.full((6,), 0.25))
    assert torch.equal(made.parameters, start + 0.25)
    assert torch.equal(start, torch.arange(6.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_restored_optimiser_goes_on_bit_for_bit(kind: Kind, done: int) -> None:
    whole = optimiser(kind)
    for step in updates(6):
        whole.step(step, NOISE)
    first = optimiser(kind)
    for step in updates(6)[:done]:
        first.step(step, NOISE)
    state = first.state()
    first.step(torch.ones(6))  # what was handed out does not follow
    second = optimiser(kind, torch.full((6,), 9.0))
    second.restore(state)
    for step in updates(6)[done:]:
        second.step(step, NOISE)
    assert torch.equal(second.parameters, whole.parameters)


def averaging(weight: float) -> ServerOptimiser:
    return ServerOptimiser(Training(averaging=weight), torch.zeros(6))


def test_the_running_mean_weighs_later_models_more_and_leaves_training_alone() -> None:
    mean, last = averaging(0.5), averaging(0.0)
    models = []
    for step in updates(3):
        for made in (mean, last):
            made.step(step)
        models.append(last.parameters)
    assert torch.equal(mean.parameters, last.parameters)
    assert torch.equal(last.averaged, last.parameters)
    expected = (models[0] + 2 * models[1] + 4 * models[2]) / 7
    assert torch.allclose(mean.averaged, expected)
    assert not torch.allclose(mean.averaged, mean.parameters)


def test_the_running_mean_survives_a_restart_and_is_missed_where_it_is_not() -> None:
    whole, first, second = averaging(0.8), averaging(0.8), averaging(0.8)
    assert torch.equal(first.averaged, torch.zeros(6))
    for step in updates(4):
        whole.step(step)
    for step in updates(4)[:2]:
        first.step(step)
    second.restore(first.state())
    for step in updates(4)[2:]:
        second.step(step)
    assert torch.equal(second.averaged, whole.averaged)
    with pytest.raises(ValueError, match="expected the state of a model with its running mean, got one without"):
        averaging(0.8).restore(averaging(0.0).state())


def test_the_restored_state_matters_for_the_kinds_that_have_one() -> None:
    for kind in ("momentum", "adam", "adam_corrected"):
        first = optimiser(kind)
        first.step(updates(2)[0])
        whole, bare = optimiser(kind), optimiser(kind, first.parameters)
        whole.restore(first.state())
        for made in (whole, bare):
            made.step(updates(2)[1])
        assert not torch.allclose(whole.parameters, bare.parameters)


def test_corrected_adam_sees_a_signal_that_adam_sees_as_noise() -> None:
    """Two coordinates whose signals are a tenth and a half of the noise: Adam moves them in that ratio, as momentum."""
    draw = generator("noisy")
    signal = torch.tensor([0.1, 0.5] * 500)
    moved = {}
    for kind in ("adam", "adam_corrected"):
        made = ServerOptimiser(Privacy(server_optimiser=kind, server_learning_rate=1e-3), torch.zeros(1000))
        for _ in range(300):
            made.step(signal + torch.randn(1000, generator=draw), 1.0)
        weak, strong = made.parameters[::2].mean(), made.parameters[1::2].mean()
        moved[kind] = float(strong / weak)
    assert moved["adam"] > 4.0
    assert moved["adam_corrected"] < 0.8 * moved["adam"]


def test_corrected_adam_is_refused_where_no_noise_is_known() -> None:
    with pytest.raises(ValueError, match="for there is no noise to correct for"):
        Training(server_optimiser="adam_corrected")
    with pytest.raises(ValueError, match="where an answer's noise is known"):
        Privacy(server_optimiser="adam_corrected", local_steps=2)


def test_a_model_that_was_read_does_not_move_with_later_steps() -> None:
    made = optimiser("average")
    before = made.parameters
    made.step(torch.ones(6))
    assert torch.equal(before, torch.zeros(6))


@pytest.mark.parametrize("tensors", [{}, {"parameters": torch.zeros(5)}, {"parameters": torch.zeros(6, 1)}])
def test_the_state_of_another_model_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="expected the state of a model of 6 parameters, got another"):
        optimiser("adam").restore(tensors)
