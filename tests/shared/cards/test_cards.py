"""Cards and aliases as a node checks them: alone, with a key."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silhouette_shared.cards import (
    Alias,
    Card,
    OtherModelError,
    Spent,
    TwoAliasesError,
    accept_alias,
    accept_promoted,
    check_privacy,
    pack_model,
    unpack_model,
)
from silhouette_shared.cards.documents import card_digest
from silhouette_shared.enrolment.refusals import ForgedDocumentError, MalformedError
from silhouette_shared.errors import IntegrityError
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.accounting import epsilon
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.statement import Release
from silhouette_shared.secagg.keys import Identity

OURS, OTHER = Identity(bytes(range(32))), Identity(bytes(32))
KEYS = [OURS.public]
LAYOUT = Layout(names=("table", "weight"), shapes=((4, 3), (3,)))
STEP = SampledGaussian(noise_multiplier=1.1, sampling_rate=0.1, steps=20, clip_norm=1.0)


def card_of(content: bytes, **changes: Any) -> Card:
    values: dict[str, Any] = {
        "run": "run-1",
        "round": 3,
        "plan": "plan",
        "plan_digest": "a" * 64,
        "layout": LAYOUT.digest,
        "parameters": 15,
        "model": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "metrics": {"update_norm": 0.25},
        "issued": 1_700_000_000,
    }
    return Card(**{**values, **changes})


def alias_of(card: Card, signed: bytes, number: int = 1) -> Alias:
    return Alias(
        name="promoted",
        number=number,
        run=card.run,
        round=card.round,
        card=card_digest(signed),
        model=card.model,
        reason="promotion",
        issued=1_700_000_100,
    )


MODEL = pack_model(torch.arange(17.0), LAYOUT)
CARD = card_of(MODEL)
SIGNED = CARD.encode(OURS)
ALIAS = alias_of(CARD, SIGNED).encode(OURS)


def test_what_was_signed_is_read_back() -> None:
    assert Card.decode(SIGNED, KEYS) == CARD
    accepted = accept_promoted(ALIAS, SIGNED, MODEL, KEYS)
    assert (accepted.card, accepted.alias.number, accepted.model) == (CARD, 1, MODEL)


def test_another_signer_is_refused_and_a_former_key_believed() -> None:
    with pytest.raises(ForgedDocumentError, match="expected the signature of the key that is known here"):
        Card.decode(SIGNED, [OTHER.public])
    assert Card.decode(SIGNED, [OURS.public, OTHER.public]) == CARD
    with pytest.raises(ForgedDocumentError):
        accept_promoted(ALIAS, CARD.encode(OTHER), MODEL, KEYS)


def test_a_card_is_no_alias_and_an_alias_no_card() -> None:
    with pytest.raises(MalformedError):
        Alias.decode(SIGNED, KEYS)
    with pytest.raises(MalformedError):
        Card.decode(ALIAS, KEYS)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_every_flipped_bit_is_refused(part: int) -> None:
    draw, parts = random.Random(part), [ALIAS, SIGNED, MODEL]
    for _ in range(150):
        changed = bytearray(parts[part])
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        alias, card, model = (bytes(changed) if at == part else one for at, one in enumerate(parts))
        with pytest.raises(IntegrityError):
            accept_promoted(alias, card, model, KEYS)


def test_two_aliases_of_one_number_are_told_apart() -> None:
    other = card_of(MODEL, round=4)
    twin = alias_of(other, other.encode(OURS)).encode(OURS)
    with pytest.raises(TwoAliasesError, match="take neither"):
        accept_alias(twin, KEYS, known=ALIAS)
    assert accept_alias(ALIAS, KEYS, known=ALIAS).number == 1


def test_another_edition_of_the_card_is_not_the_promoted_one() -> None:
    later = CARD.next_edition(CARD.issued + 1, None, None).encode(OURS)
    with pytest.raises(OtherModelError, match="edition 2; ask for the promoted one"):
        accept_promoted(ALIAS, later, MODEL, KEYS)


@pytest.mark.parametrize(
    "change",
    [
        {"run": "../up"},
        {"round": 0},
        {"model": "xyz"},
        {"edition": 0},
        {"transcript": "short"},
        {"parameters": 0},
        {"metrics": {"update_norm": float("nan")}},
    ],
)
def test_a_card_that_says_what_cannot_be_is_not_made(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|finite"):
        card_of(MODEL, **change)


def test_an_unknown_key_in_a_signed_card_is_refused() -> None:
    from silhouette_shared.cards.documents import CARD as KIND
    from silhouette_shared.enrolment.signed import content_of, seal

    body = {**content_of(CARD), "people": 12}
    with pytest.raises(MalformedError, match="people"):
        Card.decode(seal(KIND, body, OURS), KEYS)


@given(st.integers(0, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_unpacking_undoes_packing_with_and_without_a_prior(prior: int, seed: int) -> None:
    vector = torch.randn(LAYOUT.size + prior, generator=torch.Generator().manual_seed(seed))
    assert unpack_model(pack_model(vector, LAYOUT), LAYOUT).equal(vector)


def test_a_model_of_another_layout_is_refused() -> None:
    other = Layout(names=("table", "bias"), shapes=((4, 3), (3,)))
    for content in (MODEL, b"", b"\x00" * 40):
        with pytest.raises(OtherModelError, match="expected the tensors of a model of this plan"):
            unpack_model(content, other)
    with pytest.raises(ValueError, match="expected a vector of at least 15"):
        pack_model(torch.zeros(14), LAYOUT)


# What a model cost


def spent(run: str = "run-1", before: Spent | None = None) -> Spent:
    earlier = () if before is None else before.releases
    return Spent.count(run, "local", 1e-5, 8.0, [Release("training", STEP)], earlier)


def test_epsilon_is_the_accountants_and_composes_over_runs() -> None:
    first = spent()
    assert first.epsilon == first.run_epsilon == epsilon(STEP, 1e-5)
    second = spent("run-2", before=first)
    assert second.run_epsilon == first.epsilon
    assert second.epsilon == pytest.approx(epsilon(STEP.after(40), 1e-5), rel=1e-3)
    assert [one.run for one in second.releases] == ["run-2", "run-1"]
    check_privacy(card_of(MODEL, run="run-2", spent=second))


def test_an_epsilon_that_does_not_follow_from_the_releases_is_noticed() -> None:
    flattering = replace(spent("run-1", before=spent("run-0")), epsilon=spent().epsilon)
    with pytest.raises(IntegrityError, match=r"expected the epsilon \d"):
        check_privacy(card_of(MODEL, spent=flattering))
    with pytest.raises(IntegrityError, match="expected what the run released, got nothing"):
        check_privacy(card_of(MODEL, run="another", spent=spent()))
    broken = replace(spent(), releases=(replace(spent().releases[0], sampling_rate=0.0),))
    with pytest.raises(IntegrityError, match="expected releases that can be counted"):
        check_privacy(card_of(MODEL, spent=broken))


def test_a_card_without_privacy_promises_nothing_and_passes() -> None:
    check_privacy(CARD)
