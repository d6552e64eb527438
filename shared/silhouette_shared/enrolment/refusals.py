"""Why a document or a certificate is not accepted, as types; each has the exit code of what it means."""

from __future__ import annotations

import re
from collections.abc import Mapping

from silhouette_shared.errors import IntegrityError, RefusedError, SilhouetteError, UnavailableError

Figure = str | int | float


class MalformedError(IntegrityError):
    """The bytes are no document of the announced kind, or not its one encoding."""


class ForgedDocumentError(IntegrityError):
    """A signature or a proof of possession does not fit: the document was changed, or another made it."""


class FingerprintError(IntegrityError):
    """The kit is not the one whose fingerprint was told."""


class OtherAuthorityError(IntegrityError):
    """A certificate, a kit or a roster of another consortium."""


class OtherKeyError(IntegrityError):
    """A document is about a key that is not the one on this machine."""


class ExpiredError(RefusedError):
    """A certificate is not valid any more."""


class NotYetValidError(UnavailableError):
    """A certificate is not valid yet, or the clock of this machine is behind."""


class OlderRosterError(RefusedError):
    """A roster older than the one that is known."""


class TwoRostersError(IntegrityError):
    """Two different rosters bear the same number: the coordinator shows people different things."""


class RevokedError(RefusedError):
    """The member was revoked."""


class NotAMemberError(RefusedError):
    """The roster has nobody of this name."""


class NameTakenError(RefusedError):
    """Another member has this name or key."""


class CodedRefusalError(RefusedError):
    """A refusal that a program can read: it crosses to the coordinator whole.

    Args:
        code: What was refused, in words of letters, digits, dots and underscores.
        reason: One line: what was expected, what came, what to do next.
        figures: The numbers or names behind it; nothing that depends on a person's record.
    """

    def __init__(self, code: str, reason: str, figures: Mapping[str, Figure] | None = None) -> None:
        """Put the code in front of the reason, and keep both beside the figures."""
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.figures: dict[str, Figure] = dict(figures or {})


def code_of(error: SilhouetteError) -> str:
    """What a program calls an error: its own code, else the name of its class.

    >>> code_of(CodedRefusalError("hours", "expected a time from 20:00 to 06:00"))
    'hours'
    >>> code_of(OlderRosterError("expected number 4"))
    'older_roster'
    """
    if isinstance(error, CodedRefusalError):
        return error.code
    words = re.findall("[A-Z][a-z0-9]*", type(error).__name__.removesuffix("Error"))
    return "_".join(words).lower()
