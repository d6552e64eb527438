"""What is checked before a model is taken: alone, with nothing but the coordinator's public key.

No network, no registry and no disk. A node keeps the last alias that it accepted and passes it in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from silhouette_shared.cards.documents import Alias, Card, card_digest
from silhouette_shared.cards.refusals import OlderAliasError, OtherModelError, TwoAliasesError
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.accounting import epsilon

_TOLERANCE = 1e-3  # another machine sums in another order


@dataclass(frozen=True)
class Accepted:
    """A model that passed: it is promoted, and its bytes are those that its card names."""

    alias: Alias
    card: Card
    model: bytes


def check_model(card: Card, model: bytes) -> None:
    """Refuse bytes that are not the card's; OtherModelError says so."""
    found = hashlib.sha256(model).hexdigest()
    if found != card.model:
        raise OtherModelError(
            f"{card.reference}: expected a model with the SHA-256 {card.model[:16]}, got {found[:16]}; it was damaged "
            "or changed: get it again"
        )


def check_privacy(card: Card) -> None:
    """Count the card's epsilon again from what it says was released.

    Raises:
        IntegrityError: If it does not follow from that.
    """
    spent = card.spent
    if spent is None:
        return
    if all(one.run != card.run for one in spent.releases):
        raise IntegrityError(f"{card.reference}: expected what the run released, got nothing; refuse the card")
    try:
        every = [(one.run, one.mechanism) for one in spent.releases]
        counted = {
            "run_epsilon": epsilon([mechanism for run, mechanism in every if run == card.run], spent.delta),
            "epsilon": epsilon([mechanism for _, mechanism in every], spent.delta),
        }
    except UsageError as error:
        raise IntegrityError(
            f"{card.reference}: expected releases that can be counted ({error}); refuse the card"
        ) from None
    for name, value in counted.items():
        written = getattr(spent, name)
        if abs(written - value) > _TOLERANCE * max(1.0, value):
            raise IntegrityError(
                f"{card.reference}: expected the {name} {value:.4f} that follows from its releases, got {written:.4f}; "
                "refuse the card"
            )


def accept_alias(data: bytes, keys: Sequence[bytes], known: bytes | None) -> Alias:
    """The alias in `data`, if it may take the place of the one that is known here.

    Args:
        data: Bytes from outside.
        keys: The coordinator's signing key, and those it had before.
        known: The last alias that was accepted here; None at the first.

    Raises:
        MalformedError, ForgedDocumentError: If it is no alias of this coordinator.
        OlderAliasError: If its number is lower.
        TwoAliasesError: If it has the same number and says something else.
    """
    found = Alias.decode(data, keys)
    if known is None:
        return found
    held = Alias.decode(known, keys)
    if found.number < held.number:
        raise OlderAliasError(
            f"expected the alias {held.name} number {held.number} or a later one, got {found.number}: that model is "
            "promoted no more; ask the coordinator for the newest, and why an old one was sent"
        )
    if found.number == held.number and found != held:
        raise TwoAliasesError(
            f"expected the alias {held.name} number {held.number} that is known here, got another of this number; "
            "compare with the other partners, and take neither"
        )
    return found


def accept_promoted(
    alias: bytes, card: bytes, model: bytes, keys: Sequence[bytes], known: bytes | None = None
) -> Accepted:
    """A promoted model, every check passed: what a node serves and starts from.

    Args:
        alias: The signed alias.
        card: The signed card that it names.
        model: The bytes that the card names.
        keys: The coordinator's signing key, and those it had before.
        known: The last alias that was accepted here.

    Raises:
        MalformedError, ForgedDocumentError, OlderAliasError, TwoAliasesError: As `accept_alias`.
        OtherModelError: If card or model are others.
    """
    chosen = accept_alias(alias, keys, known)
    found = accept_card(chosen, card, keys)
    check_model(found, model)
    return Accepted(chosen, found, model)


def accept_card(chosen: Alias, card: bytes, keys: Sequence[bytes]) -> Card:
    """The card that an alias names.

    Raises:
        MalformedError, ForgedDocumentError: If it is no card of this coordinator.
        OtherModelError: If it is another.
    """
    found = Card.decode(card, keys)
    if card_digest(card) != chosen.card or (found.run, found.round, found.model) != (
        chosen.run,
        chosen.round,
        chosen.model,
    ):
        raise OtherModelError(
            f"expected the card of {chosen.run}:{chosen.round} that is promoted, got the one of {found.reference} "
            f"edition {found.edition}; ask for the promoted one"
        )
    return found
