"""On a graphics processor the same code gives the same sums and the same noise; without one these are skipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tests.client.training.receipts import Receipt, on_grid, secret
from tests.client.training.test_engines import relative
from tests.people import encoder, generator, histories, vocabulary
from torch import Tensor

from silhouette_client.training.bookkeeping import Bookkeeping
from silhouette_client.training.private import train_privately
from silhouette_client.training.release import ClippedSum
from silhouette_client.training.step import ChargedNoise
from silhouette_shared.config import Clipping, Privacy, Training
from silhouette_shared.model.histories import Batch
from silhouette_shared.model.objective import draw_negatives, person_losses
from silhouette_shared.model.softmax import Tape
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="expected a CUDA device, found none")

LONG, ITEMS = 16, 20
MECHANISM = SampledGaussian(noise_multiplier=1.5, sampling_rate=1.0, steps=1, clip_norm=0.5)


def on(device: str, batch: Batch) -> Batch:
    """The same people there."""
    fields = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(batch).items()}
    return Batch(**cast(dict[str, Any], fields))


def sums(device: str, negatives: int, clipping: Clipping) -> tuple[Tensor, Tensor]:
    """The clipped sum of all people and their norms, computed there, brought here."""
    model = encoder(vocabulary(ITEMS), scale=4.0, length=LONG).to(device)
    batch = on(device, histories(items=ITEMS).training_batch(torch.arange(7), LONG, generator("windows")))
    drawn = draw_negatives(ITEMS, negatives, generator("negatives"))

    def losses(tape: Tape) -> Tensor:
        return person_losses(
            model,
            batch,
            attribute_weight=0.7,
            attribute_masking=1.0,
            generator=torch.Generator(device),
            negatives=None if drawn is None else drawn.to(device),
            tape=tape,
        )

    engine = Bookkeeping(model, clip_norm=0.5, clipping=clipping)
    engine.add(losses)
    return Layout.of(model).flatten(engine.take()).cpu(), engine.norms.cpu()


@pytest.mark.parametrize("negatives", [0, 5])
@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_the_clipped_sum_is_the_same_on_both(negatives: int, clipping: Clipping) -> None:
    (here, norms), (there, others) = (sums(device, negatives, clipping) for device in ("cpu", "cuda"))
    assert relative(there, here) < 1e-5
    assert torch.allclose(others, norms, rtol=1e-5)


def test_a_sum_from_there_gets_its_noise_and_goes_back() -> None:
    size, grid = 200_000, Grid.of(0.5, 16)
    used = on_grid(MECHANISM, size)
    noised = ChargedNoise(Receipt(used), used, secret("cuda"), grid, size).release(
        ClippedSum(torch.full((size,), 3.0, device="cuda"), 0.5)
    )
    value = noised.value()
    assert value.device.type == "cuda"
    standard = (value.double().cpu() - 3.0) / used.noise_std
    assert abs(float(standard.mean())) < 5 / size**0.5
    assert abs(float(standard.std()) - 1) < 5 / (2 * size) ** 0.5


def test_a_round_trained_there_moves_the_model_as_a_round_here_does() -> None:
    quiet = replace(MECHANISM, noise_multiplier=2e-5)
    moved = []
    for device in ("cpu", "cuda"):
        model = encoder(length=LONG, scale=4.0).to(device)
        layout = Layout.of(model)
        before = read_vector(model, layout).cpu()
        used = on_grid(quiet, layout.size, 24)
        release = train_privately(
            model,
            layout,
            histories().to(torch.device(device)),
            Training(attribute_weight=0.7, attribute_masking=1.0),
            Privacy(learning_rate=64.0, clip_norm=0.5, grid_bits=24),
            1,
            receipt=Receipt(used),
            mechanism=used,
            declared_people=7,
            secret=lambda purpose: secret(purpose),
        )
        assert release.vector.device.type == device
        assert not torch.equal(read_vector(model, layout).cpu(), before)
        moved.append(release.vector.cpu())
    assert relative(moved[1], moved[0]) < 0.01
