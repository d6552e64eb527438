"""User-level differential privacy: the mechanism, and what it costs."""

from silhouette_shared.privacy.accounting import (
    Accountant,
    calibrate,
    curve,
    epsilon,
    epsilons,
)
from silhouette_shared.privacy.mechanism import SampledGaussian

__all__ = ["Accountant", "SampledGaussian", "calibrate", "curve", "epsilon", "epsilons"]
