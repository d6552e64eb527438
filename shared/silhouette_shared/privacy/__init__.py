"""User-level differential privacy: the mechanism, its noise, and what it costs."""

from silhouette_shared.privacy.accounting import (
    Accountant,
    Spending,
    Split,
    calibrate,
    curve,
    epsilon,
    epsilons,
    split,
)
from silhouette_shared.privacy.cap import BatchCap, batch_cap
from silhouette_shared.privacy.grid import Grid, check_ring
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.modes import View, at_partners, distributed_view, honest_survivors, local_view
from silhouette_shared.privacy.noise import drawn_beside, rounded_gaussian

__all__ = [
    "Accountant",
    "BatchCap",
    "Grid",
    "SampledGaussian",
    "Spending",
    "Split",
    "View",
    "at_partners",
    "batch_cap",
    "calibrate",
    "check_ring",
    "curve",
    "distributed_view",
    "drawn_beside",
    "epsilon",
    "epsilons",
    "honest_survivors",
    "local_view",
    "rounded_gaussian",
    "split",
]
