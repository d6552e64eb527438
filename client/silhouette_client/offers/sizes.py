"""How large a model would be, before anything of its size is made."""

from __future__ import annotations

import torch

from silhouette_shared.config import Model, Plan
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.pairs import pair_count
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.accounting import epsilon
from silhouette_shared.privacy.mechanism import SampledGaussian


def least_parameters(plan: Plan, items: int) -> int:
    """A lower bound on a model's parameters from a few numbers of its plan; building a hostile one would fill memory.

    Args:
        plan: Any.
        items: Of the catalogue.
    """
    width, blocks = plan.model.width, plan.model.blocks
    table = (items + 1) * width
    per_block = (2 * plan.model.feed_forward + 4) * width * width
    return table + blocks * per_block


def largest_vector(plan: Plan, vocabulary: Vocabulary) -> int:
    """Coordinates of the largest vector that a run makes: its model with the prior, or one of its statistics.

    Counted on tensors without content.

    Args:
        plan: Whose lower bound was looked at.
        vocabulary: The public catalogue, on any device; only its shapes are used.
    """
    with torch.device("meta"):
        shapes = Vocabulary(
            categories=torch.empty(vocabulary.categories.shape),
            content=torch.empty(vocabulary.content.shape),
            attributes=vocabulary.attributes,
            prior=vocabulary.prior,
        )
        encoder = ProfileEncoder(plan.model, shapes, plan.data.history_length)
        model = Layout.of(encoder).size + encoder.prior_size
    if vocabulary.prior is None:
        return model
    return max(model, pair_count(min(plan.active_items, vocabulary.items)))


def warm_up() -> None:
    """Load what the first offer would have to wait for: an answer has seconds, and loading these takes as long."""
    plan = Plan(name="warm-up", model=Model(width=2, blocks=1, heads=1))
    largest_vector(plan, Vocabulary(categories=torch.empty(2, 1), content=torch.empty(2, 1), attributes=()))
    epsilon(SampledGaussian(noise_multiplier=4.0, sampling_rate=0.5, steps=2, clip_norm=1.0), 1e-5)
