"""What becomes of rounds that had begun when a coordinator was killed, at each of the points between their states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.consortium import Consortium, secure_plan

from silhouette_server.coordination.book import INTERRUPTED, Commitment, StopRequestedError, settle
from silhouette_server.coordination.federation import CheckedStrategy, RoundRecord
from silhouette_shared.errors import UnavailableError
from silhouette_shared.model.appraisal import Appraised


class Killed(BaseException):
    """As kill -9: nothing catches it."""


class Pages:
    """A book in memory that outlives the coordinator, and may be killed in front of or behind each entry."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.committed: dict[int, Commitment] = {}
        self.voided: dict[int, str] = {}
        self.kill = ""  # `before begin 2`, `after commit 1` and so on
        self.stop_before: int | None = None

    def _point(self, name: str, number: int) -> None:
        if self.kill == f"{name} {number}":
            self.kill = ""
            raise Killed

    def last_begun(self) -> int:
        return max(self.begun, default=0)

    def unfinished(self) -> tuple[int, ...]:
        return tuple(n for n in self.begun if n not in self.committed and n not in self.voided)

    def begin(self, number: int) -> None:
        if number == self.stop_before:
            raise StopRequestedError("it was asked to stop")
        self._point("before begin", number)
        assert number not in self.begun, "a number is used once"
        assert not self.unfinished(), "every round has its end before the next begins"
        self.begun.append(number)
        self._point("after begin", number)

    def commit(self, commitment: Commitment) -> None:
        number = commitment.record.round
        self._point("before commit", number)
        assert number in self.unfinished()
        self.committed[number] = commitment
        self._point("after commit", number)

    def void(self, number: int, reason: str) -> None:
        assert number in self.unfinished()
        self.voided[number] = reason

    def evaluate(self, appraised: Appraised, beside: str) -> None:
        raise AssertionError("no evaluation here")


def record(number: int, replies: int = 3) -> RoundRecord:
    return RoundRecord(number, replies, 0, 1.0, 1.0)


def test_a_round_that_reached_the_checkpoint_is_committed_and_any_other_is_void() -> None:
    pages = Pages()
    pages.begun = [1, 2]
    kept = Commitment(record(2), torch.ones(3), b"transcript")
    assert settle(pages, kept) == 3
    assert pages.committed == {2: kept}
    assert pages.voided == {1: INTERRUPTED}


def test_a_void_round_in_the_checkpoint_is_not_committed() -> None:
    pages = Pages()
    pages.begun = [1]
    assert settle(pages, Commitment(record(1, replies=0), torch.ones(3), None)) == 2
    assert pages.voided == {1: INTERRUPTED}


def test_a_run_that_was_never_begun_starts_at_one() -> None:
    assert settle(Pages(), None) == 1


POINTS = [
    f"{when} {number}" for number in (1, 2) for when in ("before begin", "after begin", "before commit", "after commit")
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_every_round_ends_once_and_the_run_goes_on(point: str, tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, secure_plan(rounds=3, partners=3), partners=3)
    pages = Pages()
    pages.kill = point

    def coordinator() -> CheckedStrategy:
        return CheckedStrategy(replace(consortium.job, book=pages))

    with pytest.raises(Killed):
        coordinator().start(consortium.wire)
    coordinator().start(consortium.wire)
    assert pages.begun == [1, 2, 3]
    assert not pages.unfinished()
    when, _, number = point.rpartition(" ")
    lost = {int(number)} if when == "after begin" else set()
    assert set(pages.voided) == lost
    assert set(pages.voided.values()) <= {INTERRUPTED}
    assert set(pages.committed) == {1, 2, 3} - lost
    assert all(one.transcript for one in pages.committed.values())


def test_a_stop_takes_hold_between_two_rounds_and_a_resumption_goes_on(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, secure_plan(rounds=3, partners=3), partners=3)
    pages = Pages()
    pages.stop_before = 3
    with pytest.raises(StopRequestedError):
        CheckedStrategy(replace(consortium.job, book=pages)).start(consortium.wire)
    assert set(pages.committed) == {1, 2}
    pages.stop_before = None
    CheckedStrategy(replace(consortium.job, book=pages)).start(consortium.wire)
    assert set(pages.committed) == {1, 2, 3}


def test_void_rounds_carry_their_reason_and_three_in_a_row_stop_the_run(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, secure_plan(rounds=9, partners=3), partners=3)
    consortium.wire.trouble = lambda passed, message: None if passed.answer and passed.kind == "train.mask" else message
    pages = Pages()
    with pytest.raises(UnavailableError, match="3 rounds in a row are void"):
        CheckedStrategy(replace(consortium.job, book=pages)).start(consortium.wire)
    assert pages.begun == [1, 2, 3]
    assert set(pages.voided) == {1, 2, 3}
    assert all("no answer" in reason for reason in pages.voided.values())


def test_a_round_that_ends_with_an_unforeseen_error_is_void_with_its_kind_and_without_its_text(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, secure_plan(rounds=3, partners=3), partners=3)

    def trouble(passed: Any, message: Any) -> Any:
        if passed.kind == "train.agree":
            raise ZeroDivisionError("what somebody bought")
        return message

    consortium.wire.trouble = trouble
    pages = Pages()
    with pytest.raises(ZeroDivisionError):
        CheckedStrategy(replace(consortium.job, book=pages)).start(consortium.wire)
    assert pages.voided == {1: "unexpected ZeroDivisionError"}
    assert not pages.unfinished()
