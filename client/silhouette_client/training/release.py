"""The only way out of a partner: what leaves, by what has been done to it.

Each step of the chain is a type, and each function accepts only the one before it: a clipped sum, its integers on the
grid, the same with noise, the update. The functions that send accept a `Releasable` and nothing else. A new kind of
release is a new type here, with the sentence that says why it may leave.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from silhouette_shared.errors import RefusedError
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg import Encoded
from silhouette_shared.secagg import Layout as SecureLayout

_WEIGHT = "weight"


@dataclass(frozen=True)
class ClippedSum:
    """A sum over people, each of whom adds a vector of L2 norm at most `clip_norm`."""

    vector: Tensor  # (D,) float
    clip_norm: float

    def at(self, place: slice, size: int) -> "ClippedSum":
        """The same as a part of a longer vector (size,) to whose other coordinates nobody here adds anything."""
        longer = self.vector.new_zeros(size)
        longer[place] = self.vector
        return ClippedSum(longer, self.clip_norm)


@dataclass(frozen=True)
class NoisedSum:
    """A clipped sum on the integer grid with noise that was paid for.

    Nothing clamps or rounds it afterwards; whatever is computed from it needs no further budget.
    """

    integers: npt.NDArray[np.int64]  # (D,) in steps of the grid
    grid: Grid
    device: torch.device  # where the sum was computed

    def value(self) -> Tensor:
        """The sum in the units of the clip norm, shape (D,), float32, on the device where it was computed."""
        return torch.from_numpy(self.grid.decode(self.integers)).to(self.device)


def in_place(noised: NoisedSum, place: slice, size: int) -> NoisedSum:
    """A noised sum as a part of a longer vector whose other coordinates are zero and hold nothing of anybody.

    Args:
        noised: Shape (place,).
        place: Where it belongs.
        size: Coordinates of the longer vector.
    """
    integers = np.zeros(size, dtype=np.int64)
    integers[place] = noised.integers
    return NoisedSum(integers, noised.grid, noised.device)


@dataclass(frozen=True)
class PlainUpdate:
    """An update without privacy: it may leave in a simulation on public data only."""

    vector: Tensor  # (D,)


@dataclass(frozen=True)
class PrivateUpdate:
    """An update computed from noised, clipped sums alone.

    Everything after the noise is post-processing, so the mechanism accounts for the whole of it.
    """

    vector: Tensor  # (D,)
    mechanism: SampledGaussian  # of the steps behind this update


Releasable = PlainUpdate | PrivateUpdate


def encode_update(update: Releasable, weight: int, layout: SecureLayout) -> Encoded:
    """An update times its partner's weight, and the weight, as integers to be masked.

    Args:
        update: What may leave.
        weight: Of this partner in the mean.
        layout: As `weighted_layout` makes it.

    Raises:
        RefusedError: If a coordinate is beyond the agreed limit: nothing is clamped, and nothing leaves.
    """
    coordinates, _ = layout.sections
    weighted = update.vector.double().cpu().numpy() * (weight / coordinates.scale)
    if not np.abs(weighted).max(initial=0.0) <= weight * coordinates.high:  # also if it is no number
        raise RefusedError(
            f"expected an update of at most {coordinates.high * coordinates.scale:g} a coordinate, got a larger one; "
            "nothing was sent"
        )
    return layout.encode({coordinates.name: np.rint(weighted).astype(np.int64), _WEIGHT: np.array([weight])})


def encode_sum(noised: NoisedSum, layout: SecureLayout) -> Encoded:
    """A noised sum, which is integers already, to be masked; `layout` as `noised_layout` makes it."""
    (coordinates,) = layout.sections
    return layout.encode({coordinates.name: noised.integers})
