"""What a private step asks of whatever computes clipped sums over people."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from silhouette_shared.config import Clipping
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


def clip_factors(norms: Tensor, clip_norm: float, clipping: Clipping, stability: float) -> Tensor:
    """What each person's gradient is multiplied by, shape (B,); zero where the norm is not finite.

    Flat: `min(1, C / norm)`, Abadi et al. 2016, Algorithm 1. Automatic: `C / (norm + stability)`, AUTO-S of Bu et al.
    2022, https://arxiv.org/abs/2206.07136, equation 5: every gradient is scaled to nearly the clip norm, so that the
    clip norm is no setting any more.

    Args:
        norms: L2 norm of each person's gradient, shape (B,).
        clip_norm: C.
        clipping: Which of the two.
        stability: Of the automatic form, above zero.

    >>> clip_factors(torch.tensor([0.5, 2.0, float("inf")]), 1.0, "flat", 0.01).tolist()
    [1.0, 0.5, 0.0]
    """
    # A zero norm gives infinity in the flat form, hence 1.
    factors = clip_norm / (norms + stability) if clipping == "automatic" else (clip_norm / norms).clamp(max=1.0)
    return torch.where(norms.isfinite(), factors, torch.zeros_like(factors))
