"""Other views of a history for training: a part of it, some events left out, a short stretch in another order.

The views of Xie et al. 2020, https://arxiv.org/abs/2010.14395, without their contrastive loss. A view is a function of
one person's own record and of draws whose number does not depend on anybody's record, so a person's example stays
that person's own: it is as exact under privacy as the history itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_shared.config import Training
from silhouette_shared.model.histories import Batch, Histories

_SMALLEST_PART = 0.5  # of a window that is cropped
_LARGEST_STRETCH = 0.2  # of a window that is put in another order


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How often each view is taken; zeros leave histories as they are.

    Attributes:
        crop: Chance that a person's window is cut to a part, half of it at least, that lies anywhere in it.
        mask: Chance of each event but the window's last to be left out.
        reorder: Chance that a stretch of a fifth of the window is put in another order; its times stay in theirs.
    """

    crop: float = 0.0
    mask: float = 0.0
    reorder: float = 0.0

    @property
    def on(self) -> bool:
        """Whether anything is changed."""
        return self.crop > 0 or self.mask > 0 or self.reorder > 0


def views_of(training: Training) -> Augmentation:
    """What a plan asks for."""
    return Augmentation(crop=training.crop, mask=training.mask, reorder=training.reorder)


def augmented_batch(
    histories: Histories, people: Tensor, length: int, augmentation: Augmentation, generator: torch.Generator
) -> Batch:
    """A training batch of views; as `Histories.training_batch` where nothing is on.

    Args:
        histories: All people.
        people: Row numbers, (B,).
        length: Largest number of input events.
        augmentation: Chances.
        generator: On the device of the histories; as many numbers are drawn for everybody, whatever the records.
    """
    if not augmentation.on:
        return histories.training_batch(people, length, generator)
    count, device = len(people), people.device

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    own = histories.lengths[people]
    window = own.clamp(max=length + 1)
    start = _within(draw(count), own - window)  # a window anywhere in the history, as without augmentation
    cropped = draw(count) < augmentation.crop
    part = torch.ceil(window * (_SMALLEST_PART + (1 - _SMALLEST_PART) * draw(count))).long().clamp(min=2)
    part = torch.where(cropped, torch.minimum(part, window), window)
    start = start + _within(draw(count), window - part)

    column = torch.arange(length + 1, device=device)
    inside = column < part[:, None]  # (B, length + 1)
    left_out = (draw(count, length + 1) < augmentation.mask) & (column < part[:, None] - 1)
    order = _reordered(part, column, draw(count) < augmentation.reorder, draw(count), draw(count, length + 1))
    kept = inside & ~left_out
    place = (histories.offsets[people] + start)[:, None] + column
    moments = place[kept]
    events = ((histories.offsets[people] + start)[:, None] + order)[kept]
    view = histories.of_events(events, people, kept.sum(1))
    view = Histories(**{**vars(view), "timestamps": histories.timestamps[moments]})
    return view.training_batch(torch.arange(count, device=device), length, None)


def _within(draw: Tensor, spare: Tensor) -> Tensor:
    """Whole numbers from 0 to `spare`, evenly, from draws in [0, 1)."""
    return (draw * (spare + 1)).long().clamp(max=spare)


def _reordered(part: Tensor, column: Tensor, chosen: Tensor, where: Tensor, keys: Tensor) -> Tensor:
    """For every place of a window the place that its event comes from, (B, length + 1)."""
    stretch = (part * _LARGEST_STRETCH).long().clamp(min=2).minimum(part)
    begin = _within(where, part - stretch)
    mixed = chosen[:, None] & (column >= begin[:, None]) & (column < (begin + stretch)[:, None])
    # What is not mixed is sorted by its own place, and what is mixed by a draw inside its stretch.
    drawn = begin[:, None] + keys.double() * stretch[:, None]
    return torch.where(mixed, drawn, column.double()).argsort(dim=1, stable=True)
