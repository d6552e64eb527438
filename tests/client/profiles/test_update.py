"""New events change a profile as if they had always been there; a history goes on with what the encoder expects."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from tests.people import ITEMS, LENGTH, LENGTHS, encoder, generator, histories, only

from silhouette_client.profiles.build import build_profiles
from silhouette_client.profiles.continuation import continue_histories
from silhouette_client.profiles.update import NewEvents, update_profile, with_events
from silhouette_shared.errors import UsageError
from silhouette_shared.model.histories import Histories
from silhouette_shared.schema import BEHAVIOURS


def last_events(people: Histories, person: int, count: int) -> NewEvents:
    end = int(people.offsets[person + 1])
    part = slice(end - count, end)
    return NewEvents(
        people=torch.full((count,), person),
        items=people.items[part],
        behaviours=people.behaviours[part],
        values=people.values[part],
        timestamps=people.timestamps[part],
        texts=None if people.texts is None else people.texts[part],
    )


@pytest.mark.parametrize("person", [1, 3])
@pytest.mark.parametrize("texts", [0, 3])
def test_histories_that_lost_their_last_events_get_them_back_and_are_what_they_were(person: int, texts: int) -> None:
    people = histories(texts=texts)
    new = last_events(people, person, 2)
    end = int(people.offsets[person + 1])
    keep = torch.tensor([index for index in range(len(people.items)) if index not in (end - 2, end - 1)])
    lengths = people.lengths.clone()
    lengths[person] -= 2
    before = people.of_events(keep, torch.arange(len(people)), lengths)
    after, profile = update_profile(encoder(scale=10.0), before, person, new)
    for field in fields(Histories):
        one, other = getattr(after, field.name), getattr(people, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name
    (whole,) = build_profiles(encoder(scale=10.0), only(people, [person]))
    assert profile.people.tolist() == [person]
    assert torch.equal(profile.vectors, whole.vectors)
    assert torch.equal(profile.recommended, whole.recommended)


def test_events_of_the_same_time_keep_their_order_and_go_after_those_that_were_there() -> None:
    people = replace(histories([2]), timestamps=torch.tensor([5, 9]), items=torch.tensor([1, 2]))
    new = NewEvents(
        people=torch.zeros(3, dtype=torch.int64),
        items=torch.tensor([3, 4, 5]),
        behaviours=torch.ones(3, dtype=torch.int64),
        values=torch.zeros(3, dtype=torch.int64),
        timestamps=torch.tensor([9, 9, 7]),
    )
    assert with_events(people, new, items=ITEMS).items.tolist() == [1, 5, 2, 3, 4]


REFUSALS = [
    ({"items": torch.tensor([ITEMS + 1])}, f"expected items of the catalogue, numbered 1 to {ITEMS}, got 1 events of"),
    ({"items": torch.tensor([0])}, "expected items of the catalogue"),
    ({"behaviours": torch.tensor([11])}, "expected behaviours out of view, .*, got 1 events with another"),
    (
        {"timestamps": torch.tensor([10**9])},
        "expected times up to now, got 1 events more than a day ahead",
    ),
    ({"people": torch.tensor([7])}, "expected people from 0 to 6, got 1 events of others"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_a_wrong_event_is_refused_whole(change: dict[str, torch.Tensor], message: str) -> None:
    people = histories()
    new = replace(last_events(people, 1, 1), **change)
    with pytest.raises(UsageError, match=message):
        with_events(people, new, items=ITEMS, now=10**8)


def test_somebody_elses_event_does_not_change_a_profile() -> None:
    people = histories()
    with pytest.raises(UsageError, match="expected new events of the one person whose profile is asked for"):
        update_profile(encoder(), people, 0, last_events(people, 1, 1))


def test_a_continuation_is_the_head_rolled_forward_one_event_at_a_time() -> None:
    people, model = histories(), encoder(scale=10.0, behaviour_head=True)
    found = continue_histories(model, people, 3, anchor=0.0)
    assert found.shape == (len(LENGTHS), 3)
    for person in (0, 3):
        own = only(people, [person])
        for step in range(3):
            (profile,) = build_profiles(model, own, cutoff=1)
            assert int(found[person, step]) == int(profile.recommended[0, 0])
            batch = own.batch(torch.tensor([0]), LENGTH)
            with torch.no_grad():
                state = model(batch).state[:, -1]
            times = own.timestamps
            known = times[: int(people.lengths[person])]
            new = NewEvents(
                people=torch.tensor([0]),
                items=found[person, step : step + 1],
                behaviours=model.behaviour_scores(state).argmax(1) + 1,
                values=torch.tensor([0]),
                timestamps=times[-1:] + known.diff().median(),
            )
            own = with_events(own, new, items=ITEMS)


def test_a_continuation_repeats_nothing_unless_it_may_and_draws_from_its_generator_alone() -> None:
    people, model = histories(), encoder(scale=10.0)
    fixed = continue_histories(model, people, 5)
    for person, row in enumerate(fixed.tolist()):
        own = set(people.items[int(people.offsets[person]) : int(people.offsets[person + 1])].tolist())
        assert len(set(row)) == 5
        assert not own & set(row)
    one, same, other = (continue_histories(model, people, 5, generator=generator(n)) for n in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert continue_histories(model, people, ITEMS + 1, repeats=True).shape == (7, ITEMS + 1)
    with pytest.raises(UsageError, match="expected 20 new items left for everybody, got people with fewer"):
        continue_histories(model, people, 20)
    with pytest.raises(UsageError, match="expected at least 1 step, got 0"):
        continue_histories(model, people, 0)
    with pytest.raises(UsageError, match="expected an anchor from 0 to 1, got 2"):
        continue_histories(model, people, 1, anchor=2)


def test_anchored_to_its_first_answer_a_continuation_is_the_best_new_items_in_their_order() -> None:
    people, model = histories(), encoder(scale=10.0)
    found = continue_histories(model, people, 5, anchor=1.0)
    for person in range(len(LENGTHS)):
        (profile,) = build_profiles(model, only(people, [person]), cutoff=5)
        assert found[person].tolist() == profile.recommended[0].tolist()
    assert not torch.equal(found, continue_histories(model, people, 5, anchor=0.0))


def test_scores_changed_on_the_way_are_those_that_a_continuation_follows() -> None:
    people, model = histories(), encoder(scale=10.0)
    plain = continue_histories(model, people, 3)
    same = continue_histories(model, people, 3, rescored=lambda scores, _: scores + 1.0)
    assert torch.equal(plain, same)
    lengths: list[list[int]] = []

    def reversed_order(scores: torch.Tensor, so_far: Histories) -> torch.Tensor:
        lengths.append(so_far.lengths.tolist())
        return -scores

    found = continue_histories(model, people, 3, anchor=0.0, rescored=reversed_order)
    assert lengths == [[own + step for own in people.lengths.tolist()] for step in range(3)]
    assert not torch.equal(found, plain)


def test_there_are_as_many_behaviours_as_a_head_may_answer() -> None:
    assert encoder(behaviour_head=True).behaviour_scores(torch.zeros(1, 8)).shape[-1] == len(BEHAVIOURS)
