"""What partners, the coordinator and whoever reads a transcript check in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.aborts import COORDINATOR, ForgedError, NotAgreedError, Step, TooFewError
from silhouette_shared.secagg.encoding import Layout
from silhouette_shared.secagg.framing import FramingError, Message
from silhouette_shared.secagg.keys import AgreementKey, UntrustedError, derive
from silhouette_shared.secagg.masking import Words, add_masks
from silhouette_shared.secagg.messages import (
    KEY,
    SELF,
    Advertise,
    Agreement,
    Manifest,
    Masked,
    Pins,
    Secret,
    check_signature,
    commit_self,
    manifest_signing_context,
    pair_info,
)
from silhouette_shared.thresholds import least_threshold

M = TypeVar("M", bound=Message)

# Agreeing with any key tells whether the other one is of low order; the result is thrown away.
_PROBE = AgreementKey(bytes(range(32)))


def read(message: type[M], data: bytes, step: Step, whose: str) -> M:
    """Decode a message, or say whose it is that cannot be decoded."""
    try:
        return message.decode(data)
    except FramingError as error:
        raise ForgedError(step, str(error), whose) from error


def trust(message: Message, public: bytes, context: bytes, step: Step, whose: str) -> None:
    """Check a signature, or say whose it is that does not fit."""
    try:
        check_signature(message, public, context)
    except UntrustedError as error:
        raise ForgedError(step, str(error), whose) from error


def from_coordinator(message: type[M], data: bytes, pins: Pins, context: bytes, step: Step) -> M:
    """Decode and check a message of the coordinator that belongs to `context`."""
    found = read(message, data, step, COORDINATOR)
    same_context(getattr(found, "context"), context, step, COORDINATOR)  # noqa: B009 - every such message has one
    trust(found, pins.coordinator, context, step, COORDINATOR)
    return found


def same_context(found: bytes, context: bytes, step: Step, whose: str) -> None:
    """Refuse a message of another round, run or view of this one."""
    if found != context:
        raise ForgedError(step, "expected a message of this round as seen here, got one of another; ask why", whose)


def in_order(found: Sequence[str], names: Sequence[str], step: Step, whose: str) -> None:
    """Refuse names that are not on the list, come twice or in another order than the list's."""
    if list(found) != [name for name in names if name in set(found)]:
        raise ForgedError(step, "expected partners of the roster, each once and in its order, got others", whose)


def enough(count: int, threshold: int, step: Step) -> None:
    """Refuse fewer than the threshold."""
    if count < threshold:
        raise TooFewError(step, f"expected at least {threshold} partners, got {count}; start another round")


def check_manifest(manifest: Manifest, pins: Pins, step: Step = Step.MANIFEST) -> None:
    """Refuse a manifest that the coordinator did not sign or that no partner may accept, whatever its terms.

    The roster is exactly the pinned one: a coordinator that chooses a part of it chooses the colluders' share.
    """
    trust(manifest, pins.coordinator, manifest_signing_context(pins.coordinator), step, COORDINATOR)
    roster = tuple((member.name, member.identity) for member in manifest.roster)
    if roster != tuple((name, pins.partners[name]) for name in pins.names):
        raise NotAgreedError(
            step,
            f"expected the {len(pins.names)} pinned partners with their pinned keys, sorted by name, got another "
            "roster; have the authority sign the change",
            COORDINATOR,
        )
    least, most = least_threshold(len(roster)), len(roster)
    if not least <= manifest.threshold <= most:
        raise NotAgreedError(
            step, f"expected a threshold from {least} to {most}, got {manifest.threshold}; correct it", COORDINATOR
        )
    try:
        Layout(manifest.sections).check_ring(len(roster))
    except UsageError as error:
        raise NotAgreedError(step, str(error), COORDINATOR) from error


def check_adverts(
    adverts: Sequence[Advertise], names: Sequence[str], pins: Pins, threshold: int, context: bytes
) -> None:
    """Every key is its partner's, for this round, sound, and nobody else's."""
    step = Step.ADVERTISE
    in_order([advert.sender for advert in adverts], names, step, COORDINATOR)
    for advert in adverts:
        same_context(advert.context, context, step, advert.sender)
        trust(advert, pins.partners[advert.sender], context, step, advert.sender)
    seen: set[bytes] = set()
    for advert in adverts:
        for key in (advert.cipher_key, advert.mask_key):
            if key in seen:
                raise ForgedError(step, "expected a key of its own, got one that is there already", advert.sender)
            seen.add(key)
            try:
                _PROBE.agree(key)
            except UntrustedError as error:
                raise ForgedError(step, str(error), advert.sender) from error
    enough(len(adverts), threshold, step)


def check_masked(masked: Sequence[Masked], dealers: Sequence[str], pins: Pins, threshold: int, context: bytes) -> None:
    """Every survivor has dealt its keys and signed the digest of its vector in this round."""
    step = Step.MASKED
    in_order([one.sender for one in masked], dealers, step, COORDINATOR)
    for one in masked:
        same_context(one.context, context, step, one.sender)
        trust(one, pins.partners[one.sender], context, step, one.sender)
    enough(len(masked), threshold, step)


def check_agreements(
    agreements: Sequence[Agreement], survivors: Sequence[str], pins: Pins, threshold: int, context: bytes
) -> None:
    """Enough survivors have signed this very set."""
    step = Step.CONSISTENCY
    in_order([one.sender for one in agreements], survivors, step, COORDINATOR)
    for one in agreements:
        same_context(one.context, context, step, one.sender)
        trust(one, pins.partners[one.sender], context, step, one.sender)
    enough(len(agreements), threshold, step)


def check_secret(secret: Secret, advert: Advertise, survivor: bool) -> None:
    """A reconstructed secret is the one its owner announced, and of the kind that may be known.

    Raises:
        ForgedError: Naming the owner.
    """
    wanted = SELF if survivor else KEY
    if secret.kind != wanted or secret.owner != advert.sender:
        raise ForgedError(Step.UNMASK, "expected the other kind of secret of this partner; refuse it", secret.owner)
    if survivor:
        right = commit_self(advert.context, secret.owner, secret.value) == advert.commitment
    else:
        right = AgreementKey(secret.value).public == advert.mask_key
    if not right:
        raise ForgedError(
            Step.UNMASK,
            "expected shares of the announced secret, got a secret that does not fit it; its owner dealt false shares",
            secret.owner,
        )


def pair_key(raw: bytes, context: bytes, names: Sequence[str], one: str, other: str) -> tuple[bytes, bool]:
    """The key of the mask between two partners, and whether `one` adds it (`other` then subtracts it)."""
    first = names.index(one) < names.index(other)
    lower, higher = (one, other) if first else (other, one)
    return derive(raw, salt=context, info=pair_info(b"mask", lower, higher)), first


def self_key(value: bytes, context: bytes, owner: str) -> bytes:
    """The key of a partner's own mask."""
    return derive(value, salt=context, info=pair_info(b"self", owner, owner))


def remove_masks(
    total: Words,
    names: Sequence[str],
    survivors: Sequence[str],
    adverts: Mapping[str, Advertise],
    secrets: Sequence[Secret],
    context: bytes,
) -> None:
    """Turn the sum of masked vectors into the sum of vectors, in place.

    Args:
        total: Sum of the survivors' masked vectors modulo 2**32.
        names: The roster.
        survivors: Whose vectors are in it.
        adverts: The keys of every dealer.
        secrets: One of every dealer, checked by `check_secret`.
        context: `masks_context`.
    """
    plus: list[bytes] = []
    minus: list[bytes] = []
    for secret in secrets:
        if secret.kind == SELF:
            minus.append(self_key(secret.value, context, secret.owner))
            continue
        dropped = AgreementKey(secret.value)
        for survivor in survivors:
            raw = dropped.agree(adverts[survivor].mask_key)
            key, added = pair_key(raw, context, names, survivor, secret.owner)
            (minus if added else plus).append(key)
    add_masks(total, plus, minus)
