"""Secure rounds over Flower: the coordinator's state machine of SA-1, its messages and its records.

What arrives here of one partner is keys, encrypted shares, one masked vector and signatures. The sum over the
survivors is what a round gives. A partner that answers wrongly, or too few that answer, make the round void: it is
never masked again, and a later round has a new sample, new noise and a new charge.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from silhouette_server.coordination.roster import Member
from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.files import write_atomically
from silhouette_shared.secagg import (
    AbortError,
    AheadKeys,
    Checked,
    Coordinator,
    ForgedError,
    Identity,
    Outcome,
    Pins,
    Step,
    Terms,
    genesis,
)
from silhouette_shared.secagg.encoding import Integers
from silhouette_shared.wire.codec import Vector, WireError, payload_bytes
from silhouette_shared.wire.exchange import Answer, Exchange, ExchangeStep
from silhouette_shared.wire.rounds import TRAINING
from silhouette_shared.wire.transcripts import RecordFolder

_LOG = logging.getLogger(__name__)

_BYTE_VALUES = 256

_STEPS: Mapping[ExchangeStep, Step] = {
    "advertise": Step.ADVERTISE,
    "share": Step.SHARE,
    "mask": Step.MASKED,
    "agree": Step.CONSISTENCY,
    "unmask": Step.UNMASK,
}


@dataclass(frozen=True)
class Desk:
    """What a coordinator needs for secure rounds."""

    identity: Identity
    pins: Pins
    folder: Path | None = None  # for transcripts and the number of the last round; None keeps neither


@dataclass(frozen=True)
class StepCost:
    """What one step of one round took."""

    step: ExchangeStep
    seconds: float
    sent: int  # bytes to all partners
    received: int  # bytes from all partners


@dataclass(frozen=True)
class SecureSum:
    """A completed secure round."""

    sums: Mapping[str, Integers]  # by section, over the survivors
    survivors: tuple[str, ...]
    reasons: tuple[str, ...]  # for everybody who is not among them
    costs: tuple[StepCost, ...]
    unevenness: float  # largest z-score of the bytes of a masked vector against even ones


class VoidRoundError(UnavailableError):
    """A secure round without a sum. Its number is used up; a new round may follow."""


@dataclass
class _Open:
    """A round on its way."""

    run: str
    purpose: str
    number: int
    members: Mapping[str, Member]
    grid: Grid
    timeout_seconds: float
    costs: list[StepCost] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def ask(
        self,
        step: ExchangeStep,
        parts: Mapping[str, Mapping[str, bytes]],
        *,
        missed: Callable[[str], tuple[bytes, ...]] = lambda name: (),
        inputs: Mapping[str, Vector] | None = None,
    ) -> dict[str, Answer]:
        """One exchange: these parts to each partner, and the answers that came in time and have the right form."""
        started = time.monotonic()
        messages = [
            Message(
                Exchange(
                    run=self.run,
                    purpose=self.purpose,
                    round=self.number,
                    step=step,
                    parts=parts[name],
                    missed=missed(name),
                    inputs=inputs or {},
                ).encode(),
                dst_node_id=self.members[name].node_id,
                message_type=f"train.{step}",
                group_id=f"{self.purpose} {self.number}",
            )
            for name in parts
            if name in self.members
        ]
        sent = sum(payload_bytes(message.content) for message in messages)
        replies = list(self.grid.send_and_receive(messages, timeout=self.timeout_seconds))
        answers, received = self._sort(step, replies, set(parts))
        self.costs.append(StepCost(step, time.monotonic() - started, sent, received))
        return answers

    def _sort(self, step: ExchangeStep, replies: Iterable[Message], asked: set[str]) -> tuple[dict[str, Answer], int]:
        names = {member.node_id: name for name, member in self.members.items()}
        answers: dict[str, Answer] = {}
        received = 0
        for reply in replies:
            name = names.get(reply.metadata.src_node_id)
            if name is None or name not in asked or name in answers:
                continue
            if reply.has_error():
                self.reasons[name] = f"{name}, {step}: error {reply.error.code}: {reply.error.reason}"
                continue
            received += payload_bytes(reply.content)
            answers[name] = self._read(step, name, reply)
        for name in sorted(asked - set(answers)):
            self.reasons.setdefault(name, f"{name}, {step}: no answer")
        return answers, received

    def _read(self, step: ExchangeStep, name: str, reply: Message) -> Answer:
        """An answer to this step. Another one is no drop-out: the round ends, with the partner named."""
        try:
            answer = Answer.decode(reply.content)
        except WireError as error:
            raise ForgedError(_STEPS[step], str(error), name) from error
        if (answer.run, answer.purpose, answer.round, answer.step) != (self.run, self.purpose, self.number, step):
            raise ForgedError(_STEPS[step], "expected an answer to this step, got one to another", name)
        return answer


class SecureRounds:
    """All secure rounds of one run at the coordinator.

    Args:
        run: The run's name.
        desk: Identity, pins and where records lie.

    Raises:
        IntegrityError: If the records of earlier rounds are damaged.
    """

    def __init__(self, run: str, desk: Desk) -> None:
        self._run, self._desk = run, desk
        self._records = None if desk.folder is None else RecordFolder(desk.folder)
        self._transcripts: list[bytes] = []
        checked: tuple[Checked, ...] = ()
        if self._records is not None:
            self._records.begin(run, desk.pins)
            self._transcripts = self._records.transcripts()
            checked = self._records.verified(self._transcripts, desk.pins, run)
        self._previous = checked[-1].digest if checked else genesis(run)
        self._last = max([_read_last(desk), *(one.round for one in checked)])
        self._told: dict[str, int] = {}  # transcripts that a partner has certainly finished
        self._ahead: AheadKeys | None = None

    @property
    def transcripts(self) -> tuple[bytes, ...]:
        """The signed records of all completed rounds, oldest first: they are public."""
        return tuple(self._transcripts)

    def collect(
        self,
        grid: Grid,
        members: Iterable[Member],
        terms: Terms,
        *,
        purpose: str,
        number: int,
        inputs: Mapping[str, Vector],
        timeout_seconds: float,
    ) -> SecureSum:
        """One round.

        Args:
            grid: To the partners.
            members: Who is connected; who is pinned and not among them has dropped out.
            terms: What the round is about.
            purpose: As in the terms, without the number.
            number: Of the round, as the plan counts for this purpose.
            inputs: What the round starts from.
            timeout_seconds: For each step.

        Raises:
            VoidRoundError: If there is no sum; every reason is named.
        """
        by_name = {member.partner: member for member in members if member.partner in self._desk.pins.partners}
        open_round = _Open(self._run, purpose, number, by_name, grid, timeout_seconds)
        self._last += 1
        _write_last(self._desk, self._last)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.round != self._last:
            ahead = None
        try:
            return self._collect(open_round, terms, inputs, ahead)
        except AbortError as error:
            reasons = "; ".join([str(error), *open_round.reasons.values()])
            raise VoidRoundError(f"{purpose} {number}: {reasons}") from error
        finally:
            for name in open_round.reasons:  # it may have been restarted, at whatever step, and gets all of it again
                self._told.pop(name, None)

    def _collect(self, asked: _Open, terms: Terms, inputs: Mapping[str, Vector], ahead: AheadKeys | None) -> SecureSum:
        coordinator = Coordinator(
            self._desk.identity, self._desk.pins, self._run, self._last, terms, previous=self._previous, ahead=ahead
        )
        masked = self._masked(asked, coordinator, inputs, ahead is not None)
        unevenness = 0.0
        for name, answer in masked.items():
            words = np.empty(0, np.uint32) if answer.words is None else answer.words
            coordinator.masked(name, answer.parts["masked"], words)
            unevenness = max(unevenness, _unevenness(words))
        agreed = asked.ask("agree", _parts("survivors", coordinator.survivors()))
        quorum = coordinator.agreed(_part("agreement", agreed))
        rolls = self._rolls_ahead(asked, coordinator, _part("advertise", agreed))
        closing = {name: {"quorum": part, **_optional("roll", rolls.get(name))} for name, part in quorum.items()}
        opened = asked.ask("unmask", closing)
        outcome = coordinator.unmasked(_part("unmask", opened))
        self._finish(outcome, released=asked.purpose != TRAINING)
        self._take_keys_ahead(coordinator, rolls, _part("shares", opened))
        return SecureSum(
            sums=outcome.sums,
            survivors=outcome.survivors,
            reasons=tuple(reason for name, reason in sorted(asked.reasons.items()) if name not in outcome.survivors),
            costs=tuple(asked.costs),
            unevenness=unevenness,
        )

    def _masked(
        self, asked: _Open, coordinator: Coordinator, inputs: Mapping[str, Vector], ahead: bool
    ) -> dict[str, Answer]:
        manifests = coordinator.open()
        if ahead:
            parts = {
                name: {"manifest": manifests[name], "delivery": delivery}
                for name, delivery in coordinator.deliveries().items()
            }
            return self._told_by(asked.ask("mask", parts, missed=self._missed, inputs=inputs))
        adverts = self._told_by(
            asked.ask("advertise", _parts("manifest", manifests), missed=self._missed, inputs=inputs)
        )
        shares = asked.ask("share", _parts("roll", coordinator.advertised(_part("advertise", adverts))))
        return asked.ask("mask", _parts("delivery", coordinator.shared(_part("shares", shares))))

    def _told_by(self, answers: dict[str, Answer]) -> dict[str, Answer]:
        """Who answers has finished what it was sent."""
        self._told = dict.fromkeys(answers, len(self._transcripts))
        return answers

    def _missed(self, name: str) -> tuple[bytes, ...]:
        return tuple(self._transcripts[self._told.get(name, 0) :])

    def _rolls_ahead(self, asked: _Open, coordinator: Coordinator, adverts: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Keys for the next round, if everybody sent some; else that round takes five steps."""
        if set(adverts) != set(self._desk.pins.partners):
            return {}
        try:
            return coordinator.advertised_ahead(adverts)
        except AbortError as error:
            _LOG.warning("the next round takes five steps: %s", error)
            return {}

    def _take_keys_ahead(
        self, coordinator: Coordinator, rolls: Mapping[str, bytes], shares: Mapping[str, bytes]
    ) -> None:
        if not rolls or set(shares) != set(self._desk.pins.partners):
            return
        try:
            self._ahead = coordinator.shared_ahead(shares)
        except AbortError as error:
            _LOG.warning("the next round takes five steps: %s", error)

    def _finish(self, outcome: Outcome, *, released: bool) -> None:
        """Keep the record of a round, and its sum where that is a result by itself."""
        if self._records is not None:
            self._records.add(len(self._transcripts) + 1, outcome.transcript, outcome.total if released else None)
        self._transcripts.append(outcome.transcript)
        self._previous = outcome.digest


def _parts(name: str, values: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    return {partner: {name: value} for partner, value in values.items()}


def _part(name: str, answers: Mapping[str, Answer]) -> dict[str, bytes]:
    return {partner: answer.parts[name] for partner, answer in answers.items() if name in answer.parts}


def _optional(name: str, value: bytes | None) -> dict[str, bytes]:
    return {} if value is None else {name: value}


def _unevenness(words: Vector) -> float:
    """How far the bytes of a masked vector are from even ones: the z-score of their chi-square statistic."""
    counts = np.bincount(words.view(np.uint8), minlength=_BYTE_VALUES)
    expected = max(1, counts.sum()) / _BYTE_VALUES
    statistic = float(np.square(counts - expected).sum() / expected)
    freedom = _BYTE_VALUES - 1
    return (statistic - freedom) / float(np.sqrt(2 * freedom))


def _read_last(desk: Desk) -> int:
    if desk.folder is None or not (path := desk.folder / "last-round").exists():
        return 0
    text = path.read_bytes()
    if not (text.endswith(b"\n") and text[:-1].isdigit()):
        raise IntegrityError(f"{path}: expected the number of the last secure round, got something else; restore it")
    return int(text)


def _write_last(desk: Desk, number: int) -> None:
    """Written before the round begins: a number is never used twice, also after a crash."""
    if desk.folder is not None:
        desk.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(desk.folder / "last-round", f"{number}\n".encode())
