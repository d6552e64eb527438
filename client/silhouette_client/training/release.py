"""The only way out of a partner: updates by what has been done to them.

The functions that send accept a `Releasable` and nothing else. A new kind of release is a new type here, with
the sentence that says why it may leave.
"""

from dataclasses import dataclass

from torch import Tensor

from silhouette_shared.privacy.mechanism import SampledGaussian


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
