"""The messages of a round, and the chain of contexts that ties each to everything before it.

Every signature covers a label, a context and the message. The context of a step is a hash over the contexts and the
public messages of the steps before, so that two partners who were shown different things cannot produce signatures,
masks or ciphertexts that fit together:

    manifest -> keys -> roll -> dealers -> masks (manifest and dealers) -> survivors

`keys` is the manifest itself in the plain form; for keys sent ahead of their round it is what was known when they were
made (`ahead_context`), and the manifest comes in again with the masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.aborts import COORDINATOR
from silhouette_shared.secagg.encoding import SECTION_LIMIT, Layout, Section
from silhouette_shared.secagg.framing import (
    DIGEST,
    PARTNER_LIMIT,
    PUBLIC_KEY,
    SIGNATURE,
    Beside,
    Fixed,
    Many,
    Message,
    Number,
    Record,
    Text,
    frame,
    wire,
)
from silhouette_shared.secagg.keys import TAG_BYTES, Identity, digest, verify
from silhouette_shared.secagg.sharing import SHARE_BYTES

PARTNER_MINIMUM = 3
NOTHING = bytes(32)
"""A digest field that refers to nothing."""

SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
SELF, KEY = 1, 2
"""What an opened share or secret is of: the self-mask of a survivor, the mask key of a dropped partner."""


@dataclass(frozen=True)
class Pins:
    """Whom somebody trusts to be who: the public keys that the consortium's authority vouches for.

    Args:
        coordinator: The coordinator's Ed25519 public key.
        partners: Name to Ed25519 public key, 3 to 50 partners.

    Raises:
        UsageError: For fewer than three partners (with two, the sum shows each the other's), more than 50, a key or
            name that cannot be one, or one key for two parties.
    """

    coordinator: bytes
    partners: Mapping[str, bytes]

    def __post_init__(self) -> None:
        """Refuse what could not be told apart."""
        if not PARTNER_MINIMUM <= len(self.partners) <= PARTNER_LIMIT:
            raise UsageError(
                f"expected {PARTNER_MINIMUM} to {PARTNER_LIMIT} partners, got {len(self.partners)}; "
                "with fewer than three a sum shows a partner the other one's share"
            )
        keys = [self.coordinator, *self.partners.values()]
        if len(set(keys)) != len(keys):
            raise UsageError("expected a different key for every partner and the coordinator, got one twice; check")
        for key in keys:
            PUBLIC_KEY.encode(key)
        for name in self.partners:
            Text().encode(name)
        if COORDINATOR in self.partners:
            raise UsageError(f"expected partners not named {COORDINATOR!r}, got one; rename it")

    @property
    def names(self) -> tuple[str, ...]:
        """All partners, sorted: the order of every roster."""
        return tuple(sorted(self.partners))


@dataclass(frozen=True)
class Terms:
    """What a round is about, as far as coordinator and partner know it independently of each other.

    Args:
        purpose: What the sum is for, for example `training` or `popularity`.
        layout: What the vector holds.
        model: SHA-256 of the global model's bytes, 32 bytes.
        catalogue: SHA-256 of the catalogue and its public features.
        privacy: SHA-256 of the privacy terms.
    """

    purpose: str
    layout: Layout
    model: bytes
    catalogue: bytes
    privacy: bytes


@dataclass(frozen=True)
class Member(Record):
    """A partner on the roster."""

    name: str = wire(Text())
    identity: bytes = wire(PUBLIC_KEY)


@dataclass(frozen=True)
class Manifest(Message):
    """What the round is: everything that all partners must agree on before they send anything."""

    KIND: ClassVar[int] = 1
    LABEL: ClassVar[bytes] = b"manifest"
    run: str = wire(Text())
    round: int = wire(Number())
    purpose: str = wire(Text())
    roster: tuple[Member, ...] = wire(Many(Member))
    threshold: int = wire(Number())
    sections: tuple[Section, ...] = wire(Many(Section, SECTION_LIMIT))
    model: bytes = wire(DIGEST)
    catalogue: bytes = wire(DIGEST)
    privacy: bytes = wire(DIGEST)
    previous: bytes = wire(DIGEST)
    ahead: bytes = wire(DIGEST)
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)

    @property
    def names(self) -> tuple[str, ...]:
        """The roster's names in its order."""
        return tuple(member.name for member in self.roster)


@dataclass(frozen=True)
class Advertise(Message):
    """A partner's keys for one round, and where its ledger stands."""

    KIND: ClassVar[int] = 2
    LABEL: ClassVar[bytes] = b"advertise"
    sender: str = wire(Text())
    context: bytes = wire(DIGEST)
    cipher_key: bytes = wire(PUBLIC_KEY)
    mask_key: bytes = wire(PUBLIC_KEY)
    commitment: bytes = wire(DIGEST)
    ledger_head: bytes = wire(DIGEST)
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Roll(Message):
    """All keys, to everybody."""

    KIND: ClassVar[int] = 3
    LABEL: ClassVar[bytes] = b"roll"
    context: bytes = wire(DIGEST)
    adverts: tuple[Advertise, ...] = wire(Many(Advertise))
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Sealed(Record):
    """One holder's share of both secrets of one dealer, encrypted, and a commitment to each."""

    peer: str = wire(Text())
    ciphertext: bytes = wire(Fixed(SEALED_BYTES))
    self_commitment: bytes = wire(DIGEST)
    key_commitment: bytes = wire(DIGEST)


@dataclass(frozen=True)
class Shares(Message):
    """A dealer's shares for everybody on the roll, itself included; `peer` is the holder."""

    KIND: ClassVar[int] = 4
    LABEL: ClassVar[bytes] = b"shares"
    sender: str = wire(Text())
    context: bytes = wire(DIGEST)
    shares: tuple[Sealed, ...] = wire(Many(Sealed))
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Delivery(Message):
    """All shares for one holder; `peer` is the dealer."""

    KIND: ClassVar[int] = 5
    LABEL: ClassVar[bytes] = b"delivery"
    recipient: str = wire(Text())
    context: bytes = wire(DIGEST)
    shares: tuple[Sealed, ...] = wire(Many(Sealed))
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Masked(Message):
    """A partner's masked vector, by its digest; the words travel beside the message."""

    KIND: ClassVar[int] = 6
    LABEL: ClassVar[bytes] = b"masked"
    sender: str = wire(Text())
    context: bytes = wire(DIGEST)
    digest: bytes = wire(DIGEST)
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)
    vector: Any = field(default=None, compare=False, repr=False, metadata={"wire": Beside()})


@dataclass(frozen=True)
class Survivors(Message):
    """Whose vectors are in the sum, each with its signed digest."""

    KIND: ClassVar[int] = 7
    LABEL: ClassVar[bytes] = b"survivors"
    context: bytes = wire(DIGEST)
    masked: tuple[Masked, ...] = wire(Many(Masked))
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Agreement(Message):
    """A partner's one signature in this round on one set of survivors, which the context holds."""

    KIND: ClassVar[int] = 8
    LABEL: ClassVar[bytes] = b"agreement"
    sender: str = wire(Text())
    context: bytes = wire(DIGEST)
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Quorum(Message):
    """Enough signatures on the same set."""

    KIND: ClassVar[int] = 9
    LABEL: ClassVar[bytes] = b"quorum"
    context: bytes = wire(DIGEST)
    agreements: tuple[Agreement, ...] = wire(Many(Agreement))
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Opened(Record):
    """One share in clear, of a survivor's self-mask or a dropped partner's mask key, never of both."""

    dealer: str = wire(Text())
    kind: int = wire(Number())
    share: bytes = wire(Fixed(SHARE_BYTES))


@dataclass(frozen=True)
class Unmask(Message):
    """A partner's shares for the one set that it signed."""

    KIND: ClassVar[int] = 10
    LABEL: ClassVar[bytes] = b"unmask"
    sender: str = wire(Text())
    context: bytes = wire(DIGEST)
    shares: tuple[Opened, ...] = wire(Many(Opened))
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


@dataclass(frozen=True)
class Secret(Record):
    """A reconstructed secret: the self-mask of a survivor or the mask key of a dropped partner."""

    owner: str = wire(Text())
    kind: int = wire(Number())
    value: bytes = wire(DIGEST)


@dataclass(frozen=True)
class Transcript(Message):
    """The public record of a completed round, signed by the coordinator. The owners of the secrets are its dealers."""

    KIND: ClassVar[int] = 11
    LABEL: ClassVar[bytes] = b"transcript"
    manifest: tuple[Manifest, ...] = wire(Many(Manifest, 1))
    adverts: tuple[Advertise, ...] = wire(Many(Advertise))
    masked: tuple[Masked, ...] = wire(Many(Masked))
    agreements: tuple[Agreement, ...] = wire(Many(Agreement))
    secrets: tuple[Secret, ...] = wire(Many(Secret))
    sum_digest: bytes = wire(DIGEST)
    signature: bytes = wire(SIGNATURE, default=NOTHING * 2)


MESSAGES: tuple[type[Message], ...] = (
    Manifest,
    Advertise,
    Roll,
    Shares,
    Delivery,
    Masked,
    Survivors,
    Agreement,
    Quorum,
    Unmask,
    Transcript,
)
"""Every message there is."""


def genesis(run: str) -> bytes:
    """What stands for the previous transcript in the first round of a run."""
    return digest(b"genesis", run.encode())


def manifest_context(manifest: Manifest) -> bytes:
    """The manifest's digest, without its signature."""
    return digest(b"manifest", manifest.body())


def manifest_signing_context(coordinator: bytes) -> bytes:
    """What the manifest's own signature belongs to: it is the first of its round, so only to its signer."""
    return digest(b"coordinator", coordinator)


def ahead_context(last: Manifest) -> bytes:
    """What keys for the round after `last` belong to while that round has no manifest yet."""
    roster = frame(*(frame(member.name.encode(), member.identity) for member in last.roster))
    numbers = (last.round + 1).to_bytes(8, "big") + last.threshold.to_bytes(8, "big")
    return digest(b"ahead", last.run.encode(), numbers, roster, manifest_context(last))


def roll_context(keys: bytes, adverts: Iterable[Advertise]) -> bytes:
    """The keys' context and all advertised keys, in roster order."""
    return digest(b"roll", keys, *(advert.body() for advert in adverts))


def dealers_context(roll: bytes, dealers: Iterable[str]) -> bytes:
    """The roll's context and who dealt shares, in roster order."""
    return digest(b"dealers", roll, *(name.encode() for name in dealers))


def masks_context(manifest: bytes, dealers: bytes) -> bytes:
    """The manifest and the dealers: what masks are derived under."""
    return digest(b"masks", manifest, dealers)


def survivors_context(masks: bytes, masked: Iterable[Masked]) -> bytes:
    """The masks' context and whose vector, with which digest, is in the sum, in roster order."""
    return digest(b"survivors", masks, *(frame(one.sender.encode(), one.digest) for one in masked))


def transcript_context(survivors: bytes) -> bytes:
    """What the coordinator's signature of the transcript belongs to."""
    return digest(b"transcript", survivors)


def transcript_digest(transcript: Transcript) -> bytes:
    """What the next round's manifest names as its previous transcript."""
    return digest(b"transcript digest", transcript.body())


def pair_info(label: bytes, one: str, other: str) -> bytes:
    """HKDF info for a key of an ordered pair."""
    return frame(label, one.encode(), other.encode())


def commit_self(context: bytes, owner: str, value: bytes) -> bytes:
    """A partner's commitment to its self-mask secret."""
    return digest(b"self", context, owner.encode(), value)


def commit_share(context: bytes, dealer: str, holder: str, kind: int, share: bytes) -> bytes:
    """A dealer's commitment to one share: a share is uniform over 521 bits, so this hides it."""
    return digest(b"share", context, dealer.encode(), holder.encode(), bytes([kind]), share)


def signed(message: Message, identity: Identity, context: bytes) -> bytes:
    """The signature for a message in a context; put it in with `dataclasses.replace`."""
    return identity.sign(message.LABEL, context, message.body())


def check_signature(message: Message, public: bytes, context: bytes) -> None:
    """UntrustedError unless `public` signed this message in this context."""
    verify(public, message.signature, message.LABEL, context, message.body())
