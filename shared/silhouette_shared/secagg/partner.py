"""A partner's side of SA-1, as a state machine without clock, disk or network.

The active-adversary protocol of Bonawitz et al. 2017, Practical secure aggregation for privacy-preserving machine
learning, figure 4, https://eprint.iacr.org/2017/281, on a full graph. It holds against a coordinator that lies and
up to a third of the partners helping it: the coordinator learns the sum over one set of at least `threshold`
partners and nothing else about any vector.

Each method answers one message, once and in order. Whatever does not fit raises an `AbortError`, drops every secret
and ends the round here: a vector is masked at most once and there is no way back to it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

from silhouette_shared.errors import UsageError
from silhouette_shared.randomness import SecretBytes
from silhouette_shared.secagg.aborts import COORDINATOR, ForgedError, NotAgreedError, Step
from silhouette_shared.secagg.checks import (
    check_adverts,
    check_agreements,
    check_manifest,
    check_masked,
    enough,
    from_coordinator,
    in_order,
    pair_key,
    read,
    self_key,
)
from silhouette_shared.secagg.encoding import Encoded, Layout
from silhouette_shared.secagg.framing import frame
from silhouette_shared.secagg.keys import KEY_BYTES, AgreementKey, Identity, UntrustedError, derive, seal, unseal
from silhouette_shared.secagg.masking import Words, add_masks, vector_digest
from silhouette_shared.secagg.messages import (
    KEY,
    NOTHING,
    SELF,
    Advertise,
    Agreement,
    Delivery,
    Manifest,
    Masked,
    Opened,
    Pins,
    Quorum,
    Roll,
    Sealed,
    Shares,
    Survivors,
    Terms,
    Unmask,
    ahead_context,
    commit_self,
    commit_share,
    dealers_context,
    genesis,
    manifest_context,
    masks_context,
    pair_info,
    roll_context,
    signed,
    survivors_context,
)
from silhouette_shared.secagg.sharing import SHARE_BYTES, split
from silhouette_shared.secagg.standing import NOWHERE, Standing, encode_seen, seen_of
from silhouette_shared.secagg.transcript import Checked, verify_transcript


@dataclass(frozen=True)
class MaskedReply:
    """A masked vector and the message that signs it.

    Args:
        message: Encoded `Masked`.
        words: uint32, shape (layout.size,); it travels beside the message.
    """

    message: bytes
    words: Words


class Partner:
    """One partner in one run.

    Args:
        name: Its name on the roster.
        identity: Its signing key.
        pins: The coordinator's key and every partner's, as the authority vouches for them.
        run: The run's name.
        source: Where keys and coefficients come from; a `SecureSource` in production.
        last_round: The last round that this partner has accepted, 0 if none: kept on disk by the caller, which writes
            `last_round` down after `advertise` or `mask_ahead` and before it sends their answer.
        previous: Digest of the last transcript that it has seen, None at the start of the run.

    Raises:
        UsageError: If the name is not pinned with this identity.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        pins: Pins,
        run: str,
        source: SecretBytes,
        *,
        last_round: int = 0,
        previous: bytes | None = None,
    ) -> None:
        """Start with no round open."""
        if pins.partners.get(name) != identity.public:
            raise UsageError(f"expected {name} to be pinned with its own key, got another; enrol it again")
        self.name = name
        self.run = run
        self._identity = identity
        self._pins = pins
        self._source = source
        self._last_round = last_round
        self._finished = 0
        self._previous = genesis(run) if previous is None else previous
        self._heads: Mapping[str, Standing] = MappingProxyType({})
        self._told: Mapping[str, Standing] = MappingProxyType({})
        self._round: _Round | None = None
        self._ahead: _Keys | None = None
        self._lock = threading.Lock()

    @property
    def last_round(self) -> int:
        """The last round accepted; no round up to it will be answered again."""
        return self._last_round

    @property
    def previous(self) -> bytes:
        """Digest of the last transcript seen."""
        return self._previous

    @property
    def heads(self) -> Mapping[str, Standing]:
        """Where every partner's ledger stood when it last advertised keys: who goes back has put an old copy back."""
        return self._heads

    @property
    def told(self) -> Mapping[str, Standing]:
        """Where the others have seen this partner's ledger stand, by who has: an older one here is an old copy."""
        return self._told

    @property
    def ahead(self) -> bytes | None:
        """The context of keys that are dealt for the next round, None if that round needs all five steps."""
        ahead = self._ahead
        return ahead.context if ahead is not None and ahead.step is Step.MASKED else None

    def advertise(
        self, manifest: bytes, terms: Terms, ledger: Standing, seen: Mapping[str, Standing] | None = None
    ) -> bytes:
        """Accept a round and give keys for it. A round that was open is given up.

        Args:
            manifest: The coordinator's `Manifest`.
            terms: What this partner itself knows the round to be about.
            ledger: Where its ledger stands.
            seen: Where it has seen the others' stand, from earlier rounds and runs.

        Returns:
            `Advertise`.

        Raises:
            ForgedError: If the manifest is malformed or not the pinned coordinator's.
            NotAgreedError: If run, round, roster, threshold, terms or previous transcript are not this partner's.
        """
        with self._step() as held:
            held.ahead = None
            found = self._accept(manifest, terms)
            if found.ahead != NOTHING:
                raise NotAgreedError(
                    Step.MANIFEST, "expected a round that starts with keys, got one for keys sent ahead", COORDINATOR
                )
            context = manifest_context(found)
            keys = self._new_keys(context, found.threshold, found.round)
            held.round = _Round(found, context, keys)
            return keys.advertise(ledger, seen or {})

    def share(self, roll: bytes) -> bytes:
        """Deal shares of both secrets to everybody on the roll.

        Args:
            roll: The coordinator's `Roll`.

        Returns:
            `Shares`.

        Raises:
            ForgedError: If keys are missing their owner's signature, repeated, unsound or not this round's.
            TooFewError: If fewer than the threshold have given keys.
        """
        with self._step() as held:
            keys = held.open(Step.SHARE).keys
            answer = keys.share(roll)
            self._heads, self._told = MappingProxyType(keys.heads), MappingProxyType(keys.told)
            return answer

    def mask(self, delivery: bytes, encoded: Encoded) -> MaskedReply:
        """Mask the vector, once.

        Args:
            delivery: The coordinator's `Delivery`.
            encoded: The vector, noised and charged for where the privacy terms say so.

        Raises:
            ForgedError: If a share is missing, not authentic or not its dealer's.
            NotAgreedError: If the vector has another layout than the manifest's.
            TooFewError: If fewer than the threshold have dealt shares.
        """
        with self._step() as held:
            return self._mask(held.open(Step.MASKED), delivery, encoded)

    def agree(self, survivors: bytes) -> bytes:
        """Sign one set of survivors, once.

        Args:
            survivors: The coordinator's `Survivors`.

        Returns:
            `Agreement`.

        Raises:
            ForgedError: If this partner is not among them with the vector it sent, or another has signed no vector.
            TooFewError: If they are fewer than the threshold.
        """
        with self._step() as held:
            current = held.open(Step.CONSISTENCY)
            found = from_coordinator(Survivors, survivors, self._pins, current.masks, Step.CONSISTENCY)
            check_masked(found.masked, current.dealers, self._pins, current.manifest.threshold, current.masks)
            own = [one.digest for one in found.masked if one.sender == self.name]
            if own != [current.own_digest]:
                raise ForgedError(
                    Step.CONSISTENCY, "expected this partner with the vector it sent, got it otherwise", COORDINATOR
                )
            current.survivors = tuple(one.sender for one in found.masked)
            current.agreed = survivors_context(current.masks, found.masked)
            current.step = Step.UNMASK
            unsigned = Agreement(sender=self.name, context=current.agreed)
            return replace(unsigned, signature=signed(unsigned, self._identity, current.agreed)).encode()

    def unmask(self, quorum: bytes) -> bytes:
        """Open shares for the set that was signed, once: of the self-mask of survivors, of the key of the others.

        The round is closed here by this.

        Args:
            quorum: The coordinator's `Quorum`.

        Returns:
            `Unmask`.

        Raises:
            ForgedError: If a signature is of another set.
            TooFewError: If fewer than the threshold have signed this set.
        """
        with self._step() as held:
            current = held.open(Step.UNMASK)
            found = from_coordinator(Quorum, quorum, self._pins, current.agreed, Step.UNMASK)
            threshold = current.manifest.threshold
            check_agreements(found.agreements, current.survivors, self._pins, threshold, current.agreed)
            shares, current.shares = current.shares, {}
            held.round = None
            opened = tuple(
                Opened(dealer, SELF, shares[dealer][0])
                if dealer in current.survivors
                else Opened(dealer, KEY, shares[dealer][1])
                for dealer in current.dealers
            )
            unsigned = Unmask(sender=self.name, context=current.agreed, shares=opened)
            return replace(unsigned, signature=signed(unsigned, self._identity, current.agreed)).encode()

    def finish(self, transcript: bytes) -> Checked:
        """Check the transcript that follows the last one seen, and remember it.

        The next manifest must name it. A partner that missed rounds is given their transcripts, oldest first.

        Raises:
            ForgedError: If it is not the record of a completed round of this run after the last one seen.
        """
        with self._lock:
            checked = verify_transcript(transcript, self._pins, run=self.run, previous=self._previous)
            self._previous = checked.digest
            self._finished = checked.round
            self._last_round = max(self._last_round, checked.round)
            return checked

    def advertise_ahead(self, ledger: Standing) -> bytes:
        """Give keys for the next round beside this round's agreement.

        Args:
            ledger: Where the ledger stands.

        Returns:
            `Advertise`, bound to this run, the next round, the roster, the threshold and this round's manifest.

        Raises:
            ForgedError: If this round has not come to its agreement.
        """
        with self._step() as held:
            current = held.open(Step.UNMASK)
            last = current.manifest
            keys = self._new_keys(ahead_context(last), last.threshold, last.round + 1)
            held.ahead = keys
            return keys.advertise(ledger, {})

    def share_ahead(self, roll: bytes) -> bytes:
        """Deal shares for the next round beside this round's unmasking; `share` says how.

        A failure gives up the keys sent ahead. This round's answer has been made before and may still be sent.
        """
        with self._step() as held:
            if held.ahead is None:
                raise ForgedError(Step.SHARE, "expected no keys for the next round, none were advertised", COORDINATOR)
            answer = held.ahead.share(roll)
            self._heads, self._told = MappingProxyType(held.ahead.heads), MappingProxyType(held.ahead.told)
            return answer

    def mask_ahead(self, manifest: bytes, terms: Terms, delivery: bytes, encoded: Encoded) -> MaskedReply:
        """Accept a round whose keys were sent ahead and mask its vector: `advertise`, `share` and `mask` in one.

        Raises:
            NotAgreedError: As `advertise`; also if this partner has no keys ahead, as after a restart: then the
                coordinator starts a round of five steps.
            ForgedError: As `mask`.
            TooFewError: As `mask`.
        """
        with self._step() as held:
            found = self._accept(manifest, terms)
            keys = self._keys_for(found, held.ahead)
            current = held.round = _Round(found, manifest_context(found), keys)
            held.ahead = None
            return self._mask(current, delivery, encoded)

    def check_ahead(self, manifest: bytes, terms: Terms) -> None:
        """See whether `mask_ahead` would accept this manifest, before a vector is made and charged for it.

        Nothing changes by it: a manifest that is refused here leaves the keys where they are.

        Raises:
            ForgedError: If it is malformed or not the pinned coordinator's.
            NotAgreedError: If it is not this partner's next round, or no keys were sent ahead for it.
        """
        with self._lock:
            self._keys_for(self._checked(manifest, terms), self._ahead)

    def give_up(self) -> None:
        """Drop the open round and all keys; a later manifest starts a new one."""
        with self._lock:
            self._drop()

    def __repr__(self) -> str:
        """Names only, no secrets."""
        return f"Partner({self.name!r}, run={self.run!r}, last_round={self._last_round})"

    def _drop(self) -> None:
        self._round = None
        self._ahead = None

    @contextmanager
    def _step(self) -> Iterator[_Held]:
        """One answer at a time; what fails, for whatever reason, leaves nothing to go on with."""
        with self._lock:
            held = _Held(self._round, self._ahead)
            self._drop()
            yield held
            # Only reached without an error: with one, the round stays dropped.
            self._round, self._ahead = held.round, held.ahead

    def _accept(self, data: bytes, terms: Terms) -> Manifest:
        found = self._checked(data, terms)
        self._last_round = found.round
        return found

    def _checked(self, data: bytes, terms: Terms) -> Manifest:
        found = read(Manifest, data, Step.MANIFEST, COORDINATOR)
        check_manifest(found, self._pins)
        for what, got, own in (
            ("the run", found.run, self.run),
            ("the purpose", found.purpose, terms.purpose),
            ("the sections", found.sections, terms.layout.sections),
            ("the model", found.model, terms.model),
            ("the catalogue", found.catalogue, terms.catalogue),
            ("the privacy terms", found.privacy, terms.privacy),
            ("the previous transcript", found.previous, self._previous),
        ):
            if got != own:
                raise NotAgreedError(
                    Step.MANIFEST, f"expected {what} that this partner knows, got another; compare both", COORDINATOR
                )
        if found.round <= self._last_round:
            raise NotAgreedError(
                Step.MANIFEST,
                f"expected a round after {self._last_round}, got {found.round}; a round is never answered twice",
                COORDINATOR,
            )
        return found

    def _keys_for(self, found: Manifest, keys: _Keys | None) -> _Keys:
        """The keys sent ahead for exactly this round."""
        if keys is None or keys.step is not Step.MASKED or found.ahead != keys.context:
            raise NotAgreedError(
                Step.MANIFEST,
                "expected a manifest for keys that were sent ahead from here, there are none; take five steps",
                COORDINATOR,
            )
        if (found.round, found.threshold, self._finished) != (keys.round, keys.threshold, keys.round - 1):
            raise NotAgreedError(
                Step.MANIFEST,
                "expected the round after the completed one that sent keys ahead, with its threshold, got another; "
                "take five steps",
                COORDINATOR,
            )
        return keys

    def _new_keys(self, context: bytes, threshold: int, number: int) -> _Keys:
        return _Keys(self.name, self._identity, self._pins, context, threshold, number, self._source)

    def _mask(self, current: _Round, delivery: bytes, encoded: Encoded) -> MaskedReply:
        if encoded.layout != Layout(current.manifest.sections):
            raise NotAgreedError(Step.MASKED, "expected a vector of the manifest's layout, got another", self.name)
        received = current.keys.receive(delivery)
        current.dealers = received.dealers
        current.shares = received.shares
        current.masks = masks_context(current.context, received.context)
        plus = [self_key(received.self_secret, current.masks, self.name)]
        minus: list[bytes] = []
        for peer, raw in received.raw.items():
            key, added = pair_key(raw, current.masks, current.keys.names, self.name, peer)
            (plus if added else minus).append(key)
        words = encoded.words.copy()
        add_masks(words, plus, minus)
        current.own_digest = vector_digest(words)
        unsigned = Masked(sender=self.name, context=current.masks, digest=current.own_digest)
        message = replace(unsigned, signature=signed(unsigned, self._identity, current.masks))
        return MaskedReply(message.encode(), words)


@dataclass
class _Held:
    """What a step works on; it is put back only if the step succeeds."""

    round: _Round | None
    ahead: _Keys | None

    def open(self, step: Step) -> _Round:
        """The open round, if this step is its next one."""
        if self.round is None:
            raise ForgedError(step, "expected a round that is open here, there is none; start a new one", COORDINATOR)
        keys = self.round.keys
        due = self.round.step if keys.step is Step.CONSISTENCY else keys.step
        if due is not step:
            raise ForgedError(step, f"expected step {due} next, got {step}; no step is taken twice", COORDINATOR)
        return self.round


class _Round:
    """An accepted round."""

    def __init__(self, manifest: Manifest, context: bytes, keys: _Keys) -> None:
        self.manifest = manifest
        self.context = context
        self.keys = keys
        self.step = Step.CONSISTENCY  # once `keys` has come to its end; before that it says how far the round is
        self.dealers: tuple[str, ...] = ()
        self.survivors: tuple[str, ...] = ()
        self.shares: dict[str, tuple[bytes, bytes]] = {}
        self.masks = NOTHING
        self.agreed = NOTHING
        self.own_digest = NOTHING


@dataclass(frozen=True)
class _Received:
    """What a partner knows when all keys are dealt."""

    dealers: tuple[str, ...]
    context: bytes
    shares: dict[str, tuple[bytes, bytes]]  # of the self-mask and of the mask key, by dealer
    raw: dict[str, bytes]  # X25519 of the mask keys, by peer
    self_secret: bytes


class _Keys:
    """The keys of one round at one partner, from their advertisement until all are dealt."""

    def __init__(
        self,
        name: str,
        identity: Identity,
        pins: Pins,
        context: bytes,
        threshold: int,
        number: int,
        source: SecretBytes,
    ) -> None:
        self.name = name
        self.names = pins.names
        self.context = context
        self.threshold = threshold
        self.round = number
        self.step = Step.ADVERTISE
        self.heads: dict[str, Standing] = {}
        self.told: dict[str, Standing] = {}
        self._identity = identity
        self._pins = pins
        self._source = source
        self._cipher_secret = source.bytes(KEY_BYTES)
        self._mask_secret = source.bytes(KEY_BYTES)
        self._self_secret = source.bytes(KEY_BYTES)
        self._own: Advertise | None = None
        self._roll_context = NOTHING
        self._cipher_raw: dict[str, bytes] = {}
        self._mask_raw: dict[str, bytes] = {}

    def advertise(self, ledger: Standing, seen: Mapping[str, Standing]) -> bytes:
        """The public halves."""
        unsigned = Advertise(
            sender=self.name,
            context=self.context,
            cipher_key=AgreementKey(self._cipher_secret).public,
            mask_key=AgreementKey(self._mask_secret).public,
            commitment=commit_self(self.context, self.name, self._self_secret),
            ledger=ledger.encode(),
            seen=encode_seen(self.names, seen),
        )
        self._own = replace(unsigned, signature=signed(unsigned, self._identity, self.context))
        self.step = Step.SHARE
        return self._own.encode()

    def share(self, data: bytes) -> bytes:
        """Both secrets in shares, each pair encrypted for its holder. The private keys end here."""
        if self.step is not Step.SHARE:
            raise ForgedError(Step.SHARE, "expected one roll for these keys, got a second; deal only once", COORDINATOR)
        roll = from_coordinator(Roll, data, self._pins, self.context, Step.SHARE)
        check_adverts(roll.adverts, self.names, self._pins, self.threshold, self.context)
        if self._own not in roll.adverts:
            raise ForgedError(Step.SHARE, "expected this partner's own keys on the roll, got none", COORDINATOR)
        self.heads = {advert.sender: Standing.decode(advert.ledger) for advert in roll.adverts}
        seen = {advert.sender: seen_of(self.names, advert.seen, self.name) for advert in roll.adverts}
        self.told = {peer: one for peer, one in seen.items() if one != NOWHERE}
        self._roll_context = roll_context(self.context, roll.adverts)
        cipher, mask = AgreementKey(self._cipher_secret), AgreementKey(self._mask_secret)
        self._cipher_raw = {advert.sender: cipher.agree(advert.cipher_key) for advert in roll.adverts}
        self._mask_raw = {
            advert.sender: mask.agree(advert.mask_key) for advert in roll.adverts if advert.sender != self.name
        }
        count = len(self.names)
        of_self = split(self._self_secret, self.threshold, count, self._source)
        of_key = split(self._mask_secret, self.threshold, count, self._source)
        self._cipher_secret = self._mask_secret = b""
        sealed = tuple(self._seal(holder, of_self, of_key) for holder in self._cipher_raw)
        unsigned = Shares(sender=self.name, context=self._roll_context, shares=sealed)
        self.step = Step.MASKED
        return replace(unsigned, signature=signed(unsigned, self._identity, self._roll_context)).encode()

    def receive(self, data: bytes) -> _Received:
        """Everybody's shares for this partner. All that is left to do with these keys is in the result."""
        delivery = from_coordinator(Delivery, data, self._pins, self._roll_context, Step.MASKED)
        dealers = tuple(entry.peer for entry in delivery.shares)
        in_order(dealers, tuple(self._cipher_raw), Step.MASKED, COORDINATOR)
        if delivery.recipient != self.name or self.name not in dealers:
            raise ForgedError(Step.MASKED, "expected this partner's own delivery, got another's", COORDINATOR)
        enough(len(dealers), self.threshold, Step.MASKED)
        shares = {entry.peer: self._unseal(entry) for entry in delivery.shares}
        raw = {peer: self._mask_raw[peer] for peer in dealers if peer != self.name}
        received = _Received(dealers, dealers_context(self._roll_context, dealers), shares, raw, self._self_secret)
        self._self_secret = b""
        self._cipher_raw, self._mask_raw = {}, {}
        self.step = Step.CONSISTENCY
        return received

    def _seal(self, holder: str, of_self: tuple[bytes, ...], of_key: tuple[bytes, ...]) -> Sealed:
        at = self.names.index(holder)
        mine, key = of_self[at], of_key[at]
        commitments = (
            commit_share(self._roll_context, self.name, holder, SELF, mine),
            commit_share(self._roll_context, self.name, holder, KEY, key),
        )
        secret = self._cipher_key(self.name, holder, self._cipher_raw[holder])
        associated = frame(self._roll_context, self.name.encode(), holder.encode(), *commitments)
        return Sealed(holder, seal(secret, mine + key, associated), *commitments)

    def _unseal(self, entry: Sealed) -> tuple[bytes, bytes]:
        commitments = (entry.self_commitment, entry.key_commitment)
        secret = self._cipher_key(entry.peer, self.name, self._cipher_raw[entry.peer])
        associated = frame(self._roll_context, entry.peer.encode(), self.name.encode(), *commitments)
        try:
            plain = unseal(secret, entry.ciphertext, associated)
        except UntrustedError as error:
            raise ForgedError(Step.MASKED, str(error), entry.peer) from error
        mine, key = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        for kind, share, commitment in zip((SELF, KEY), (mine, key), commitments, strict=True):
            if commit_share(self._roll_context, entry.peer, self.name, kind, share) != commitment:
                raise ForgedError(
                    Step.MASKED, "expected the share that its dealer committed to, got another", entry.peer
                )
        return mine, key

    def _cipher_key(self, dealer: str, holder: str, raw: bytes) -> bytes:
        return derive(raw, salt=self._roll_context, info=pair_info(b"share", dealer, holder))
