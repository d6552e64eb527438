"""A partner's side of secure rounds: between Flower's messages and the state machine of SA-1.

The state machine knows nothing of training, and the agent nothing of masks. Here an exchange is answered: what the
round is about is worked out from what this partner installed, the vector is asked of the agent once, and only its
masked form leaves.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from silhouette_shared.errors import IntegrityError, RefusedError
from silhouette_shared.files import write_atomically
from silhouette_shared.randomness import SecretBytes
from silhouette_shared.secagg import AbortError, Identity, Partner, Pins, Terms, genesis
from silhouette_shared.secagg.encoding import Encoded
from silhouette_shared.secagg.messages import Transcript, transcript_digest
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.exchange import Answer, Exchange

_LOG = logging.getLogger(__name__)


class RoundMemory:
    """The last secure round that this partner has accepted in each run: it answers none up to it again.

    Args:
        path: Where it is kept, so that a restart does not forget it; None keeps it in this process.

    Raises:
        IntegrityError: If the file is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._last: dict[str, int] = {}
        if path is not None and path.exists():
            self._last = _read_rounds(path)

    def last(self, run: str) -> int:
        """Number of the last round accepted in this run, 0 if none."""
        return self._last.get(run, 0)

    def keep(self, run: str, number: int) -> None:
        """Remember a round; on disk when this returns."""
        if number <= self.last(run):
            return
        self._last[run] = number
        if self._path is None:
            return
        write_atomically(self._path, json.dumps(self._last).encode())


def _read_rounds(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(type(number) is int and number > 0 for number in found.values()):
        raise IntegrityError(f"{path}: expected the last secure round of every run, got a damaged file; restore it")
    return {str(run): int(number) for run, number in found.items()}


@dataclass(frozen=True)
class Enrolment:
    """Who this partner is, whom it trusts to be who, and which rounds it has answered."""

    identity: Identity
    pins: Pins
    memory: RoundMemory = field(default_factory=RoundMemory)


@dataclass(frozen=True)
class Asked:
    """What a round asks for: its purpose and what the coordinator sent along."""

    run: str
    purpose: str
    round: int
    inputs: Mapping[str, Vector]


class Contributor(Protocol):
    """Makes this partner's vector; the agent does."""

    def terms(self, asked: Asked) -> Terms:
        """What the round is about as this partner knows it; RefusedError if its plan has no such round."""
        ...

    def contribute(self, asked: Asked, terms: Terms) -> Encoded:
        """The vector, noised and charged for where the terms say so."""
        ...


class SecureMember:
    """One partner in the secure rounds of a run.

    Args:
        name: Its name in the roster.
        enrolment: Its identity, and the others'.
        source: For keys and shares.
        contributor: Makes the vector.
        ledger_head: Where its ledger stands, 32 bytes; the other partners see it and notice an older copy.
    """

    def __init__(
        self,
        name: str,
        enrolment: Enrolment,
        source: SecretBytes,
        contributor: Contributor,
        ledger_head: Callable[[], bytes],
    ) -> None:
        self._name, self._enrolment, self._source = name, enrolment, source
        self._contributor, self._ledger_head = contributor, ledger_head
        self._partner: Partner | None = None
        self._open: _Open | None = None
        self._turn = threading.Lock()  # a late answer to one round and the first to the next do not mix

    def answer(self, exchange: Exchange) -> Answer:
        """One step of a round. Whatever fails ends the round here.

        Raises:
            AbortError: If the message is not what this step needs.
            RefusedError: If the plan of this partner has no such round.
        """
        with self._turn:
            partner = self._in_run(exchange.run)
            try:
                parts, words = self._step(partner, exchange)
                self._enrolment.memory.keep(partner.run, partner.last_round)  # before the answer leaves
            except BaseException:
                # Nothing may stay that a later message could go on with: not the round, not what it was about.
                self._open = None
                partner.give_up()
                raise
        return Answer(
            run=exchange.run,
            purpose=exchange.purpose,
            round=exchange.round,
            step=exchange.step,
            parts=parts,
            words=words,
        )

    def _step(self, partner: Partner, exchange: Exchange) -> tuple[dict[str, bytes], Vector | None]:
        parts = exchange.parts
        if exchange.step == "advertise":
            opened = self._read(partner, exchange)
            advert = partner.advertise(parts["manifest"], opened.terms, self._ledger_head())
            self._open = opened  # only now is it what the coordinator has signed
            return {"advertise": advert}, None
        if exchange.step == "mask":
            return self._mask(partner, exchange)
        self._same_round(exchange)
        if exchange.step == "share":
            return {"shares": partner.share(parts["roll"])}, None
        if exchange.step == "agree":
            agreement = partner.agree(parts["survivors"])
            return {"agreement": agreement, "advertise": partner.advertise_ahead(self._ledger_head())}, None
        self._open = None  # this is the last step
        unmask = partner.unmask(parts["quorum"])
        if "roll" not in parts:
            return {"unmask": unmask}, None
        try:
            return {"unmask": unmask, "shares": partner.share_ahead(parts["roll"])}, None
        except AbortError as error:
            _LOG.warning("no keys are sent ahead, the next round takes five steps: %s", error)
            return {"unmask": unmask}, None

    def _mask(self, partner: Partner, exchange: Exchange) -> tuple[dict[str, bytes], Vector]:
        """The one vector of a round, made for what was signed and masked."""
        parts = exchange.parts
        if "manifest" not in parts:
            opened = self._same_round(exchange)
            reply = partner.mask(parts["delivery"], self._contributor.contribute(opened.asked, opened.terms))
        else:
            opened = self._read(partner, exchange)
            partner.check_ahead(parts["manifest"], opened.terms)  # before anything is made and charged
            encoded = self._contributor.contribute(opened.asked, opened.terms)
            reply = partner.mask_ahead(parts["manifest"], opened.terms, parts["delivery"], encoded)
            self._open = opened
        return {"masked": reply.message}, reply.words

    def _in_run(self, run: str) -> Partner:
        if self._partner is None or self._partner.run != run:
            enrolled = self._enrolment
            self._open = None
            self._partner = Partner(
                self._name,
                enrolled.identity,
                enrolled.pins,
                run,
                self._source,
                last_round=enrolled.memory.last(run),
            )
        return self._partner

    def _read(self, partner: Partner, exchange: Exchange) -> "_Open":
        """What a round is about that begins with this message; nobody has vouched for it yet."""
        # The coordinator may repeat what this partner has seen: the chain says where to go on.
        for transcript in exchange.missed[self._overlap(partner, exchange.missed) :]:
            partner.finish(transcript)
        asked = Asked(exchange.run, exchange.purpose, exchange.round, exchange.inputs)
        return _Open(asked, self._contributor.terms(asked))

    def _overlap(self, partner: Partner, missed: tuple[bytes, ...]) -> int:
        """How many of these transcripts this partner has finished already."""
        if partner.previous == genesis(partner.run):
            return 0
        digests = [transcript_digest(Transcript.decode(one)) for one in missed]
        return digests.index(partner.previous) + 1 if partner.previous in digests else 0

    def _same_round(self, exchange: Exchange) -> "_Open":
        opened = self._open
        if opened is None or (opened.asked.purpose, opened.asked.round) != (exchange.purpose, exchange.round):
            raise RefusedError(
                f"expected a step of the round that is open here, got one of {exchange.purpose[:40]!r} "
                f"{exchange.round}; start a new round"
            )
        return opened


@dataclass(frozen=True)
class _Open:
    """A round that was accepted, with what it was accepted for."""

    asked: Asked
    terms: Terms
