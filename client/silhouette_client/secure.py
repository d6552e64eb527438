"""A partner's side of secure rounds: between Flower's messages and the state machine of SA-1.

The state machine knows nothing of training, and the agent nothing of masks. Here an exchange is answered: what the
round is about is worked out from what this partner installed, the vector is asked of the agent once, and only its
masked form leaves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from silhouette_shared.errors import RefusedError
from silhouette_shared.randomness import SecretBytes
from silhouette_shared.secagg import Identity, Partner, Pins, Terms, genesis
from silhouette_shared.secagg.encoding import Encoded
from silhouette_shared.secagg.messages import Transcript, transcript_digest
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.exchange import Answer, Exchange


@dataclass(frozen=True)
class Enrolment:
    """Who this partner is and whom it trusts to be who."""

    identity: Identity
    pins: Pins


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
        self._asked: Asked | None = None
        self._terms: Terms | None = None

    def answer(self, exchange: Exchange) -> Answer:
        """One step of a round.

        Raises:
            AbortError: If the message is not what this step needs; the round is over here.
            RefusedError: If the plan of this partner has no such round.
        """
        partner = self._in_run(exchange.run)
        parts, words = self._step(partner, exchange)
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
            self._begin(partner, exchange)
            return {"advertise": partner.advertise(parts["manifest"], self._known_terms(), self._ledger_head())}, None
        if exchange.step == "mask":
            ahead = "manifest" in parts
            if ahead:
                self._begin(partner, exchange)
                partner.check_ahead(parts["manifest"], self._known_terms())
            asked, terms = self._open(exchange), self._known_terms()
            encoded = self._contributor.contribute(asked, terms)
            if ahead:
                reply = partner.mask_ahead(parts["manifest"], terms, parts["delivery"], encoded)
            else:
                reply = partner.mask(parts["delivery"], encoded)
            return {"masked": reply.message}, reply.words
        self._open(exchange)
        if exchange.step == "share":
            return {"shares": partner.share(parts["roll"])}, None
        if exchange.step == "agree":
            agreement = partner.agree(parts["survivors"])
            return {"agreement": agreement, "advertise": partner.advertise_ahead(self._ledger_head())}, None
        unmask = partner.unmask(parts["quorum"])
        if "roll" not in parts:
            return {"unmask": unmask}, None
        return {"unmask": unmask, "shares": partner.share_ahead(parts["roll"])}, None

    def _in_run(self, run: str) -> Partner:
        if self._partner is None or self._partner.run != run:
            self._partner = Partner(self._name, self._enrolment.identity, self._enrolment.pins, run, self._source)
            self._asked, self._terms = None, None
        return self._partner

    def _begin(self, partner: Partner, exchange: Exchange) -> None:
        # The coordinator may repeat what this partner has seen: the chain says where to go on.
        for transcript in exchange.missed[self._overlap(partner, exchange.missed) :]:
            partner.finish(transcript)
        self._asked = Asked(exchange.run, exchange.purpose, exchange.round, exchange.inputs)
        self._terms = self._contributor.terms(self._asked)

    def _overlap(self, partner: Partner, missed: tuple[bytes, ...]) -> int:
        """How many of these transcripts this partner has finished already."""
        if partner.previous == genesis(partner.run):
            return 0
        digests = [transcript_digest(Transcript.decode(one)) for one in missed]
        return digests.index(partner.previous) + 1 if partner.previous in digests else 0

    def _open(self, exchange: Exchange) -> Asked:
        asked = self._asked
        if asked is None or (asked.purpose, asked.round) != (exchange.purpose, exchange.round):
            raise RefusedError(
                f"expected a step of the round that is open here, got one of {exchange.purpose} {exchange.round}; "
                "start a new round"
            )
        return asked

    def _known_terms(self) -> Terms:
        if self._terms is None:
            raise RefusedError("expected a round that is open here, there is none; start a new round")
        return self._terms
