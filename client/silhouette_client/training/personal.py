"""Fine-tuning at a partner after the global model arrived: local parameters that are never sent.

What is fine-tuned reads the partner's people together, so it is a function of all of them and stays where they are. It
is a type of its own, and nothing in `release` takes it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_client.training.sampling import shuffled_batches
from silhouette_shared.config import Training
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.evaluation import ndcg_gains, pessimistic_ranks
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import draw_negatives, person_losses

_PEOPLE_AT_ONCE = 256
_LARGEST_GRADIENT_NORM = 5.0


@dataclass(frozen=True, kw_only=True)
class PersonalSettings:
    """Which parameters a partner makes its own, and for how long at most."""

    parts: tuple[str, ...] = ("fusion", "score_norm", "state_norm", "dimensions")  # modules of the encoder
    epochs: int = 5
    patience: int = 2  # epochs without a better validation after which it stops
    learning_rate: float = 5e-4


@dataclass(frozen=True)
class LocalParameters:
    """What a partner changed, by the encoder's names; it has no place in a message."""

    values: Mapping[str, Tensor]  # empty where the global model was the best
    epochs: int  # that were kept


def fine_tune(
    encoder: ProfileEncoder,
    histories: Histories,
    training: Training,
    settings: PersonalSettings,
    generator: torch.Generator,
) -> LocalParameters:
    """Fine-tune some parts on a partner's own people; the encoder is as before when this returns.

    Everybody's last event is kept apart to choose the epoch by, where a person has more than two. No epoch is chosen
    where none is better than the global model.

    Args:
        encoder: Holds the global model.
        histories: The partner's people, on its device.
        training: Objective and batch size.
        settings: Parts, epochs, learning rate.
        generator: Reproducible, on the same device.

    Raises:
        UsageError: If a part is none of the encoder's.
    """
    local = {
        name: parameter
        for name, parameter in encoder.named_parameters()
        if any(name == part or name.startswith(f"{part}.") for part in settings.parts)
    }
    unknown = [part for part in settings.parts if not any(n == part or n.startswith(f"{part}.") for n in local)]
    if unknown:
        raise UsageError(f"expected parts of the encoder, got {', '.join(unknown)}; see its modules")
    kept_apart = (histories.lengths > 2).long()
    known = histories.without_last(kept_apart)
    asked = torch.nonzero(kept_apart).flatten()
    targets = histories.items[histories.offsets[1:] - 1][asked]
    whole = {name: value.detach().clone() for name, value in local.items()}
    best, best_values, best_epoch = _score(encoder, known, asked, targets), dict[str, Tensor](), 0
    optimiser = torch.optim.AdamW(local.values(), lr=settings.learning_rate, weight_decay=training.weight_decay)
    frozen = [value for name, value in encoder.named_parameters() if name not in local and value.requires_grad]
    for value in frozen:
        value.requires_grad_(False)
    try:
        for epoch in range(1, settings.epochs + 1):
            _one_epoch(encoder, known, training, optimiser, generator)
            found = _score(encoder, known, asked, targets)
            if found > best:
                best, best_epoch = found, epoch
                best_values = {name: value.detach().clone() for name, value in local.items()}
            elif epoch - best_epoch >= settings.patience:
                break
    finally:
        for value in frozen:
            value.requires_grad_(True)
        _put(encoder, whole)
    return LocalParameters(best_values, best_epoch)


@contextmanager
def personalised(encoder: ProfileEncoder, local: LocalParameters) -> Iterator[None]:
    """The encoder with a partner's own parameters; afterwards the global model again, bit by bit."""
    named = dict(encoder.named_parameters())
    before = {name: named[name].detach().clone() for name in local.values}
    _put(encoder, local.values)
    try:
        yield
    finally:
        _put(encoder, before)


@torch.no_grad()
def _put(encoder: ProfileEncoder, values: Mapping[str, Tensor]) -> None:
    named = dict(encoder.named_parameters())
    for name, value in values.items():
        named[name].copy_(value)


def _one_epoch(
    encoder: ProfileEncoder,
    known: Histories,
    training: Training,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    encoder.train()
    items = len(encoder.item.weight) - 1
    parameters = optimiser.param_groups[0]["params"]
    for people in shuffled_batches(known.lengths, training.batch_size, generator):
        loss = person_losses(
            encoder,
            known.training_batch(people, encoder.history_length, generator),
            attribute_weight=training.attribute_weight,
            behaviour_weight=training.behaviour_weight,
            attribute_masking=training.attribute_masking,
            generator=generator,
            negatives=draw_negatives(items, training.negatives, generator),
        ).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT_NORM)
        optimiser.step()


@torch.no_grad()
def _score(encoder: ProfileEncoder, known: Histories, asked: Tensor, targets: Tensor) -> float:
    """NDCG@10 of the events kept apart; 0 where there are none."""
    encoder.eval()
    gains = []
    for place in torch.arange(len(asked), device=asked.device).split(_PEOPLE_AT_ONCE):
        people = asked[place]
        batch = known.batch(people, encoder.history_length)
        scores = encoder.next_item_scores(batch)
        nobody = people.new_zeros((len(people), 0))
        gains.append(ndcg_gains(pessimistic_ranks(scores, targets[place], nobody)))
    return float(torch.cat(gains).mean()) if gains else 0.0
