"""What released statistics say about every item before anything is trained: a constant part of the scores.

A person's score of item j is `bias[j]`, plus the inner product of j's features with a decayed mean of the features of
what the person did so far, plus the same for the public content vectors. All of it is made from released sums and the
public catalogue, so it is public itself; the person's part, the decayed means, is computed where the person's data are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_shared.config import Statistics


@dataclass(frozen=True)
class PriorShape:
    """What both sides know of a prior before any statistic is released."""

    rank: int  # features of an item, R
    half_life: float  # events after which an event's features count half in the mean
    content_half_life: float  # the same for its content vector

    @classmethod
    def of(cls, settings: Statistics) -> "PriorShape":
        """What a plan's statistics make."""
        return cls(settings.rank, settings.half_life, settings.content_half_life)

    def size(self, items: int, content_width: int) -> int:
        """Numbers in the prior's vector."""
        return (items + 1) * (self.rank + 1) + content_width + 1


@dataclass(frozen=True)
class ItemPrior:
    """The statistics' part of the scores."""

    bias: Tensor  # (V + 1,) logits, row 0 unused
    features: Tensor  # (V + 1, R), row 0 is zero
    content_mean: Tensor  # (C,) taken off every content vector
    content_weight: float  # of the content's part, 0 or more

    def vector(self) -> Tensor:
        """Everything as one vector (P,), float32."""
        weight = self.bias.new_tensor([self.content_weight])
        return torch.cat([self.bias, self.features.flatten(), self.content_mean, weight]).float()

    @classmethod
    def of(cls, vector: Tensor, shape: PriorShape, items: int, content_width: int) -> "ItemPrior":
        """What `vector` made into one vector.

        Raises:
            ValueError: If the vector has another length, or the weight of the content is negative.
        """
        expected = shape.size(items, content_width)
        if vector.shape != (expected,):
            raise ValueError(f"expected a prior of {expected} numbers, got shape {tuple(vector.shape)}")
        bias, features, mean, weight = vector.split([items + 1, (items + 1) * shape.rank, content_width, 1])
        if float(weight) < 0:
            raise ValueError("expected a content weight of at least 0, got a negative one")
        return cls(bias, features.view(items + 1, shape.rank), mean, float(weight))

    def columns(self, content: Tensor) -> Tensor:
        """Features and weighted content of every item side by side, (V + 1, R + C); row 0 is zero.

        Args:
            content: The catalogue's content vectors, shape (V + 1, C).
        """
        described = self.content_weight**0.5 * (content - self.content_mean)
        # An item without a description says nothing; otherwise all such items would seem alike.
        described = described * (content != 0).any(1, keepdim=True)
        columns = torch.cat([self.features, described], dim=1)
        columns[0] = 0.0
        return columns
