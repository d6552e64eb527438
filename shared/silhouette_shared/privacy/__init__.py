"""User-level differential privacy: the mechanism, its noise, and what it costs."""

from silhouette_shared.privacy.accounting import (
    Accountant,
    calibrate,
    curve,
    epsilon,
    epsilons,
)
from silhouette_shared.privacy.grid import Grid, check_ring
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.noise import drawn_beside, rounded_gaussian

__all__ = [
    "Accountant",
    "Grid",
    "SampledGaussian",
    "calibrate",
    "check_ring",
    "curve",
    "drawn_beside",
    "epsilon",
    "epsilons",
    "rounded_gaussian",
]
