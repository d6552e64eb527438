"""What training minimises, one value per person.

Every person counts alike: the loss is a mean over that person's own positions, so that a long history does not buy a
larger influence. Nothing here looks across people; there are no in-batch negatives, because they would put
other people's records into one person's gradient.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.histories import UNKNOWN, Batch


def hide_attributes(batch: Batch, chance: float, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """Hide each declared attribute with probability `chance`; the encoder has to guess what is hidden.

    Returns:
        The batch as the encoder sees it, and the truth where something was hidden (B, A), 0 elsewhere.
    """
    draw = torch.rand(batch.attributes.shape, generator=generator, device=batch.attributes.device)
    hidden = draw < chance
    seen = torch.where(hidden, UNKNOWN, batch.attributes)
    return replace(batch, attributes=seen), torch.where(hidden, batch.attributes, UNKNOWN)


def person_losses(
    encoder: ProfileEncoder,
    batch: Batch,
    *,
    attribute_weight: float,
    attribute_masking: float,
    generator: torch.Generator,
    per_person: bool = False,
) -> Tensor:
    """Loss of each person, shape (B,).

    Cross-entropy of the next item over the whole catalogue, mean over the person's positions, plus
    `attribute_weight` times the sum of the cross-entropies of the attributes that were hidden from this pass.

    Args:
        encoder: In training.
        batch: People's histories with targets.
        attribute_weight: Zero leaves the attribute heads untrained.
        attribute_masking: Chance that a declared attribute is hidden and guessed.
        generator: For hiding and dropout.
        per_person: Keep a person axis through the scoring head, as per-person clipping needs.
    """
    visible, truth = hide_attributes(batch, attribute_masking, generator)
    profile = encoder(visible, generator)
    if per_person:
        losses = next_item_losses(encoder.item_scores(profile.state), batch.targets)
    else:
        losses = packed_next_item_losses(encoder, profile.state, batch.targets)
    if attribute_weight > 0:
        last = at_last(profile.vector, batch.lengths)
        for column, logits in enumerate(encoder.attribute_scores(last)):
            losses = losses + attribute_weight * F.cross_entropy(
                logits, (truth[:, column] - 1).clamp(min=0), reduction="none"
            ) * (truth[:, column] != UNKNOWN)
    return losses


def next_item_losses(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over each person's positions with a target, shape (B,).

    Args:
        scores: Shape (B, L, V + 1).
        targets: Shape (B, L), 0 where nothing is to be predicted.
    """
    known = targets > 0
    chosen = scores.gather(-1, targets.clamp(min=1)[..., None]).squeeze(-1)
    losses = (scores.logsumexp(-1) - chosen) * known
    return losses.sum(1) / known.sum(1).clamp(min=1)


def packed_next_item_losses(encoder: ProfileEncoder, state: Tensor, targets: Tensor) -> Tensor:
    """The same losses with scores computed at real positions only; faster, but without a person axis to clip along."""
    known = targets > 0
    losses = F.cross_entropy(encoder.item_scores(state[known]), targets[known], reduction="none")
    owner = torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)[known]
    total = losses.new_zeros(len(targets)).index_add(0, owner, losses)
    return total / known.sum(1).clamp(min=1)
