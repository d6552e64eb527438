"""One partner's round with user-level differential privacy, on Opacus' engine.

One training example is one person's whole record, so Opacus' per-example clipping bounds the influence of one person.
Per-example gradients come from hooks, exact for every layer of the encoder, the item table included because it is
shared as a module. The noise of each partner comes from its own generator: Opacus draws from torch's global one
unless told otherwise, and two partners with the same state would add the same noise.

The noise is pseudo-random, not cryptographic. Abadi et al. 2016, Algorithm 1, https://arxiv.org/abs/1607.00133.
"""

import warnings
from collections.abc import Callable
from typing import cast

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator

from silhouette_client.training.release import PrivateUpdate
from silhouette_client.training.sampling import poisson_sample
from silhouette_shared.config import Privacy, Training
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import person_losses
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.mechanism import SampledGaussian

PEOPLE_AT_ONCE = 32
"""Largest part of a batch whose per-person gradients are held in memory together; changes which draws of dropout and
windows a person gets, otherwise nothing."""

# Opacus hooks every layer, and an embedding's input is item numbers, which have no gradient. torch then says that the
# hook fires for the outputs alone, and those are all that Opacus reads there (the per-person gradients are tested
# against plain autograd). Once for the process: `warnings.catch_warnings` is not safe where partners train in threads.
warnings.filterwarnings(
    "ignore",
    message="Full backward hook is firing when gradients are computed with respect to module outputs",
    category=UserWarning,
)


def train_privately(
    encoder: ProfileEncoder,
    layout: Layout,
    histories: Histories,
    training: Training,
    privacy: Privacy,
    mechanism: SampledGaussian,
    round_number: int,
    *,
    sampling: torch.Generator,
    noise: torch.Generator,
    objective: torch.Generator,
) -> PrivateUpdate:
    """Train the encoder in place with clipped, noised sums and return how far it moved.

    The sum over a batch is divided by the expected batch size, never the actual one, and an empty batch is noised and
    charged like any other.

    Windows, hiding and dropout come from one stream for all, so which draws a person gets depends on who else is in the
    sample. That costs nothing: the draws are independent of all records, so the sums with and without a person may be
    compared draw by draw, and differ by what that person adds, at most the clip norm. Somebody who knows the stream is
    outside this argument, as is somebody who knows the noise; a deployment draws both from a secure source.

    A person whose gradient is not finite adds nothing: a model can be made up for which one person's overflows, and
    an undefined sum would tell that this person is there.

    Args:
        encoder: Holds the global model of this round.
        layout: Order of the flat vector.
        histories: The partner's people, on the encoder's device.
        training: The objective.
        privacy: Steps and local optimiser.
        mechanism: What the whole run is accounted as; drives clipping, noise and sampling here.
        round_number: From 1; sets the learning rate.
        sampling: For the Poisson samples; on the device of the histories.
        noise: For the noise; this partner's own, used for nothing else.
        objective: For windows, masking and dropout.

    Raises:
        ValueError: If a layer of the encoder has no per-person gradient.
    """
    encoder.train()
    faults = ModuleValidator.validate(encoder, strict=False)
    if faults:
        raise ValueError(f"expected layers with per-person gradients, got {faults}")
    before = read_vector(encoder, layout)
    rate = privacy.learning_rate * privacy.learning_rate_factor(round_number)
    make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD if privacy.optimiser == "sgd" else torch.optim.Adam
    watched = GradSampleModule(encoder, batch_first=True, loss_reduction="sum", strict=True)
    try:
        optimiser = DPOptimizer(
            make(encoder.parameters(), lr=rate),
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.clip_norm,
            expected_batch_size=mechanism.sampling_rate * len(histories),
            loss_reduction="mean",
            generator=noise,
        )
        for _ in range(privacy.local_steps):
            sample = poisson_sample(len(histories), mechanism.sampling_rate, sampling)
            parts = list(sample.split(PEOPLE_AT_ONCE))
            for number, people in enumerate(parts):
                optimiser.zero_grad(set_to_none=True)
                _set_person_gradients(encoder, histories, people, training, objective)
                optimiser.signal_skip_step(do_skip=number + 1 < len(parts))
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    finally:
        _forget(encoder, watched)
    return PrivateUpdate(read_vector(encoder, layout) - before, mechanism.after(privacy.local_steps))


def _set_person_gradients(
    encoder: ProfileEncoder,
    histories: Histories,
    people: torch.Tensor,
    training: Training,
    generator: torch.Generator,
) -> None:
    if len(people) == 0:  # Opacus has no hook to run, but the step is noised all the same
        for parameter in encoder.parameters():
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        return
    batch = histories.training_batch(people, encoder.history_length, generator)
    losses = person_losses(
        encoder,
        batch,
        attribute_weight=training.attribute_weight,
        attribute_masking=training.attribute_masking,
        generator=generator,
        per_person=True,
    )
    losses.sum().backward()
    for parameter in encoder.parameters():
        # A layer that this batch did not reach has no gradient, and still gets its noise.
        if getattr(parameter, "grad_sample", None) is None:
            parameter.grad_sample = parameter.new_zeros((len(people), *parameter.shape))  # type: ignore[attr-defined]
    _leave_out_broken(encoder)


def _leave_out_broken(encoder: ProfileEncoder) -> None:
    """Set the gradients of everybody with a coordinate that is not finite to zero."""
    gradients = [cast(torch.Tensor, vars(parameter)["grad_sample"]) for parameter in encoder.parameters()]
    broken = ~torch.stack([gradient.flatten(1).sum(1) for gradient in gradients]).sum(0).isfinite()
    if broken.any():
        for gradient in gradients:
            gradient[broken] = 0.0


def _forget(encoder: ProfileEncoder, watched: GradSampleModule) -> None:
    """Leave the encoder as it came, also after an error between a forward and its backward pass.

    What Opacus would keep is added to the next pass: other people's gradients, under nobody's clip norm.
    """
    watched.cleanup()
    for parameter in encoder.parameters():
        if hasattr(parameter, "summed_grad"):
            del parameter.summed_grad
        parameter.grad = None
    for module in encoder.modules():
        for name in ("activations", "max_batch_len"):
            if hasattr(module, name):
                delattr(module, name)
