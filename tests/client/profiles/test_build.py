"""A profile says what the encoder says about one person, and recommends only what is new to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import ITEMS, LENGTH, LENGTHS, encoder, histories, only, vocabulary

from silhouette_client.profiles import build
from silhouette_client.profiles.build import ProfileBatch, build_profiles, seen_items
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories


def profiles(people: Histories | None = None, model: ProfileEncoder | None = None, *, cutoff: int = 5) -> ProfileBatch:
    (found,) = build_profiles(
        encoder(scale=10.0) if model is None else model, histories() if people is None else people, cutoff=cutoff
    )
    return found


def test_nobody_is_recommended_what_they_have_seen_also_before_the_window() -> None:
    people = histories()
    assert max(LENGTHS) > LENGTH
    found = profiles(people)
    for row, recommended in enumerate(found.recommended.tolist()):
        own = set(people.items[int(people.offsets[row]) : int(people.offsets[row + 1])].tolist())
        assert not own & set(recommended)
        assert len(set(recommended)) == 5
        assert set(recommended) <= set(range(1, ITEMS + 1))
        scores = found.scores[row].clone()
        scores[list(own)] = -torch.inf
        assert scores[recommended].tolist() == scores.topk(5).values.tolist()


def test_seen_items_are_the_whole_history_and_no_ones_elses() -> None:
    people = histories()
    seen = seen_items(people, torch.tensor([6, 3]))
    for row, person in enumerate((6, 3)):
        own = people.items[int(people.offsets[person]) : int(people.offsets[person + 1])].tolist()
        assert seen[row, : len(own)].tolist() == own
        assert not seen[row, len(own) :].any()


def test_a_profile_is_what_the_encoder_says_after_the_last_event() -> None:
    people, model = histories(), encoder(scale=10.0)
    found = profiles(people, model)
    for row in range(len(people)):
        with torch.no_grad():
            said = model(only(people, [row]).batch(torch.tensor([0]), LENGTH))
        assert torch.allclose(found.vectors[row], said.vector[0, -1], atol=1e-5)
        assert torch.allclose(found.weights[row], said.weights[0, -1], atol=1e-5)
        assert torch.allclose(found.scores[row], model.item_scores(said.state[0, -1]), atol=1e-4)


def test_guesses_do_not_depend_on_what_was_declared_and_profiles_do() -> None:
    people = histories()
    other = replace(people, attributes=torch.where(people.attributes == 1, 2, 1))
    one, two = profiles(people), profiles(other)
    for mine, theirs in zip(one.attributes, two.attributes, strict=True):
        assert torch.equal(mine, theirs)
        assert torch.allclose(mine.sum(1), torch.ones(len(people)))
    assert not torch.equal(one.vectors, two.vectors)


def test_tags_are_the_categories_that_somebody_has_more_of_than_the_catalogue() -> None:
    # Item i has category (i - 1) mod 3; 20 items give the shares 7/20, 7/20 and 6/20.
    people = histories([6, 3])
    people = replace(people, items=torch.tensor([1, 4, 7, 1, 2, 2, 1, 2, 3]))
    assert profiles(people).tags.tolist() == [[0, -1, -1], [2, -1, -1]]


@pytest.mark.parametrize("categories", [0, 1, 2, 3, 5])
def test_there_are_always_three_places_for_tags(categories: int) -> None:
    words = vocabulary(categories=categories)
    found = profiles(model=encoder(words))
    assert found.tags.shape == (len(LENGTHS), 3)
    assert int(found.tags.min()) >= -1
    assert int(found.tags.max()) < max(categories, 1)


def test_people_come_in_parts_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = profiles()
    monkeypatch.setattr(build, "PEOPLE_AT_ONCE", 3)
    parts = list(build_profiles(encoder(scale=10.0), histories(), cutoff=5))
    assert torch.cat([part.people for part in parts]).tolist() == list(range(len(LENGTHS)))
    assert torch.equal(torch.cat([part.recommended for part in parts]), whole.recommended)
    assert torch.allclose(torch.cat([part.vectors for part in parts]), whole.vectors, atol=1e-5)


def test_nothing_is_dropped_and_nothing_kept_for_a_gradient() -> None:
    noisy = encoder(scale=10.0, dropout=0.5).train()
    found = profiles(model=noisy)
    assert torch.equal(found.vectors, profiles().vectors)
    assert not found.vectors.requires_grad
