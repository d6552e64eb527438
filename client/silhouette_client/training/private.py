"""One partner's round with user-level differential privacy.

One training example is one person's whole record, so clipping an example bounds the influence of one person. An engine
sums the clipped gradients, `step` puts the sum on the grid and adds noise that the ledger has charged, and Opacus'
optimiser drives what follows. Abadi et al. 2016, Algorithm 1, https://arxiv.org/abs/1607.00133.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor

from silhouette_client.training.engine import EngineName, Losses
from silhouette_client.training.release import NoisedSum, PrivateUpdate
from silhouette_client.training.step import ChargedNoise, Paid, make_engine, private_step
from silhouette_shared.config import Privacy, Training
from silhouette_shared.model.augmentation import augmented_batch, views_of
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import draw_negatives, person_losses
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import SecretBytes, unpredictable_generator

SecretOf = Callable[[str], SecretBytes]
"""Gives, for the name of a purpose, the bytes that serve it and nothing else."""

_PEOPLE_AT_ONCE: dict[EngineName, int] = {"bookkeeping": 128, "opacus": 32}
_LARGEST_SCORES = 2**28  # bytes of one virtual batch's scores over the candidates


def train_privately(
    encoder: ProfileEncoder,
    layout: Layout,
    histories: Histories,
    training: Training,
    privacy: Privacy,
    round_number: int,
    *,
    receipt: Paid,
    mechanism: SampledGaussian,
    declared_people: int,
    secret: SecretOf,
    engine: EngineName = "bookkeeping",
) -> PrivateUpdate:
    """Train the encoder in place with clipped, noised sums and return how far it moved.

    The sum over a sample is divided by the expected sample size, never the actual one, and an empty sample is noised
    and charged like any other.

    Windows, hiding and dropout come from one stream for all, so which draws a person gets depends on who else is in the
    sample. That costs nothing: the draws are independent of all records and nobody else knows them, so the sums with
    and without a person may be compared draw by draw, and differ by what that person adds, at most the clip norm.

    Args:
        encoder: Holds the global model of this round.
        layout: Order of the flat vector.
        histories: The partner's people, on the encoder's device.
        training: The objective.
        privacy: Steps, clipping, grid and local optimiser.
        round_number: From 1; sets the learning rate.
        receipt: Of the charge for this round.
        mechanism: Of this round's steps, on the grid: what was charged.
        declared_people: What the partner published as its size; the real number is nobody's business.
        secret: For the sample, the noise and the objective's draws.
        engine: Computes the same sums another way.

    Raises:
        ValueError: If a layer of the encoder has no per-person gradient in this engine.
        RefusedError: If the receipt does not cover what is asked.
    """
    if mechanism.steps != privacy.local_steps:
        raise ValueError(f"expected a charge for {privacy.local_steps} steps, got one for {mechanism.steps}")
    if mechanism.shares != 1:
        raise ValueError("expected all of the noise for an update, got a share of it; only the sum may be opened")
    before = read_vector(encoder, layout)
    with _steps(encoder, layout, histories, training, privacy, receipt, mechanism, secret, engine) as take_step:
        optimiser = _SteppingOptimizer(encoder, layout, privacy, round_number, mechanism, declared_people)
        for _ in range(privacy.local_steps):
            optimiser.step_along(take_step())
    return PrivateUpdate(read_vector(encoder, layout) - before, mechanism)


def noised_gradient(
    encoder: ProfileEncoder,
    layout: Layout,
    histories: Histories,
    training: Training,
    privacy: Privacy,
    *,
    receipt: Paid,
    mechanism: SampledGaussian,
    secret: SecretOf,
    engine: EngineName = "bookkeeping",
) -> NoisedSum:
    """One step's clipped sum with this partner's share of the noise, for a sum over partners that has all of it.

    The arguments are those of `train_privately`; the encoder stays as it is.

    Raises:
        ValueError: If more than one step was charged.
        RefusedError: If the receipt does not cover what is asked.
    """
    if mechanism.steps != 1:
        raise ValueError(f"expected a charge for 1 step, got one for {mechanism.steps}")
    with _steps(encoder, layout, histories, training, privacy, receipt, mechanism, secret, engine) as take_step:
        return take_step()


@contextmanager
def _steps(
    encoder: ProfileEncoder,
    layout: Layout,
    histories: Histories,
    training: Training,
    privacy: Privacy,
    receipt: Paid,
    mechanism: SampledGaussian,
    secret: SecretOf,
    engine: EngineName,
) -> Iterator[Callable[[], NoisedSum]]:
    """Give what takes one step after the other; the encoder is left without a trace of the engine."""
    device = histories.items.device
    generator = unpredictable_generator(secret("objective"), device)
    encoder.train()
    grid = Grid.of(privacy.clip_norm, privacy.grid_bits)
    charged = ChargedNoise(receipt, mechanism, secret("noise"), grid, layout.size)
    sampling = secret("sampling")
    watching = make_engine(
        engine,
        encoder,
        clip_norm=privacy.clip_norm,
        clipping=privacy.clipping,
        stability=privacy.clip_stability,
    )

    def take_step() -> NoisedSum:
        return private_step(
            watching,
            layout,
            len(histories),
            step_losses(encoder, histories, training, generator),
            charged,
            sampling,
            at_once=people_at_once(engine, encoder, training),
            device=device,
        )

    try:
        yield take_step
    finally:
        watching.close()


def step_losses(
    encoder: ProfileEncoder, histories: Histories, training: Training, generator: torch.Generator
) -> Callable[[Tensor], Losses]:
    """What one step minimises: for row numbers (B,), what an engine runs to get one loss each.

    Args:
        encoder: In training.
        histories: The partner's people.
        training: The objective.
        generator: For negatives, which all virtual batches of the step share, and for windows, hiding and dropout.
    """
    negatives = draw_negatives(len(encoder.item.weight) - 1, training.negatives, generator)

    def losses(rows: Tensor) -> Losses:
        batch = augmented_batch(histories, rows, encoder.history_length, views_of(training), generator)
        return lambda tape: person_losses(
            encoder,
            batch,
            attribute_weight=training.attribute_weight,
            behaviour_weight=training.behaviour_weight,
            attribute_masking=training.attribute_masking,
            generator=generator,
            negatives=negatives,
            per_person=True,
            tape=tape,
        )

    return losses


class _SteppingOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus' optimiser, whose sum and noise come from `private_step` instead of its own."""

    def __init__(
        self,
        encoder: ProfileEncoder,
        layout: Layout,
        privacy: Privacy,
        round_number: int,
        mechanism: SampledGaussian,
        declared_people: int,
    ) -> None:
        rate = privacy.learning_rate * privacy.learning_rate_factor(round_number)
        make: Any = torch.optim.SGD if privacy.optimiser == "sgd" else torch.optim.Adam
        super().__init__(
            make(encoder.parameters(), lr=rate),
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.sensitivity,
            expected_batch_size=cast(
                int, mechanism.sampling_rate * declared_people
            ),  # a float is right; int is Opacus'
            loss_reduction="mean",
        )
        self._named, self._layout = dict(encoder.named_parameters()), layout

    def step_along(self, noised: NoisedSum) -> None:
        """Divide the noised sum by the expected sample and step."""
        for name, part in self._layout.split(noised.value()).items():
            self._named[name].grad = part
        self.step()
        self.zero_grad(set_to_none=True)

    def add_noise(self) -> None:
        """Keep the sum as it came: it is noised already."""
        for parameter in self.params:
            parameter.grad = parameter.summed_grad


def people_at_once(engine: EngineName, encoder: ProfileEncoder, training: Training) -> int:
    """Largest virtual batch: what the engine holds of it stays small."""
    candidates = training.negatives + 1 if training.negatives else len(encoder.item.weight)
    scores = 4 * encoder.history_length * candidates
    return max(1, min(_PEOPLE_AT_ONCE[engine], _LARGEST_SCORES // scores))
