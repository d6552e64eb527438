"""What is kept from training, for each way to split, and that it does not depend on how people are dealt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Evaluation, Plan, with_changes
from silhouette_shared.errors import UsageError
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.datasets.base import Tables
from silhouette_simulations.datasets.canonical import sealed
from silhouette_simulations.splitting import hold_out
from silhouette_simulations.world import build_world

PEOPLE, ITEMS = 12, 30


def dataset(times: str = "utc", *, edges: bool = True, held_out: bool = True) -> Dataset:
    """Twelve people of 5 to 16 events, purchases among them, in a ring of friends."""
    draw = np.random.Generator(np.random.PCG64(1))
    rows = []
    for person in range(PEOPLE):
        moments = np.sort(draw.integers(1, 1_000_000, 5 + person))
        items = draw.permutation(ITEMS - 1)[: 5 + person]
        for place, (moment, item) in enumerate(zip(moments, items, strict=True)):
            rows.append((f"u{person}", f"i{item}", "purchase" if place % 2 else "view", int(moment)))
    events = pd.DataFrame(rows, columns=["user", "item", "behaviour", "timestamp"])
    if times == "none":
        events["timestamp"] = 0
    events["value"], events["text"] = np.nan, pd.Series([None] * len(events), dtype=events["user"].dtype)
    users = pd.DataFrame({"user": [f"u{person}" for person in range(PEOPLE)]})
    ring = [(f"u{person}", f"u{(person + 1) % PEOPLE}", 1.0) for person in range(PEOPLE)]
    return sealed(
        Tables(
            name="ring",
            events=events,
            users=users,
            catalogue=Catalogue(
                items=tuple(f"i{item}" for item in range(ITEMS)),
                titles=("",) * ITEMS,
                categories=(),
                category_matrix=np.zeros((ITEMS, 0), np.float32),
                texts=("",) * ITEMS,
                content=np.zeros((ITEMS, 0), np.float32),
            ),
            attributes=MappingProxyType({}),
            times=times,  # type: ignore[arg-type]
            edges=pd.DataFrame(ring, columns=["user", "other", "weight"]) if edges else None,
            held_out=pd.DataFrame({"user": ["u3"], "item": [f"i{ITEMS - 1}"]}) if held_out else None,
        )
    )


def plan(**changes: object) -> Plan:
    settings: Mapping[str, object] = {
        "partition.partners": 3,
        "privacy.mode": "none",
        "model.width": 8,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return with_changes(Plan(name="ring"), settings)


def pairs(frame: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(frame["user"], frame["item"], strict=True))


@pytest.mark.parametrize("split", ["last", "random", "time", "publisher"])
@pytest.mark.parametrize("target", ["test", "validation"])
def test_nothing_that_is_asked_for_is_known(split: str, target: str) -> None:
    data = dataset()
    found = hold_out(data, data.events, Evaluation(split=split, target=target), seed=3)  # type: ignore[arg-type]
    assert len(found.held_out) > 0
    assert not pairs(found.held_out) & pairs(found.known)
    assert set(found.held_out["user"]) <= set(found.known["user"])


def test_the_last_event_is_asked_for_and_for_validation_the_second_last() -> None:
    data = dataset()
    in_order = data.events.sort_values(["user", "timestamp"], kind="stable")
    for target, place in (("test", -1), ("validation", -2)):
        found = hold_out(data, data.events, Evaluation(target=target), seed=0)  # type: ignore[arg-type]
        assert pairs(found.held_out) == pairs(
            in_order.iloc[in_order.groupby("user").cumcount(ascending=False).to_numpy() == -1 - place]
        )
        assert len(found.known) == len(data.events) + place * PEOPLE


def test_a_random_split_takes_a_fifth_of_everybody_rounded_down_and_another_for_another_seed() -> None:
    data = dataset(times="none")
    one, again, other = (hold_out(data, data.events, Evaluation(split="random"), seed=seed) for seed in (1, 1, 2))
    counts = data.events.groupby("user").size() // 5
    assert one.held_out.groupby("user").size().to_dict() == counts.to_dict()
    assert pairs(one.held_out) == pairs(again.held_out) != pairs(other.held_out)
    assert list(one.known["item"]) == list(again.known["item"])


def test_validation_of_a_random_split_never_sees_what_the_test_asks_for() -> None:
    data = dataset()
    test, validation = (
        hold_out(data, data.events, Evaluation(split="random", target=target), seed=1)
        for target in ("test", "validation")
    )
    assert not pairs(test.held_out) & (pairs(validation.held_out) | pairs(validation.known))


def test_a_time_split_has_one_moment_for_everybody_and_asks_for_the_next_new_item() -> None:
    data = dataset()
    found = hold_out(data, data.events, Evaluation(split="time", held_out_share=0.3), seed=0)
    cut = found.known["timestamp"].max()
    later = data.events[data.events["timestamp"] > cut].sort_values("timestamp", kind="stable")
    assert len(later) == pytest.approx(0.3 * len(data.events), abs=1)
    expected = later[later["user"].isin(set(found.known["user"]))].drop_duplicates("user")
    assert pairs(found.held_out) == pairs(expected)
    earlier = hold_out(data, data.events, Evaluation(split="time", held_out_share=0.3, target="validation"), seed=0)
    assert earlier.known["timestamp"].max() < cut
    asked = data.events.merge(earlier.held_out, on=["user", "item"])
    assert asked["timestamp"].max() <= cut


@pytest.mark.parametrize(
    ("made", "split", "expected"),
    [
        (dataset("none"), "time", "expected times for evaluation.split"),
        (dataset(held_out=False), "publisher", "expected events that the publisher kept apart"),
    ],
)
def test_data_that_do_not_carry_the_split_are_refused(made: Dataset, split: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        build_world(plan(evaluation__split=split), made)


def test_behaviours_that_are_not_named_are_not_read_and_none_at_all_is_refused() -> None:
    world = build_world(plan(data__behaviours=["purchase"], evaluation__split="random"), dataset())
    assert world.events == int((dataset().events["behaviour"] == "purchase").sum())
    with pytest.raises(UsageError, match="expected events of the behaviours share, got none"):
        build_world(plan(data__behaviours=["share"]), dataset())


def test_what_is_asked_for_is_the_same_however_people_are_dealt() -> None:
    def asked(partners: int) -> set[tuple[str, int]]:
        world = build_world(plan(evaluation__split="random", partition__partners=partners), dataset())
        return {
            (p.users[row], item)
            for p in world.partners
            for row, item in zip(p.asked.tolist(), p.targets.tolist(), strict=True)
        }

    assert asked(1) == asked(4)


def test_friends_at_different_partners_are_cut_and_counted() -> None:
    world = build_world(plan(), dataset())
    assert world.edges == PEOPLE
    within = 0
    for partner in world.partners:
        ends = {(partner.users[a], partner.users[b]) for a, b in partner.edges.tolist()}
        assert all((b, a) in ends for a, b in ends)
        assert all(abs(int(a[1:]) - int(b[1:])) in (1, PEOPLE - 1) for a, b in ends)
        within += len(ends) // 2
    assert world.edges_cut == PEOPLE - within > 0
    assert len(world.pooled().edges) == 2 * within
    assert build_world(plan(), dataset(edges=False)).edges_cut == 0


def test_some_people_of_a_partner_keep_their_targets_and_the_edges_among_them() -> None:
    partner = build_world(plan(evaluation__split="random", partition__partners=1), dataset()).partners[0]
    rows = torch.tensor([7, 6, 2])
    some = partner.of_people(rows, "some")
    assert some.users == tuple(partner.users[row] for row in rows.tolist())
    for place, row in enumerate(rows.tolist()):
        assert some.targets[some.asked == place].tolist() == partner.targets[partner.asked == row].tolist()
    assert {tuple(edge) for edge in some.edges.tolist()} == {(0, 1), (1, 0)}


def test_settings_that_came_later_leave_an_old_plan_its_digest_and_change_it_when_set() -> None:
    """The digest of the plan behind the first recorded results, from before there were splits."""
    old = Plan(name="old")
    assert old.digest == "6056603e104b8aa08e965df9c46d88db6314eda7d49c526f821e592310357f1f"
    assert replace(old, evaluation=Evaluation(split="time")).digest != old.digest
