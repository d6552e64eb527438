"""The encoder of a plan: as every training starts, and with a trained model in it."""

from dataclasses import replace

import torch
from torch import Tensor

from silhouette_shared.config import Plan
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.prior import PriorShape
from silhouette_shared.model.vector import Layout, write_vector
from silhouette_shared.randomness import ReproducibleSource


def new_encoder(plan: Plan, vocabulary: Vocabulary, device: torch.device) -> ProfileEncoder:
    """The encoder as every training of the plan starts from."""
    encoder = ProfileEncoder(plan.model, vocabulary, plan.data.history_length)
    encoder.initialise(ReproducibleSource(plan.seed).child("initial model").torch_generator())
    return encoder.to(device)


def load_encoder(plan: Plan, vocabulary: Vocabulary, parameters: Tensor, device: torch.device) -> ProfileEncoder:
    """The encoder with a trained model: its parameters, and its prior if it has one, (D,) or (D + P,)."""
    encoder = new_encoder(plan, vocabulary, device)
    layout = Layout.of(encoder)
    if len(parameters) > layout.size:
        encoder = new_encoder(plan, replace(vocabulary, prior=PriorShape.of(plan.statistics)), device)
        encoder.set_prior(parameters[layout.size :])
    write_vector(encoder, layout, parameters[: layout.size].to(device))
    return encoder.eval()
