"""Made-up people and a made-up catalogue for an audit: everybody's data and nobody's.

An audit needs people of every kind and nothing of theirs that is true, so that it costs no privacy budget and its
result may be published whole.
"""

import numpy as np
import torch

from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.histories import GAP_BUCKETS, VALUE_BUCKETS, Histories
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.schema import BEHAVIOURS

ATTRIBUTES = (("first", 2), ("second", 5))
_CATEGORIES = 6
_ONE_ITEM, _LONGEST = 10, 12  # every tenth person has one event, every twelfth more than the window holds
_MONTH_SECONDS = 30 * 24 * 3600


def made_up_vocabulary(items: int, content_width: int, source: ReproducibleSource) -> Vocabulary:
    """A catalogue with categories, content and two declared attributes, so that every layer of an encoder is there."""
    draw = source.child("vocabulary").numpy_generator()
    categories = np.zeros((items + 1, _CATEGORIES), dtype=np.float32)
    categories[np.arange(1, items + 1), draw.integers(0, _CATEGORIES, items)] = 1.0
    content = draw.standard_normal((items + 1, content_width)).astype(np.float32) / np.float32(np.sqrt(content_width))
    content[0] = 0.0
    return Vocabulary(categories=torch.from_numpy(categories), content=torch.from_numpy(content), attributes=ATTRIBUTES)


def made_up_prior(size: int, source: ReproducibleSource) -> torch.Tensor:
    """A prior as released statistics would leave it, of a given size P, shape (P,); its last number is a weight."""
    return torch.randn(size, generator=source.child("prior").torch_generator()).mul(0.3).abs()


def made_up_people(people: int, items: int, window: int, source: ReproducibleSource) -> Histories:
    """Histories of every kind: one event, repeated items, and more events than the window of the encoder holds.

    Args:
        people: How many.
        items: Number of items V; few of them are popular.
        window: Events that the encoder reads, L.
        source: Reproducible.
    """
    draw = source.child("people").numpy_generator()
    number = np.arange(people)
    lengths = np.clip(draw.geometric(4 / (window + 4), people) + 1, 2, window)
    lengths[number % _ONE_ITEM == 0] = 1
    lengths[number % _LONGEST == 1] = window + 1 + draw.integers(0, window, (number % _LONGEST == 1).sum())
    events = int(lengths.sum())
    popularity = 1 / (np.arange(items) + 3.0)
    owner = np.repeat(number, lengths)
    waits = (draw.random(events) ** 4 * _MONTH_SECONDS).astype(np.int64)
    return Histories(
        items=torch.from_numpy(draw.choice(items, events, p=popularity / popularity.sum()) + 1),
        behaviours=torch.from_numpy(draw.integers(0, len(BEHAVIOURS) + 1, events)),
        values=torch.from_numpy(draw.integers(0, VALUE_BUCKETS + 1, events)),
        timestamps=torch.from_numpy(waits.cumsum() + owner * GAP_BUCKETS),
        offsets=torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
        attributes=torch.from_numpy(
            np.stack([draw.integers(0, classes + 1, people) for _, classes in ATTRIBUTES], axis=1)
        ),
        has_times=True,
    )


def with_newcomers(histories: Histories, newcomers: int) -> Histories:
    """The same people and after them some of whom one event is known and nothing to predict: their loss is zero."""
    last = int(histories.offsets[-1])

    def extended(values: torch.Tensor, filled: int) -> torch.Tensor:
        return torch.cat([values, values.new_full((newcomers,), filled)])

    return Histories(
        items=extended(histories.items, 1),
        behaviours=extended(histories.behaviours, 0),
        values=extended(histories.values, 0),
        timestamps=extended(histories.timestamps, 0),
        offsets=torch.cat([histories.offsets, torch.arange(last + 1, last + newcomers + 1)]),
        attributes=torch.cat(
            [histories.attributes, histories.attributes.new_zeros((newcomers, histories.attributes.shape[1]))]
        ),
        has_times=histories.has_times,
    )
