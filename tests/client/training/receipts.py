"""A receipt of a charge that nobody made, and repeatable bytes in place of secret ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from silhouette_shared.errors import RefusedError
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource, SecretBytes
from silhouette_simulations.repeatable import RepeatableBytes


@dataclass
class Receipt:
    """As the ledger's, without a ledger."""

    charged: SampledGaussian
    used: bool = field(default=False)

    def redeem(self, mechanism: SampledGaussian) -> None:
        if self.used or mechanism != self.charged:
            raise RefusedError("this receipt was used before, or is for something else")
        self.used = True


def on_grid(mechanism: SampledGaussian, size: int, bits: int = 16) -> SampledGaussian:
    """The mechanism on the grid of a vector of `size`."""
    return mechanism.on_grid(Grid.of(mechanism.clip_norm, bits), size)


def secret(*names: str | int) -> SecretBytes:
    """A stream of its own for every name."""
    return RepeatableBytes(ReproducibleSource(5).child("secret", *names))
