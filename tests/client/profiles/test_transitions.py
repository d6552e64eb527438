"""Own transitions are what a partner's people did next, none of it by a single person, believed as far as it helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.people import ITEMS, encoder, generator, histories
from torch import Tensor

from silhouette_client.profiles import transitions
from silhouette_client.profiles.build import build_profiles
from silhouette_client.profiles.transitions import OwnTransitions, learn_transitions
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.evaluation import ndcg, pessimistic_ranks
from silhouette_shared.model.histories import Histories

STEP = 7  # from an item to the one that people of `followers` have next


def people(*items: Sequence[int]) -> Histories:
    base = histories([len(own) for own in items])
    return replace(base, items=torch.tensor([item for own in items for item in own]))


def followers(count: int, *, length: int = 6) -> Histories:
    """People who mostly go through the catalogue in the same order, each from somewhere."""
    draw = np.random.default_rng(3)
    lists = []
    for number in range(count):
        own = [(number * 3 + STEP * place) % ITEMS + 1 for place in range(length)]
        lists.append([int(draw.integers(1, ITEMS + 1)) if draw.random() < 0.2 else item for item in own])
    return people(*lists)


def scores_of(model: ProfileEncoder, own: Histories) -> Tensor:
    batch = own.batch(torch.arange(len(own)), model.history_length)
    with torch.no_grad():
        return model.next_item_scores(batch)


def test_chances_are_counts_over_the_distance_drawn_towards_an_even_distribution() -> None:
    own = OwnTransitions.count(people([1, 2, 3], [1, 2], [1, 2, 4]), ITEMS)
    # From 1: three to 2 at one event; those to 3 and 4 are one person's each. From 2 nothing that two people did.
    expected = torch.full((1, ITEMS + 1), (1 - 3 / 103) / ITEMS)
    expected[0, 2] += 3 / 103
    assert torch.allclose(own.log_chances(people([1])).exp()[:, 1:], expected[:, 1:], atol=1e-6)
    even = own.log_chances(people([2])).exp()
    assert torch.allclose(even[:, 1:], torch.full((1, ITEMS), 1 / ITEMS))
    both = own.log_chances(people([1, 2])).exp()  # the older event weighs 0.8 of the later one
    assert float(both[0, 2]) == pytest.approx(0.8 / 1.8 * float(expected[0, 2]) + 1 / 1.8 / ITEMS, abs=1e-6)


@given(st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=15), min_size=1, max_size=8))
def test_chances_of_all_items_sum_to_one(lists: list[list[int]]) -> None:
    them = people(*lists)
    chances = OwnTransitions.count(them, ITEMS).log_chances(them).exp()
    assert torch.allclose(chances[:, 1:].sum(1), torch.ones(len(lists)), atol=1e-4)


@given(st.lists(st.integers(1, ITEMS), min_size=2, max_size=12), st.integers(0, 2**32))
def test_what_one_person_alone_did_moves_nobody(alone: list[int], seed: int) -> None:
    others = [[1, 2, 3, 4], [1, 2, 3, 4]]
    asked = people([int(item) for item in np.random.default_rng(seed).integers(1, ITEMS + 1, 6)])

    def chances(*them: list[int]) -> Tensor:
        return OwnTransitions.count(people(*them), ITEMS).log_chances(asked)

    new = [item + 4 for item in alone if item + 4 <= ITEMS]  # nothing that the others had
    if new:
        assert torch.equal(chances(*others, new), chances(*others))
    assert len(OwnTransitions.count(people(*others), ITEMS).targets) == 6


def test_the_same_counts_come_from_people_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    them = followers(50)
    whole = OwnTransitions.count(them, ITEMS)
    monkeypatch.setattr(transitions, "_COUNTED_AT_ONCE", 7)
    parts = OwnTransitions.count(them, ITEMS)
    assert np.array_equal(whole.targets, parts.targets)
    assert np.allclose(whole.chances, parts.chances)
    assert len(whole.targets) > ITEMS


@pytest.mark.parametrize("private", [True, False])
def test_with_what_people_here_do_next_the_model_recommends_better(private: bool) -> None:
    model, taught, asked = encoder(scale=5.0), followers(200), followers(80, length=5)
    own = learn_transitions(model, taught, private=private)
    assert own is not None
    earlier, sought = asked.without_last(1), asked.items[asked.offsets[1:] - 1]
    alone = scores_of(model, earlier)
    none = torch.zeros(len(sought), 0, dtype=torch.int64)
    before, after = (ndcg(pessimistic_ranks(found, sought, none)) for found in (alone, own(alone, earlier)))
    assert after > before + 0.2
    (batch,) = build_profiles(model, earlier, rescored=own, cutoff=3)
    listed = own(alone, earlier)
    for row, items in enumerate(batch.recommended.tolist()):
        had = set(earlier.of_people(torch.tensor([row])).items.tolist())
        best = [item for item in listed[row].argsort(descending=True).tolist() if item and item not in had]
        assert items == best[:3]


def test_a_model_that_guesses_is_hardly_believed_and_one_that_is_not_at_all_leaves_the_order_of_the_counts() -> None:
    taught = followers(200)

    guessing = encoder(scale=5.0)
    own = learn_transitions(guessing, taught, private=True)
    assert own is not None
    assert own.weight > 0.5
    assert own.scale < 0.3
    silent = replace(own, scale=0.0)
    found = silent(scores_of(guessing, taught), taught)
    assert not found.isnan().any()
    assert torch.equal(found[:, 1:].argsort(1), (silent.weight * own.log_chances(taught))[:, 1:].argsort(1))


def test_the_coefficients_of_a_conditional_logit_come_back() -> None:
    draw = generator("logit")
    model, counts = (torch.randn(6_000, 12, generator=draw, dtype=torch.float64) for _ in range(2))
    barred = torch.rand(6_000, 12, generator=draw) < 0.2
    barred[:, 0] = False

    def chosen_with(scale: float, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        chances = (scale * model + weight * counts).masked_fill(barred, -torch.inf).softmax(1)
        place = torch.multinomial(chances, 1, generator=draw)
        order = torch.arange(12).repeat(6_000, 1)
        order.scatter_(1, place, 0)
        order[:, 0] = place[:, 0]  # what was chosen comes first
        return model.gather(1, order), counts.gather(1, order), barred.gather(1, order)

    for scale, weight in ((0.7, 0.3), (0.0, 1.2), (1.5, -0.4)):
        found = transitions._fitted(*chosen_with(scale, weight))
        assert found == pytest.approx((scale, weight), abs=0.08)


def test_what_ranks_last_events_best_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.tensor([[1.0, *[0.0] * 20]] * 4, dtype=torch.float64)
    wrong, barred = -right, torch.zeros(4, 21, dtype=torch.bool)
    assert transitions._gain(right, wrong, barred, (1.0, 0.0)) == 1.0
    assert transitions._gain(right, wrong, barred, (0.0, 1.0)) == 0.0
    few = barred.clone()
    few[:, 4:] = True  # three left before it
    assert transitions._gain(right, wrong, few, (0.0, 1.0)) == pytest.approx(1 / np.log2(5))
    taught, model = followers(60), encoder()
    monkeypatch.setattr(transitions, "_alternatives", lambda *_: (wrong, right, barred))
    own = learn_transitions(model, taught, private=True)
    assert own is not None
    assert own.weight > 0
    monkeypatch.setattr(transitions, "_fitted", lambda *_: (1.0, 0.5))
    only = learn_transitions(model, taught, private=True)
    assert only is not None
    assert (only.scale, only.weight) == (0.0, 1.0)
    monkeypatch.setattr(transitions, "_alternatives", lambda *_: (right, wrong, barred))
    monkeypatch.setattr(transitions, "_fitted", lambda *_: (-0.2, 0.5))
    assert learn_transitions(model, taught, private=True) is None


def test_few_people_and_people_of_one_event_teach_nothing() -> None:
    assert learn_transitions(encoder(), followers(39), private=False) is None
    assert learn_transitions(encoder(), people(*([1],) * 60), private=True) is None
    assert learn_transitions(encoder(), people(*([4, 4],) * 60), private=True) is None, "no new item was chosen"
