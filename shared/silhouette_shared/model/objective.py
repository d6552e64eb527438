"""What training minimises, one value per person.

Every person counts alike: the loss is a mean over that person's own positions, so that a long history does not buy a
larger influence. Nothing here looks across people; there are no in-batch negatives, because they would put
other people's records into one person's gradient.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.histories import UNKNOWN, Batch
from silhouette_shared.model.softmax import Tape, next_item_losses
from silhouette_shared.schema import BEHAVIOURS


def hide_attributes(batch: Batch, chance: float, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """Hide each declared attribute with probability `chance`; the encoder has to guess what is hidden.

    Returns:
        The batch as the encoder sees it, and the truth where something was hidden (B, A), 0 elsewhere.
    """
    draw = torch.rand(batch.attributes.shape, generator=generator, device=batch.attributes.device)
    hidden = draw < chance
    seen = torch.where(hidden, UNKNOWN, batch.attributes)
    return replace(batch, attributes=seen), torch.where(hidden, batch.attributes, UNKNOWN)


def draw_negatives(items: int, count: int, generator: torch.Generator) -> Tensor | None:
    """Items that stand for the whole catalogue in one step's softmax, uniformly and without replacement, shape (K,).

    The same for everybody in the step, and drawn independently of all records.

    Args:
        items: Number of items V.
        count: How many, K; 0 for the whole catalogue, and then None is returned.
        generator: On the device of the batch.

    Raises:
        UsageError: If there are not so many items.
    """
    if count == 0:
        return None
    if count > items:
        raise UsageError(
            f"expected at most {items} negatives, one an item, got {count}; "
            "lower training.negatives, or set 0 for the whole catalogue"
        )
    return torch.randperm(items, generator=generator, device=generator.device)[:count] + 1


def person_losses(
    encoder: ProfileEncoder,
    batch: Batch,
    *,
    attribute_weight: float,
    attribute_masking: float,
    generator: torch.Generator,
    negatives: Tensor | None = None,
    behaviour_weight: float = 0.0,
    per_person: bool = False,
    tape: Tape | None = None,
) -> Tensor:
    """Loss of each person, shape (B,).

    Cross-entropy of the next item over the whole catalogue or over `negatives`, mean over the person's positions, plus
    `attribute_weight` times the sum of the cross-entropies of the attributes that were hidden from this pass, plus
    `behaviour_weight` times the cross-entropy of the next behaviour if the encoder has a head for it.

    Args:
        encoder: In training.
        batch: People's histories with targets.
        attribute_weight: Zero leaves the attribute heads untrained.
        attribute_masking: Chance that a declared attribute is hidden and guessed.
        generator: For hiding and dropout.
        behaviour_weight: Of the next behaviour.
        negatives: Of `draw_negatives`, shape (K,); one draw serves all virtual batches of a step.
        per_person: Score through the encoder's modules with a person axis, as engines that hook modules need.
        tape: Score through the fused softmax with a person axis, and leave on the tape what book-keeping needs.
    """
    visible, truth = hide_attributes(batch, attribute_masking, generator)
    profile = encoder(visible, generator)
    if per_person and tape is None:
        losses = losses_of_scores(encoder.item_scores(profile.state), batch.targets, negatives)
    else:
        losses = next_item_losses(
            profile.state[..., : encoder.shape.width],
            encoder.scorer,
            batch.targets,
            negatives=negatives,
            prior=encoder.constant_part(profile.state),
            tape=tape,
        )
    if behaviour_weight > 0 and encoder.behaviour_head is not None:
        scores = encoder.behaviour_scores(profile.state)
        losses = losses + behaviour_weight * next_behaviour_losses(scores, batch.next_behaviours)
    if attribute_weight > 0:
        last = at_last(profile.vector, batch.lengths)
        for column, logits in enumerate(encoder.attribute_scores(last)):
            losses = losses + attribute_weight * F.cross_entropy(
                logits, (truth[:, column] - 1).clamp(min=0), reduction="none"
            ) * (truth[:, column] != UNKNOWN)
    return losses


def next_behaviour_losses(scores: Tensor, following: Tensor) -> Tensor:
    """Mean cross-entropy of the next behaviour over a person's events with a known one, shape (B,).

    A person all of whose next behaviours are the same has nothing to tell apart: the loss is zero. That is decided by
    the person's own record, so that nobody's gradient depends on what others do.

    Args:
        scores: Of the behaviours, shape (B, L, behaviours).
        following: Number of the next event's behaviour from 1, 0 where unknown, shape (B, L).
    """
    known = following != UNKNOWN
    losses = F.cross_entropy(scores.flatten(0, 1), (following - 1).clamp(min=0).flatten(), reduction="none")
    lowest = following.masked_fill(~known, len(BEHAVIOURS)).amin(1)
    several = following.amax(1) > lowest
    total = (losses.view_as(following) * known).sum(1)
    return total / known.sum(1).clamp(min=1) * several


def losses_of_scores(scores: Tensor, targets: Tensor, negatives: Tensor | None = None) -> Tensor:
    """The next-item losses from scores, the ordinary way: mean over each person's positions with a target, shape (B,).

    Args:
        scores: Shape (B, L, V + 1), column 0 never a candidate.
        targets: Shape (B, L), 0 where nothing is to be predicted.
        negatives: As in `person_losses`.
    """
    known = targets > 0
    chosen = scores.gather(-1, targets.clamp(min=1)[..., None])  # (B, L, 1)
    if negatives is not None:
        others = scores[..., negatives].masked_fill(targets[..., None] == negatives, -torch.inf)
        scores = torch.cat([chosen, others], dim=-1)
    losses = (scores.logsumexp(-1) - chosen.squeeze(-1)) * known
    return losses.sum(1) / known.sum(1).clamp(min=1)
