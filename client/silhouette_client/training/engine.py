"""What a private step asks of whatever computes clipped sums over people."""

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor

from silhouette_shared.model.softmax import Tape

EngineName = Literal["bookkeeping", "opacus"]
"""`bookkeeping` is ours and fast; `opacus` is the reference it is tested against. Same sums, other speed."""

Losses = Callable[[Tape | None], Tensor]
"""Runs the model on some people and returns one loss each, shape (B,); a tape records what the fused softmax did."""


class Engine(Protocol):
    """Sums people's gradients, each scaled so that its L2 norm is at most the engine's clip norm.

    A person whose gradient is not finite adds zero: a model can be made up for which one person's overflows, and an
    undefined sum would tell that this person is there.
    """

    def add(self, losses: Losses) -> None:
        """Add the people of one virtual batch; a step may have any number of them, none included."""
        ...

    def take(self) -> dict[str, Tensor]:
        """The sum since the last call for every trainable parameter, zeros where nothing came; starts afresh."""
        ...

    def close(self) -> None:
        """Leave the model as it came."""
        ...
