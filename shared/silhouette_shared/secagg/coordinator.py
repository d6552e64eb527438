"""The coordinator's side of SA-1, as a state machine without clock, disk or network.

It is driven in batches: each method takes the answers that came in time, by partner, and gives the next message for
each partner. Who is missing has dropped out. A wrong answer is not a drop-out: it ends the round with an error that
names the partner, because a sum without it would hide that somebody deviates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.aborts import ForgedError, Step
from silhouette_shared.secagg.checks import (
    check_adverts,
    check_agreements,
    check_secret,
    enough,
    read,
    remove_masks,
    same_context,
    trust,
)
from silhouette_shared.secagg.encoding import Integers
from silhouette_shared.secagg.framing import Message
from silhouette_shared.secagg.keys import Identity
from silhouette_shared.secagg.masking import WORD, Words, check_words, vector_digest
from silhouette_shared.secagg.messages import (
    KEY,
    NOTHING,
    SELF,
    Advertise,
    Agreement,
    Delivery,
    Manifest,
    Masked,
    Member,
    Pins,
    Quorum,
    Roll,
    Sealed,
    Secret,
    Shares,
    Survivors,
    Terms,
    Transcript,
    Unmask,
    ahead_context,
    commit_share,
    dealers_context,
    manifest_context,
    manifest_signing_context,
    masks_context,
    roll_context,
    signed,
    survivors_context,
    transcript_context,
    transcript_digest,
)
from silhouette_shared.secagg.sharing import ShareError, join
from silhouette_shared.thresholds import least_threshold

M = TypeVar("M", bound=Message)
T = TypeVar("T")

Answers = Mapping[str, bytes]
"""What partners answered in time, by name."""


@dataclass(frozen=True)
class Outcome:
    """A completed round.

    Args:
        total: The survivors' sum modulo 2**32, uint32.
        sums: The same as integers, by section.
        survivors: Whose vectors are in it.
        transcript: The encoded `Transcript`, for everybody.
        digest: What the next manifest names as its previous transcript.
    """

    total: Words
    sums: dict[str, Integers]
    survivors: tuple[str, ...]
    transcript: bytes
    digest: bytes


@dataclass(frozen=True)
class AheadKeys:
    """Keys that every partner has dealt for the next round; a `Coordinator` takes them instead of two exchanges."""

    context: bytes
    threshold: int
    round: int
    keys: _DealtKeys


class Coordinator:
    """One round at the coordinator.

    Args:
        identity: The coordinator's signing key.
        pins: Its own key and every partner's.
        run: The run's name.
        round_number: Greater than that of every round before, void ones included.
        terms: What the round is about.
        previous: Digest of the last transcript of the run, `genesis(run)` if there is none.
        threshold: At least `least_threshold`, which is also what None means.
        ahead: Keys from the round before, for three exchanges instead of five.

    Raises:
        UsageError: If the terms do not fit the ring, or keys sent ahead belong to another round.
    """

    def __init__(
        self,
        identity: Identity,
        pins: Pins,
        run: str,
        round_number: int,
        terms: Terms,
        *,
        previous: bytes,
        threshold: int | None = None,
        ahead: AheadKeys | None = None,
    ) -> None:
        """Sign the manifest."""
        names = pins.names
        terms.layout.check_ring(len(names))
        if ahead is not None and ahead.round != round_number:
            raise UsageError(f"expected keys for round {round_number}, got some for {ahead.round}; take five steps")
        wanted = least_threshold(len(names)) if threshold is None else threshold
        if not least_threshold(len(names)) <= wanted <= len(names):
            raise UsageError(
                f"expected a threshold from {least_threshold(len(names))} to {len(names)}, got {wanted}; change it"
            )
        unsigned = Manifest(
            run=run,
            round=round_number,
            purpose=terms.purpose,
            roster=tuple(Member(name, pins.partners[name]) for name in names),
            threshold=wanted,
            sections=terms.layout.sections,
            model=terms.model,
            catalogue=terms.catalogue,
            privacy=terms.privacy,
            previous=previous,
            ahead=NOTHING if ahead is None else ahead.context,
        )
        self.manifest = replace(
            unsigned, signature=signed(unsigned, identity, manifest_signing_context(identity.public))
        )
        self._identity = identity
        self._pins = pins
        self._layout = terms.layout
        self._context = manifest_context(self.manifest)
        self._keys: _Keys | None = None
        self._dealt: _DealtKeys | None = None if ahead is None else ahead.keys
        self._next_keys: _Keys | None = None
        self._masks = NOTHING if ahead is None else masks_context(self._context, ahead.keys.context)
        self._agreed = NOTHING
        self._masked: dict[str, Masked] = {}
        self._agreements: tuple[Agreement, ...] = ()
        self._total: Words | None = None
        self._due: Step | None = Step.MANIFEST

    def open(self) -> dict[str, bytes]:
        """The manifest for everybody: first exchange of five, or first half of the first of three."""
        with_keys_ahead = self._dealt is not None
        return self._do(
            Step.MANIFEST,
            Step.MASKED if with_keys_ahead else Step.ADVERTISE,
            lambda: {name: self.manifest.encode() for name in self._names},
        )

    def advertised(self, answers: Answers) -> dict[str, bytes]:
        """`Advertise` in, `Roll` out.

        Raises:
            ForgedError: Naming the partner whose answer does not fit.
            TooFewError: If fewer than the threshold answered.
        """

        def work() -> dict[str, bytes]:
            self._keys = self._new_keys(self._context)
            return self._keys.advertised(answers)

        return self._do(Step.ADVERTISE, Step.SHARE, work)

    def shared(self, answers: Answers) -> dict[str, bytes]:
        """`Shares` in, `Delivery` out. Raises as `advertised`."""

        def work() -> dict[str, bytes]:
            if self._keys is None:
                raise UsageError("expected keys before shares, got none; call advertised first")
            self._dealt = self._keys.shared(answers)
            self._keys = None
            self._masks = masks_context(self._context, self._dealt.context)
            return self._dealt.deliveries

        return self._do(Step.SHARE, Step.MASKED, work)

    def deliveries(self) -> dict[str, bytes]:
        """`Delivery` of the keys sent ahead: second half of the first of three exchanges."""
        if self._due is not Step.MASKED or self._dealt is None:
            raise UsageError("expected a round with keys sent ahead that is open, got another; call open first")
        return self._dealt.deliveries

    def masked(self, name: str, message: bytes, words: Words) -> None:
        """Add one partner's masked vector to the sum. Nothing of it is kept but its digest.

        Args:
            name: Who answered.
            message: `Masked`.
            words: The masked vector, uint32, shape (layout.size,).

        Raises:
            ForgedError: If the message is not this partner's for this round, or the words are not those it signed.
        """

        def work() -> None:
            found = self._answer(Masked, name, message, self._masks, Step.MASKED)
            if name in self._masked or name not in self._dealers:
                raise ForgedError(Step.MASKED, "expected one vector of each dealer, got another; refuse it", name)
            try:
                check_words(words, self._layout.size)
            except UsageError as error:
                raise ForgedError(Step.MASKED, str(error), name) from error
            if vector_digest(words) != found.digest:
                raise ForgedError(Step.MASKED, "expected the vector that was signed, got another; refuse it", name)
            if self._total is None:
                self._total = np.zeros(self._layout.size, WORD)
            np.add(self._total, words, out=self._total)
            self._masked[name] = found

        self._do(Step.MASKED, Step.MASKED, work)

    def survivors(self) -> dict[str, bytes]:
        """No further vectors: `Survivors` for those whose vector is in the sum.

        Raises:
            TooFewError: If they are fewer than the threshold.
        """

        def work() -> dict[str, bytes]:
            enough(len(self._masked), self.manifest.threshold, Step.MASKED)
            masked = self._in_order(self._masked)
            self._agreed = survivors_context(self._masks, masked)
            unsigned = Survivors(context=self._masks, masked=masked)
            data = replace(unsigned, signature=signed(unsigned, self._identity, self._masks)).encode()
            return {one.sender: data for one in masked}

        return self._do(Step.MASKED, Step.CONSISTENCY, work)

    def agreed(self, answers: Answers) -> dict[str, bytes]:
        """`Agreement` in, `Quorum` out. Raises as `advertised`."""

        def work() -> dict[str, bytes]:
            found = self._answers(Agreement, answers, self._agreed, Step.CONSISTENCY)
            self._agreements = self._in_order(found)
            survivors = [name for name in self._names if name in self._masked]
            check_agreements(self._agreements, survivors, self._pins, self.manifest.threshold, self._agreed)
            unsigned = Quorum(context=self._agreed, agreements=self._agreements)
            data = replace(unsigned, signature=signed(unsigned, self._identity, self._agreed)).encode()
            return {one.sender: data for one in self._agreements}

        return self._do(Step.CONSISTENCY, Step.UNMASK, work)

    def unmasked(self, answers: Answers) -> Outcome:
        """`Unmask` in, the sum and the transcript out.

        Raises:
            ForgedError: Naming the partner whose share is not the dealt one, or who dealt false shares.
            TooFewError: If fewer than the threshold answered.
            ImpossibleSumError: If the sum cannot be one of that many honest partners.
        """

        def work() -> Outcome:
            found = self._answers(Unmask, answers, self._agreed, Step.UNMASK)
            signers = {one.sender for one in self._agreements}
            for name, unmask in found.items():
                self._check_opened(name, unmask, signers)
            enough(len(found), self.manifest.threshold, Step.UNMASK)
            dealt, total = self._dealt, self._total
            if dealt is None or total is None:
                raise UsageError("expected masked vectors before their unmasking, got none; call the steps in order")
            secrets = tuple(self._join(dealer, found) for dealer in self._dealers)
            survivors = tuple(name for name in self._names if name in self._masked)
            remove_masks(total, self._names, survivors, dealt.adverts, secrets, self._masks)
            sums = self._layout.decode(total, len(survivors))
            unsigned = Transcript(
                manifest=(self.manifest,),
                adverts=tuple(dealt.adverts.values()),
                masked=self._in_order(self._masked),
                agreements=self._agreements,
                secrets=secrets,
                sum_digest=vector_digest(total),
            )
            transcript = replace(unsigned, signature=signed(unsigned, self._identity, transcript_context(self._agreed)))
            return Outcome(total, sums, survivors, transcript.encode(), transcript_digest(transcript))

        return self._do(Step.UNMASK, None, work)

    def advertised_ahead(self, answers: Answers) -> dict[str, bytes]:
        """`Advertise` for the next round in (they came with the agreements), `Roll` out (goes with the quorum).

        Raises:
            ForgedError: As `advertised`; this round goes on.
            TooFewError: If not everybody on the roster answered: the next round takes five steps.
        """
        enough(len(answers), len(self._names), Step.ADVERTISE)
        keys = self._new_keys(ahead_context(self.manifest))
        rolls = keys.advertised(answers)
        self._next_keys = keys
        return rolls

    def shared_ahead(self, answers: Answers) -> AheadKeys:
        """`Shares` for the next round in (they came with the unmasking); keys for the next `Coordinator` out.

        Raises:
            ForgedError: As `shared`; this round's sum stands.
            TooFewError: If not everybody on the roster answered: the next round takes five steps.
        """
        keys, self._next_keys = self._next_keys, None
        if keys is None:
            raise UsageError("expected keys for the next round before their shares, got none; take five steps")
        enough(len(answers), len(self._names), Step.SHARE)
        return AheadKeys(keys.context, self.manifest.threshold, self.manifest.round + 1, keys.shared(answers))

    @property
    def _names(self) -> tuple[str, ...]:
        return self.manifest.names

    @property
    def _dealers(self) -> tuple[str, ...]:
        return () if self._dealt is None else self._dealt.dealers

    def _do(self, step: Step, then: Step | None, work: Callable[[], T]) -> T:
        """Take a step, once and in order; after an error no other follows."""
        due, self._due = self._due, None
        if due is not step:
            self._total = None
            expected = "no further step of this round" if due is None else f"step {due} next"
            raise UsageError(f"expected {expected}, got {step}; the round is void, start another")
        try:
            done = work()
        except BaseException:
            self._total = None
            raise
        self._due = then
        return done

    def _new_keys(self, context: bytes) -> _Keys:
        return _Keys(self._identity, self._pins, context, self.manifest.threshold)

    def _answer(self, message: type[M], name: str, data: bytes, context: bytes, step: Step) -> M:
        return _answer(message, name, data, self._pins, context, step)

    def _answers(self, message: type[M], answers: Answers, context: bytes, step: Step) -> dict[str, M]:
        return {name: self._answer(message, name, data, context, step) for name, data in answers.items()}

    def _in_order(self, found: Mapping[str, M]) -> tuple[M, ...]:
        return tuple(found[name] for name in self._names if name in found)

    def _check_opened(self, name: str, unmask: Unmask, signers: set[str]) -> None:
        """Every share that this partner opens is of the right kind and the one that its dealer gave it."""
        wanted = [(dealer, SELF if dealer in self._masked else KEY) for dealer in self._dealers]
        if name not in signers or [(one.dealer, one.kind) for one in unmask.shares] != wanted:
            raise ForgedError(Step.UNMASK, "expected one share of each dealer, of the agreed kind, got others", name)
        for one in unmask.shares:
            if self._dealt is None or not self._dealt.committed(one.dealer, name, one.kind, one.share):
                raise ForgedError(Step.UNMASK, "expected the shares that were dealt, got another; refuse it", name)

    def _join(self, dealer: str, found: Mapping[str, Unmask]) -> Secret:
        """The secret of one dealer, from as many shares as the threshold, checked against what it announced."""
        at = self._dealers.index(dealer)
        holders = [name for name in self._names if name in found][: self.manifest.threshold]
        shares = {self._names.index(holder) + 1: found[holder].shares[at].share for holder in holders}
        survivor = dealer in self._masked
        try:
            secret = Secret(dealer, SELF if survivor else KEY, join(shares))
        except ShareError as error:
            raise ForgedError(Step.UNMASK, str(error), dealer) from error
        if self._dealt is None:
            raise UsageError("expected dealt keys, got none; call the steps in order")
        check_secret(secret, self._dealt.adverts[dealer], survivor)
        return secret


@dataclass(frozen=True)
class _DealtKeys:
    """Keys and shares of everybody who gave both."""

    dealers: tuple[str, ...]
    adverts: dict[str, Advertise]  # of everybody on the roll, in its order
    roll: bytes
    context: bytes
    commitments: dict[tuple[str, str, int], bytes]
    deliveries: dict[str, bytes]

    def committed(self, dealer: str, holder: str, kind: int, share: bytes) -> bool:
        """Whether this is the share that the dealer has signed for."""
        return commit_share(self.roll, dealer, holder, kind, share) == self.commitments[dealer, holder, kind]


class _Keys:
    """Collects the keys of one round, from their advertisement until all are dealt."""

    def __init__(self, identity: Identity, pins: Pins, context: bytes, threshold: int) -> None:
        self.context = context
        self._identity = identity
        self._pins = pins
        self._threshold = threshold
        self._adverts: dict[str, Advertise] = {}
        self._roll = NOTHING

    def advertised(self, answers: Answers) -> dict[str, bytes]:
        """Adverts in, the roll for each out."""
        found = {
            name: _answer(Advertise, name, data, self._pins, self.context, Step.ADVERTISE)
            for name, data in answers.items()
        }
        self._adverts = {name: found[name] for name in self._pins.names if name in found}
        adverts = tuple(self._adverts.values())
        check_adverts(adverts, self._pins.names, self._pins, self._threshold, self.context)
        self._roll = roll_context(self.context, adverts)
        unsigned = Roll(context=self.context, adverts=adverts)
        data = replace(unsigned, signature=signed(unsigned, self._identity, self.context)).encode()
        return dict.fromkeys(self._adverts, data)

    def shared(self, answers: Answers) -> _DealtKeys:
        """Shares in, deliveries out."""
        holders = tuple(self._adverts)
        by_dealer: dict[str, dict[str, Sealed]] = {}
        for name, data in answers.items():
            found = _answer(Shares, name, data, self._pins, self._roll, Step.SHARE)
            if name not in self._adverts or tuple(one.peer for one in found.shares) != holders:
                raise ForgedError(Step.SHARE, "expected a share for everybody on the roll, got others", name)
            by_dealer[name] = {one.peer: one for one in found.shares}
        enough(len(by_dealer), self._threshold, Step.SHARE)
        dealers = tuple(name for name in holders if name in by_dealer)
        commitments: dict[tuple[str, str, int], bytes] = {}
        for dealer in dealers:
            for holder, one in by_dealer[dealer].items():
                commitments[dealer, holder, SELF] = one.self_commitment
                commitments[dealer, holder, KEY] = one.key_commitment
        return _DealtKeys(
            dealers=dealers,
            adverts=self._adverts,
            roll=self._roll,
            context=dealers_context(self._roll, dealers),
            commitments=commitments,
            deliveries={holder: self._delivery(holder, dealers, by_dealer) for holder in dealers},
        )

    def _delivery(self, holder: str, dealers: Iterable[str], by_dealer: Mapping[str, Mapping[str, Sealed]]) -> bytes:
        shares = tuple(replace(by_dealer[dealer][holder], peer=dealer) for dealer in dealers)
        unsigned = Delivery(recipient=holder, context=self._roll, shares=shares)
        return replace(unsigned, signature=signed(unsigned, self._identity, self._roll)).encode()


def _answer(message: type[M], name: str, data: bytes, pins: Pins, context: bytes, step: Step) -> M:
    """Decode and check one partner's answer."""
    if name not in pins.partners:
        raise ForgedError(step, "expected answers of pinned partners, got another's; refuse it", name)
    found = read(message, data, step, name)
    sender: str = getattr(found, "sender")  # noqa: B009 - every answer has one
    if sender != name:
        raise ForgedError(step, "expected this partner's own answer, got another's; refuse it", name)
    same_context(getattr(found, "context"), context, step, name)  # noqa: B009 - every answer has one
    trust(found, pins.partners[name], context, step, name)
    return found
