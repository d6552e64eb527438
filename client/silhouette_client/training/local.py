"""One partner's round without privacy: some epochs of ordinary training from the global model."""

import torch

from silhouette_client.training.release import PlainUpdate
from silhouette_client.training.sampling import shuffled_batches
from silhouette_shared.config import Training
from silhouette_shared.model.augmentation import augmented_batch, views_of
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import draw_negatives, person_losses
from silhouette_shared.model.vector import Layout, read_vector

_LARGEST_GRADIENT_NORM = 5.0  # keeps the first steps of a fresh optimiser in bounds


def train_plainly(
    encoder: ProfileEncoder,
    layout: Layout,
    histories: Histories,
    training: Training,
    round_number: int,
    generator: torch.Generator,
) -> PlainUpdate:
    """Train the encoder in place and return how far it moved.

    The optimiser starts afresh every round: a partner keeps no state between rounds, so one that comes back
    after a crash answers the same.

    Args:
        encoder: Holds the global model of this round.
        layout: Order of the flat vector.
        histories: The partner's people, on the encoder's device.
        training: Epochs, batch size and learning rate.
        round_number: From 1; sets the learning rate.
        generator: Reproducible; for batches, windows, masking and dropout.
    """
    before = read_vector(encoder, layout)
    optimiser = torch.optim.AdamW(
        encoder.parameters(),
        lr=training.learning_rate * training.learning_rate_factor(round_number),
        weight_decay=training.weight_decay,
        fused=True,  # the same step in one pass over the parameters
    )
    encoder.train()
    for _ in range(training.local_epochs):
        for people in shuffled_batches(histories.lengths, training.batch_size, generator):
            batch = augmented_batch(histories, people, encoder.history_length, views_of(training), generator)
            loss = person_losses(
                encoder,
                batch,
                attribute_weight=training.attribute_weight,
                behaviour_weight=training.behaviour_weight,
                attribute_masking=training.attribute_masking,
                generator=generator,
                negatives=draw_negatives(len(encoder.item.weight) - 1, training.negatives, generator),
            ).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), _LARGEST_GRADIENT_NORM)
            optimiser.step()
    return PlainUpdate(read_vector(encoder, layout) - before)
