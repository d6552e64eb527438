"""Why a round of secure aggregation ended without a sum, as types.

Every one names the step and, where one party can be named, the partner (or `coordinator`) whose message was at fault.
After any of them the round is void for whoever raised it: its secrets are gone and it is never masked again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from silhouette_shared.errors import IntegrityError, RefusedError, SilhouetteError, UnavailableError

COORDINATOR = "coordinator"
"""What an error calls the coordinator; no partner may bear this name."""


class Step(StrEnum):
    """The steps of a round, in their order."""

    MANIFEST = "manifest"
    ADVERTISE = "advertise"
    SHARE = "share"
    MASKED = "masked"
    CONSISTENCY = "consistency"
    UNMASK = "unmask"
    TRANSCRIPT = "transcript"


class AbortError(SilhouetteError):
    """The round is void.

    Args:
        step: Where it ended.
        reason: What was expected, what came, what to do next.
        partner: Whose message it was, `coordinator` for the coordinator's, None where nobody can be named.
    """

    def __init__(self, step: Step, reason: str, partner: str | None = None) -> None:
        """Put step and partner in front of the reason."""
        self.step = step
        self.partner = partner
        whose = "" if partner is None else f", {partner}"
        super().__init__(f"secure aggregation, step {step}{whose}: {reason}; this round is void")


class ForgedError(AbortError, IntegrityError):
    """A message is malformed, wrongly signed, not the one this step needs, or contradicts an earlier one."""

    exit_code: ClassVar[int] = IntegrityError.exit_code


class NotAgreedError(AbortError, RefusedError):
    """A well-formed manifest asks for what this partner has not agreed to."""

    exit_code: ClassVar[int] = RefusedError.exit_code


class TooFewError(AbortError, UnavailableError):
    """Fewer partners than the threshold are left."""

    exit_code: ClassVar[int] = UnavailableError.exit_code


class ImpossibleSumError(AbortError, IntegrityError):
    """The sum lies outside what honest partners can add up to; somebody sent what was not agreed."""

    exit_code: ClassVar[int] = IntegrityError.exit_code
