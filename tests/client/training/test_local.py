"""A round without privacy is ordinary training, and its update is exactly how far the model moved."""

from __future__ import annotations

from dataclasses import replace

import torch
from tests.people import LENGTH, encoder, generator, histories

from silhouette_client.training.local import train_plainly
from silhouette_client.training.release import PlainUpdate
from silhouette_shared.config import Training
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.objective import person_losses
from silhouette_shared.model.vector import Layout, read_vector, write_vector

TRAINING = Training(batch_size=3, rounds=4)


def train(model: ProfileEncoder, training: Training = TRAINING, number: int = 1, stream: str = "a") -> torch.Tensor:
    release = train_plainly(model, Layout.of(model), histories(), training, number, generator(stream))
    assert isinstance(release, PlainUpdate)
    return release.vector


def test_the_update_is_the_difference_of_the_models() -> None:
    model = encoder(dropout=0.2)
    layout = Layout.of(model)
    before = read_vector(model, layout)
    update = train(model)
    assert torch.equal(update, read_vector(model, layout) - before)
    assert float(update.abs().max()) > 0


def test_equal_streams_give_equal_updates_and_others_do_not() -> None:
    one, same, other = (train(encoder(dropout=0.2), stream=stream) for stream in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_optimiser_keeps_nothing_between_rounds() -> None:
    used, fresh = encoder(dropout=0.2), encoder(dropout=0.2)
    layout = Layout.of(used)
    start = read_vector(used, layout)
    train(used, number=1, stream="before")
    write_vector(used, layout, start)
    assert torch.equal(train(used, number=2), train(fresh, number=2))


def test_hardly_any_learning_rate_moves_the_model_hardly() -> None:
    assert float(train(encoder(), replace(TRAINING, learning_rate=1e-12)).abs().max()) < 1e-10


def test_the_step_follows_the_schedule_of_the_round() -> None:
    # One step over everybody: the first step of Adam is the learning rate in every coordinate with a gradient.
    training = replace(TRAINING, batch_size=100, learning_rate=1e-4, warm_up_rounds=3, attribute_masking=1.0)
    sizes = [float(train(encoder(scale=5.0), training, number).abs().max()) for number in (1, 2, 3, 4)]
    for size, factor in zip(sizes, (0.25, 0.5, 0.75, 1.0), strict=True):
        assert abs(size - 1e-4 * factor) < 2e-6


def test_the_loss_goes_down() -> None:
    model, people = encoder(), histories()

    def loss() -> float:
        batch = people.training_batch(torch.arange(len(people)), LENGTH, None)
        found = person_losses(model, batch, attribute_weight=0.1, attribute_masking=1.0, generator=generator("m"))
        return float(found.detach().mean())

    before = loss()
    train(model, replace(TRAINING, local_epochs=15, learning_rate=1e-2))
    assert loss() < 0.8 * before


def test_no_draw_comes_from_the_global_generator() -> None:
    model = encoder(dropout=0.3)
    before = torch.get_rng_state()
    train(model)
    assert torch.equal(torch.get_rng_state(), before)
