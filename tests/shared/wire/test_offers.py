"""Offers, their answers and rosters cross Flower whole, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from tests.enrolled import public_catalogue
from tests.people import vocabulary

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.wire import Description, WireError
from silhouette_shared.wire.offers import (
    OfferAnswer,
    OfferRequest,
    PublicCatalogue,
    Refusal,
    RosterHeld,
    RosterNotice,
    model_digest,
)
from silhouette_shared.wire.rounds import vocabulary_digest

REQUEST = OfferRequest(b"offer", b"roster", public_catalogue())
REFUSAL = Refusal("east", "hours", "expected a time", 3, {"now": "12:00", "allowed": 2, "asked": 2.5})
DESCRIPTION = Description(run="r", partner="east", people=10, plan_digest="p", layout_digest="l")


def settings(records: RecordDict) -> ConfigRecord:
    found = records["silhouette"]
    assert isinstance(found, ConfigRecord)
    return found


def test_what_was_sent_is_read_back() -> None:
    found = OfferRequest.decode(REQUEST.encode())
    assert (found.offer, found.roster) == (b"offer", b"roster")
    assert found.catalogue.digest == REQUEST.catalogue.digest
    for content in (REFUSAL, DESCRIPTION):
        assert OfferAnswer.decode(OfferAnswer(content).encode()).content == content
    assert RosterNotice.decode(RosterNotice(b"roster").encode()) == RosterNotice(b"roster")
    assert RosterHeld.decode(RosterHeld("east", 4, "no").encode()) == RosterHeld("east", 4, "no")


def test_a_catalogue_gives_the_vocabulary_that_its_arrays_are() -> None:
    assert vocabulary_digest(OfferRequest.decode(REQUEST.encode()).catalogue.vocabulary()) == vocabulary_digest(
        vocabulary()
    )


def test_a_catalogue_without_categories_and_content_travels_too() -> None:
    bare = PublicCatalogue(
        Catalogue(
            items=("1", "2"),
            titles=("", ""),
            categories=(),
            category_matrix=np.zeros((2, 0), np.float32),
            texts=("", ""),
            content=np.zeros((2, 0), np.float32),
        ),
        {},
    )
    assert OfferRequest.decode(replace(REQUEST, catalogue=bare).encode()).catalogue.digest == bare.digest


def test_a_digest_changes_with_every_part_of_the_catalogue() -> None:
    held = public_catalogue()
    matrix = held.catalogue.category_matrix.copy()
    matrix[0] = 1 - matrix[0]
    others = [
        replace(held, attributes={**held.attributes, "age": ("young", "old", "middle")}),
        replace(held, attributes=dict(list(held.attributes.items())[::-1])),
        replace(held, catalogue=replace(held.catalogue, category_matrix=matrix)),
        replace(held, catalogue=replace(held.catalogue, items=("other", *held.catalogue.items[1:]))),
    ]
    assert len({held.digest, *(one.digest for one in others)}) == 5


@pytest.mark.parametrize(
    "words",
    [
        {},
        [],
        {"items": 1},
        {"more": []},
        {"items": ["i1"] * 20},
        {"titles": ["t"]},
        {"categories": ["b", "a", "c"]},
        {"attributes": [["gender", []]]},
        {"attributes": [["a", ["x"]], ["a", ["y"]]]},
        {"attributes": [[1, ["x"]]]},
        {"texts": [1] * 20},
    ],
    ids=range(11),
)
def test_words_of_another_form_are_refused(words: Any) -> None:
    records = REQUEST.encode()
    honest = json.loads(bytes(settings(records)["words"]))  # type: ignore[arg-type]
    changed = {**honest, **words} if isinstance(words, dict) and words else words
    settings(records)["words"] = json.dumps(changed).encode()
    with pytest.raises(WireError, match="expected a whole public catalogue"):
        OfferRequest.decode(records)


def test_words_that_are_none_are_refused() -> None:
    for data in (b"", b"\xff", b"[" * 100_000):
        records = REQUEST.encode()
        settings(records)["words"] = data
        with pytest.raises(WireError):
            OfferRequest.decode(records)


@pytest.mark.parametrize("figures", ["", "[]", '{"a": []}', '{"a": null}', json.dumps({str(n): n for n in range(51)})])
def test_figures_that_are_none_are_refused(figures: str) -> None:
    records = OfferAnswer(REFUSAL).encode()
    settings(records)["figures"] = figures
    with pytest.raises(WireError, match="figures of a refusal"):
        OfferAnswer.decode(records)


def test_an_answer_that_is_neither_is_refused() -> None:
    records = OfferAnswer(REFUSAL).encode()
    settings(records)["batch"] = 7
    with pytest.raises(WireError, match="expected the fields"):
        OfferAnswer.decode(records)


def test_a_models_digest_is_of_its_float32_bytes() -> None:
    model = np.arange(3, dtype=np.float32)
    assert model_digest(model) == model_digest(model.astype(np.float64)) != model_digest(model + 1)
