"""One private step: people are drawn, their gradients clipped and summed, put on the grid, noised.

This is the path that every trained parameter goes through, and the one the audit runs its canaries through. Its order
is fixed: noise is drawn only for a receipt, so only for what the ledger has already charged and flushed.

Abadi et al. 2016, Algorithm 1, https://arxiv.org/abs/1607.00133; on the integers as in Kairouz, Liu and Steinke 2021,
https://arxiv.org/abs/2102.06387.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from silhouette_client.training.bookkeeping import Bookkeeping
from silhouette_client.training.engine import Engine, EngineName, Losses
from silhouette_client.training.hooks import OpacusHooks
from silhouette_client.training.release import ClippedSum, NoisedSum
from silhouette_client.training.sampling import poisson_sample
from silhouette_shared.config import Clipping
from silhouette_shared.errors import RefusedError
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.noise import drawn_beside
from silhouette_shared.randomness import SecretBytes


class Paid(Protocol):
    """A receipt of the ledger: the charge is on disk."""

    def redeem(self, mechanism: SampledGaussian) -> None:
        """Use the receipt for what it was charged for; RefusedError if it was used, or charged for something else."""
        ...


def make_engine(
    name: EngineName, model: nn.Module, *, clip_norm: float, clipping: Clipping, stability: float
) -> Engine:
    """The engine with this name for `model`; ValueError if a layer has no rule in it."""
    make: Callable[..., Engine] = OpacusHooks if name == "opacus" else Bookkeeping
    return make(model, clip_norm=clip_norm, clipping=clipping, stability=stability)


class ChargedNoise:
    """The noise that one receipt paid for.

    Args:
        receipt: Redeemed here; it cannot pay for anything else.
        mechanism: What was charged; its steps are how often this noise may be drawn. Where its noise is made up of
            shares, one is drawn here.
        secret: Used for this noise and nothing else.
        grid: Of the integers; its rounding must be in the charged sensitivity.
        size: Coordinates D.

    Raises:
        RefusedError: If the receipt was used before or is for something else, or the mechanism forgot the grid.
    """

    def __init__(self, receipt: Paid, mechanism: SampledGaussian, secret: SecretBytes, grid: Grid, size: int) -> None:
        rounding = grid.rounding(size)
        if mechanism.rounding < rounding:
            raise RefusedError(
                f"expected a charge that covers the grid's rounding of {rounding:.3g}, got {mechanism.rounding:.3g}; "
                "charge the mechanism on its grid"
            )
        receipt.redeem(mechanism)
        self.mechanism = mechanism
        self._grid, self._size = grid, size
        self._left = self.mechanism.steps
        self._secret = secret
        self._drawing: Future[npt.NDArray[np.int64]] | None = None

    def begin(self) -> None:
        """Draw the noise of the next release beside what the caller does meanwhile."""
        if self._drawing is None and self._left > 0:
            share = self.mechanism.noise_std / math.sqrt(self.mechanism.shares)
            self._drawing = drawn_beside(self._size, share / self._grid.step, self._secret)

    def release(self, clipped: ClippedSum) -> NoisedSum:
        """The sum on the grid with fresh noise on every coordinate, whatever the sum is.

        Raises:
            RefusedError: If the receipt's steps are used up, or people were clipped to a larger norm than charged.
        """
        if self._left < 1:
            raise RefusedError(
                f"expected at most the {self.mechanism.steps} charged releases, got one more; charge the ledger first"
            )
        if clipped.clip_norm > self.mechanism.clip_norm or clipped.vector.shape != (self._size,):
            raise RefusedError(
                f"expected {self._size} coordinates clipped to {self.mechanism.clip_norm:g}, got "
                f"{tuple(clipped.vector.shape)} clipped to {clipped.clip_norm:g}; nothing was released"
            )
        self.begin()
        drawing, self._drawing = cast("Future[npt.NDArray[np.int64]]", self._drawing), None
        self._left -= 1
        integers = self._grid.encode(clipped.vector.cpu().numpy())
        integers += drawing.result()
        return NoisedSum(integers, self._grid, clipped.vector.device)


def private_step(
    engine: Engine,
    layout: Layout,
    people: int,
    losses: Callable[[Tensor], Losses],
    charged: ChargedNoise,
    sampling: SecretBytes,
    *,
    at_once: int,
    device: torch.device,
) -> NoisedSum:
    """Draw people, sum their clipped gradients and add the noise; an empty sample is noised like any other.

    Args:
        engine: Clips to the norm that `charged` was charged for.
        layout: Order of the flat vector.
        people: Number of people U who may be drawn.
        losses: Gives, for row numbers (B,), what the engine runs.
        charged: The noise.
        sampling: For the Poisson sample and nothing else.
        at_once: Largest virtual batch; changes which draws of dropout and windows a person gets, otherwise nothing.
        device: Where the row numbers are wanted.
    """
    charged.begin()
    mechanism = charged.mechanism
    sample = poisson_sample(people, mechanism.sampling_rate, sampling, cap=mechanism.batch_cap).to(device)
    for rows in sample.split(at_once):
        if len(rows):
            engine.add(losses(rows))
    return charged.release(ClippedSum(layout.flatten(engine.take()), mechanism.clip_norm))
