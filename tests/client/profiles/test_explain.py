"""Explanations say what happens without an event, and whether they do is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import ITEMS, LENGTH, encoder, generator, histories

from silhouette_client.profiles import explain
from silhouette_client.profiles.explain import (
    attention_over_events,
    explain_profile,
    explain_recommendation,
    faithfulness,
)
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import at_last
from silhouette_shared.model.histories import Histories


def without(people: Histories, person: int, position: int) -> Histories:
    """One person's history by hand, an event left out."""
    start, end = people.offsets[person : person + 2].tolist()
    keep = [index for index in range(start, end) if index != start + position]
    return replace(
        people,
        items=people.items[keep],
        behaviours=people.behaviours[keep],
        values=people.values[keep],
        timestamps=people.timestamps[keep],
        offsets=torch.tensor([0, len(keep)]),
        attributes=people.attributes[person : person + 1],
    )


@pytest.mark.parametrize("person", [1, 3, 6])  # person 3 has more events than the window
def test_a_change_is_the_log_chance_less_that_of_a_history_without_the_event(person: int) -> None:
    people, model = histories(), encoder(scale=10.0)
    said = explain_recommendation(model, people, person, 7)
    assert said.item == 7
    assert len(said.events) == min(LENGTH, int(people.lengths[person]))
    for event in said.events:
        batch = without(people, person, event.position).batch(torch.tensor([0]), LENGTH)
        with torch.no_grad():
            state = at_last(model(batch).state, batch.lengths)
            chance = float(model.item_scores(state).log_softmax(-1)[0, 7])
        assert said.score is not None
        assert event.change == pytest.approx(said.score - chance, abs=1e-4)
        assert int(people.items[int(people.offsets[person]) + event.position]) == event.item
    changes = [event.change for event in said.events]
    assert changes == sorted(changes, reverse=True)  # type: ignore[type-var]


def test_a_profiles_changes_are_distances_and_its_weights_the_fusions() -> None:
    people, model = histories(), encoder(scale=10.0)
    said = explain_profile(model, people, 1, candidates=4)
    batch = people.batch(torch.tensor([1]), LENGTH)
    with torch.no_grad():
        profile = model(batch)
    assert said.item is None
    assert list(said.weights) == list(model.dimension_names)
    assert list(said.weights.values()) == pytest.approx(at_last(profile.weights, batch.lengths)[0].tolist())
    assert len(said.events) == 4
    for event in said.events:
        other = without(people, 1, event.position).batch(torch.tensor([0]), LENGTH)
        with torch.no_grad():
            vector = at_last(model(other).vector, other.lengths)
        expected = 1 - torch.cosine_similarity(vector, at_last(profile.vector, batch.lengths))
        assert event.change == pytest.approx(float(expected), abs=1e-5)


def test_attention_is_a_share_of_the_persons_own_events() -> None:
    people, model = histories(), encoder(scale=10.0, blocks=2)
    batch = people.batch(torch.arange(7), LENGTH)
    found = attention_over_events(model, batch)
    assert torch.allclose(found.sum(1), torch.ones(7), atol=1e-5)
    assert (found[~batch.mask] == 0).all()
    assert (found[batch.mask] > 0).all()
    assert not model.blocks[0].get_submodule("query_key_value")._forward_hooks


def test_the_only_event_of_a_person_is_named_without_a_change() -> None:
    (event,) = explain_recommendation(encoder(), histories(), 2, 1).events
    assert (event.position, event.change) == (0, None)
    assert event.attention == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("person", "item", "message"),
    [
        (7, 1, "expected a person from 0 to 6, got 7"),
        (0, 0, f"expected an item of the catalogue, numbered 1 to {ITEMS}, got 0; look it up there"),
        (0, ITEMS + 1, f"expected an item of the catalogue, numbered 1 to {ITEMS}, got {ITEMS + 1}"),
    ],
)
def test_somebody_or_something_unknown_is_refused(person: int, item: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        explain_recommendation(encoder(), histories(), person, item)


def test_explanations_are_found_faithful_and_upside_down_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    people = histories([8] * 40)
    model = encoder(scale=10.0)
    found = faithfulness(model, people, range(40), generator=generator("faith"), named=2)
    assert found.people == 40
    assert found.share.mean > 0.6
    assert found.moved_by_named > found.moved_by_random
    honest = explain.explain_recommendation

    def upside_down(*args: object, **more: object) -> explain.Explanation:
        said = honest(*args, **more)  # type: ignore[arg-type]
        return replace(said, events=tuple(sorted(said.events, key=lambda event: abs(event.change or 0.0))))

    monkeypatch.setattr(explain, "explain_recommendation", upside_down)
    wrong = faithfulness(model, people, range(40), generator=generator("faith"), named=2)
    assert wrong.share.mean < 0.4


def test_who_has_too_few_events_is_counted_apart_and_alone_refused() -> None:
    model = encoder(scale=10.0)
    found = faithfulness(model, histories(), [0, 1, 2, 3], generator=generator("faith"), named=2)
    assert (found.people, found.too_short) == (2, 2)
    with pytest.raises(UsageError, match="expected somebody with more than 4 events, got none of 2 people"):
        faithfulness(model, histories(), [0, 2], generator=generator("faith"), named=2)


def test_a_million_events_of_one_person_are_explained_from_the_window_alone() -> None:
    people = histories([10**6])
    said = explain_recommendation(encoder(scale=10.0), people, 0, 7)
    assert sorted(event.position for event in said.events) == list(range(10**6 - LENGTH, 10**6))
    tail = people.of_events(torch.arange(10**6 - 3 * LENGTH, 10**6), torch.tensor([0]), torch.tensor([3 * LENGTH]))
    again = explain_recommendation(encoder(scale=10.0), tail, 0, 7)
    assert [event.change for event in again.events] == [event.change for event in said.events]
