"""Where a run's rounds are written down so that each is committed once, or void with its reason.

A round's number is used up as soon as it has begun. The order is: begun, worked out, kept in the checkpoint, committed.
Whoever goes on after a kill finds every round in one of these states, and `settle` says what becomes of it.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from silhouette_shared.errors import UnavailableError
from silhouette_shared.model.appraisal import Appraised

INTERRUPTED = "interrupted"
"""Why a round is void that began and was not heard of again."""


class StopRequestedError(UnavailableError):
    """Somebody asked the run to stop; it can be resumed."""


@dataclass(frozen=True)
class RoundRecord:
    """What a coordinator knows about one round."""

    round: int
    replies: int
    refused: int
    update_norm: float  # L2 norm of the mean update
    seconds: float
    steps: tuple[dict[str, float | int | str], ...] = ()  # what each step of a secure round took


@dataclass(frozen=True)
class Commitment:
    """A finished round, as it is committed."""

    record: RoundRecord
    model: Tensor  # (D + P,) what the run gives after it
    transcript: bytes | None  # signed record of the secure round; None without secure aggregation
    survivors: tuple[str, ...] = ()  # whose updates are in it; empty where that is not known any more


class RoundBook(Protocol):
    """Keeps a run's rounds; on disk when a method returns."""

    def last_begun(self) -> int:
        """Highest number that has begun, 0 if none has."""
        ...

    def unfinished(self) -> tuple[int, ...]:
        """Numbers that have begun and have no end."""
        ...

    def begin(self, number: int) -> None:
        """A round begins; StopRequestedError if the run is to stop."""
        ...

    def commit(self, commitment: Commitment) -> None:
        """The round has this model."""
        ...

    def void(self, number: int, reason: str) -> None:
        """The round has none."""
        ...

    def evaluate(self, appraised: Appraised, beside: str) -> None:
        """What the evaluation shows of the run's last model; said again when a run is gone on with.

        Args:
            appraised: The figures.
            beside: SHA-256 of the file of the model that was evaluated on the same people; empty if none was.
        """
        ...


class NoBook:
    """For simulations, whose checkpoint is all there is."""

    def last_begun(self) -> int:
        """Nothing is known."""
        return 0

    def unfinished(self) -> tuple[int, ...]:
        """Nothing is known."""
        return ()

    def begin(self, number: int) -> None:
        """Nothing to keep."""

    def commit(self, commitment: Commitment) -> None:
        """Nothing to keep."""

    def void(self, number: int, reason: str) -> None:
        """Nothing to keep."""

    def evaluate(self, appraised: Appraised, beside: str) -> None:
        """Nothing to keep."""


def settle(book: RoundBook, kept: Commitment | None) -> int:
    """Give every round that was begun before a kill its end, and say which number comes next.

    Args:
        book: Of the run.
        kept: The last round in the checkpoint; None if there is no checkpoint yet.
    """
    in_checkpoint = 0 if kept is None else kept.record.round
    for number in book.unfinished():
        if kept is not None and number == in_checkpoint and kept.record.replies:
            book.commit(kept)  # it was worked out and kept; only this was missing
        else:
            book.void(number, INTERRUPTED)
    return max(in_checkpoint, book.last_begun()) + 1
