"""Secure aggregation SA-1: the coordinator learns the sum of the partners' vectors and nothing else about any one."""

from silhouette_shared.secagg.aborts import (
    COORDINATOR,
    AbortError,
    ForgedError,
    ImpossibleSumError,
    NotAgreedError,
    Step,
    TooFewError,
)
from silhouette_shared.secagg.coordinator import AheadKeys, Coordinator, Outcome
from silhouette_shared.secagg.encoding import Encoded, Layout, Section
from silhouette_shared.secagg.keys import Identity
from silhouette_shared.secagg.messages import PARTNER_MINIMUM, Pins, Terms, genesis
from silhouette_shared.secagg.partner import MaskedReply, Partner
from silhouette_shared.secagg.transcript import Checked, verify_chain, verify_sum, verify_transcript

__all__ = [
    "COORDINATOR",
    "PARTNER_MINIMUM",
    "AbortError",
    "AheadKeys",
    "Checked",
    "Coordinator",
    "Encoded",
    "ForgedError",
    "Identity",
    "ImpossibleSumError",
    "Layout",
    "MaskedReply",
    "NotAgreedError",
    "Outcome",
    "Partner",
    "Pins",
    "Section",
    "Step",
    "Terms",
    "TooFewError",
    "genesis",
    "verify_chain",
    "verify_sum",
    "verify_transcript",
]
