"""A round of private training: samples, steps and what the optimiser makes of the noised sums."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.client.training.receipts import Receipt, on_grid, secret
from tests.client.training.test_engines import LONG, clipped_sum, gradients, relative
from tests.people import encoder, histories, only
from torch import Tensor

from silhouette_client.training.engine import EngineName
from silhouette_client.training.private import train_privately
from silhouette_client.training.release import PrivateUpdate
from silhouette_client.training.sampling import poisson_sample
from silhouette_shared.config import Privacy, Training
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, read_vector, write_vector
from silhouette_shared.privacy.mechanism import SampledGaussian

# Without draws in the objective: all attributes are hidden, nothing is dropped, and no history exceeds the window.
TRAINING = Training(attribute_weight=0.7, attribute_masking=1.0)
# A power of two, taken out again: a small step would be lost in the rounding of the parameters it is added to.
RATE = 64.0
BITS = 24  # a fine grid, so that noise can be small enough to see the sum through it
PRIVACY = Privacy(learning_rate=RATE, optimiser="sgd", clip_norm=0.5, grid_bits=BITS)
QUIET = SampledGaussian(noise_multiplier=2e-5, sampling_rate=1.0, steps=1, clip_norm=0.5)


def update(
    people: Histories,
    mechanism: SampledGaussian = QUIET,
    *,
    model: ProfileEncoder | None = None,
    training: Training = TRAINING,
    declared: int | None = None,
    stream: str = "one",
    engine: EngineName = "bookkeeping",
) -> Tensor:
    """The noised, clipped sum over the expected people, with its sign turned."""
    made = encoder(length=LONG, scale=10.0) if model is None else model
    layout = Layout.of(made)
    used = on_grid(mechanism, layout.size, BITS)
    release = train_privately(
        made,
        layout,
        people,
        training,
        replace(PRIVACY, local_steps=mechanism.steps),
        1,
        receipt=Receipt(used),
        mechanism=used,
        declared_people=len(people) if declared is None else declared,
        secret=lambda purpose: secret(purpose, stream),
        engine=engine,
    )
    assert isinstance(release, PrivateUpdate)
    return release.vector / RATE


def untouched(model: ProfileEncoder, vector: Tensor) -> Tensor:
    """The coordinates that no record here touches: the padding item's row and values that nobody gave."""
    parts = Layout.of(model).split(vector)
    return torch.cat([parts["item.weight"][0], parts["value.weight"][20:].flatten()])


@pytest.mark.parametrize("engine", ["bookkeeping", "opacus"])
def test_the_update_is_the_clipped_sum_over_the_declared_people(engine: EngineName) -> None:
    people = histories()
    expected = -clipped_sum(gradients(people), 0.5) / 10
    assert relative(update(people, declared=10, engine=engine), expected) < 0.01  # what the small noise leaves


def test_the_sum_is_divided_by_the_expected_people_never_by_those_drawn() -> None:
    people = histories()
    mechanism = replace(QUIET, sampling_rate=0.5)
    found = gradients(people)
    sizes = set()
    for number in range(8):
        drawn = poisson_sample(len(people), 0.5, secret("sampling", f"s{number}"))
        sizes.add(len(drawn))
        if len(drawn) == 0:
            continue
        expected = -clipped_sum([found[row] for row in drawn.tolist()], 0.5) / (0.5 * len(people))
        assert relative(update(people, mechanism, stream=f"s{number}"), expected) < 0.02
    assert len(sizes - {0}) > 2


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_every_coordinate_gets_noise_also_of_layers_that_no_loss_reaches(weight: float) -> None:
    training = replace(TRAINING, attribute_weight=weight)
    mechanism = replace(QUIET, noise_multiplier=3.0)
    one = update(histories(), mechanism, training=training)
    other = update(histories(), mechanism, training=training, stream="another")
    layout = Layout.of(encoder(length=LONG))
    assert (one != other).float().mean() > 0.9999  # two float32 draws may coincide
    for name, part in layout.split(one - other).items():
        assert (part != 0).any(), name


@pytest.mark.parametrize("true_over_claimed", [1.0, 0.5, 1.2])
def test_where_no_record_reaches_the_noise_has_the_accounted_size_and_no_other(true_over_claimed: float) -> None:
    made, people = encoder(length=LONG), histories()
    layout = Layout.of(made)
    claimed = on_grid(
        SampledGaussian(noise_multiplier=2.0, sampling_rate=0.3, steps=1, clip_norm=0.5), layout.size, BITS
    )
    used = SampledGaussian(noise_multiplier=2.0 * true_over_claimed, sampling_rate=0.3, steps=1, clip_norm=0.5)
    start = read_vector(made, layout)
    draws = []
    for number in range(12):
        write_vector(made, layout, start)
        draws.append(untouched(made, update(people, used, model=made, stream=f"noise {number}")))
    drawn = torch.cat(draws).double() * (0.3 * len(people)) / claimed.noise_std
    # 4416 draws: the standard error of their deviation is 1 / sqrt(8832), about 0.011.
    assert drawn.numel() == 12 * (8 + 45 * 8)
    assert (abs(float(drawn.std()) - 1) < 5 / (2 * drawn.numel()) ** 0.5) == (true_over_claimed == 1.0)
    assert abs(float(drawn.mean())) < 5 * true_over_claimed / drawn.numel() ** 0.5


def test_an_empty_sample_is_noised_like_any_other() -> None:
    people = only(histories(), [0])
    mechanism = SampledGaussian(noise_multiplier=2.0, sampling_rate=1e-9, steps=1, clip_norm=0.5)
    drawn = update(people, mechanism) * 1e-9 / (2.0 * 0.5)
    assert abs(float(drawn.std()) - 1) < 5 / (2 * drawn.numel()) ** 0.5
    assert (drawn == 0).sum() == 0


def test_no_draw_comes_from_the_global_generator() -> None:
    model = encoder(length=4, dropout=0.3)  # windows and dropout are drawn
    before = torch.get_rng_state()
    update(histories(), replace(QUIET, noise_multiplier=1.0, sampling_rate=0.5), model=model)
    assert torch.equal(torch.get_rng_state(), before)


def test_several_steps_are_several_samples_and_several_draws() -> None:
    model, people = encoder(length=LONG, scale=10.0), histories()
    mechanism = SampledGaussian(noise_multiplier=1.0, sampling_rate=0.5, steps=3, clip_norm=0.5)
    noise = untouched(model, update(people, mechanism, model=model)).double() * (0.5 * len(people)) / 0.5
    assert abs(float(noise.std()) / 3**0.5 - 1) < 5 / (2 * noise.numel()) ** 0.5  # three draws in each coordinate


def test_a_charge_for_other_steps_than_the_plan_takes_is_refused() -> None:
    made = encoder()
    layout = Layout.of(made)
    with pytest.raises(ValueError, match="expected a charge for 2 steps, got one for 1"):
        train_privately(
            made,
            layout,
            histories(),
            TRAINING,
            replace(PRIVACY, local_steps=2),
            1,
            receipt=Receipt(QUIET),
            mechanism=QUIET,
            declared_people=7,
            secret=secret,
        )
