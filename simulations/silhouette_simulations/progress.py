"""Telling a person how far a run is; the runner does not know how that looks."""

from typing import Protocol


class Progress(Protocol):
    """What a runner tells while it works."""

    def say(self, text: str) -> None:
        """Something worth a line."""

    def begin(self, name: str, label: str, rounds: int) -> None:
        """A training of `rounds` rounds starts or goes on."""

    def advance(self, name: str, round_number: int, ndcg: float | None) -> None:
        """A round is over; `ndcg` where it was measured."""

    def end(self, name: str) -> None:
        """A training is over."""


class Silence:
    """Progress for whoever does not want any."""

    def say(self, text: str) -> None:
        """Nothing."""

    def begin(self, name: str, label: str, rounds: int) -> None:
        """Nothing."""

    def advance(self, name: str, round_number: int, ndcg: float | None) -> None:
        """Nothing."""

    def end(self, name: str) -> None:
        """Nothing."""
