"""A data set cut by time, and models that are promoted slice after slice, or not, by a real registry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from silhouette_server.registry import Registry
from silhouette_shared.cards import check_privacy
from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import (
    Aggregation,
    Analytics,
    Data,
    Model,
    Partition,
    Plan,
    Privacy,
    Promotion,
    Statistics,
    Training,
)
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_simulations.datasets.base import Dataset, Tables
from silhouette_simulations.datasets.canonical import sealed
from silhouette_simulations.slicing import Slice, cut
from silhouette_simulations.succession import UNTRAINED, Succession
from silhouette_simulations.training import Machine

PEOPLE, ITEMS, EVENTS = 45, 24, 16
MACHINE = Machine("process", torch.device("cpu"), 1)


def dataset(times: str = "utc") -> Dataset:
    """People who go round a circle of items, everybody from a place of their own."""
    users = [str(number) for number in range(PEOPLE)]
    rows = [
        (user, str((start * 7 + step) % ITEMS), 1_600_000_000 + step * 3600 + start)
        for start, user in enumerate(users)
        for step in range(EVENTS)
    ]
    events = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    events.insert(2, "behaviour", "view")
    events["value"], events["text"] = np.nan, pd.Series([None] * len(rows), dtype=events["user"].dtype)
    return sealed(
        Tables(
            name="circle",
            events=events,
            users=pd.DataFrame({"user": users}),
            catalogue=Catalogue(
                items=tuple(str(number) for number in range(ITEMS)),
                titles=("",) * ITEMS,
                categories=(),
                category_matrix=np.zeros((ITEMS, 0), dtype=np.float32),
                texts=("",) * ITEMS,
                content=np.zeros((ITEMS, 0), dtype=np.float32),
            ),
            attributes={},
            times=times,  # type: ignore[arg-type]
        )
    )


def plan(mode: str = "none", evaluation: float = 0.5) -> Plan:
    return Plan(
        name="slices",
        data=Data(history_length=8),
        partition=Partition(partners=3),
        model=Model(width=16, blocks=1, heads=1, content_width=4, dropout=0.0, dimensions=("activity",)),
        training=Training(rounds=6, batch_size=4, learning_rate=1e-2),
        privacy=Privacy(mode=mode, epsilon=16.0, rounds=1, sampling_rate=0.5),  # type: ignore[arg-type]
        statistics=Statistics(popularity_share=0.0, transition_share=0.0),
        analytics=Analytics(evaluation_share=evaluation),
        aggregation=Aggregation(protocol="sa-1"),
        promotion=Promotion(margin=0.02 if mode == "none" else 0.9, confidence=0.95 if mode == "none" else 0.6),
    )


def test_what_a_slice_knows_ends_where_the_next_begins_and_nobody_changes_partner() -> None:
    slices = cut(plan(), dataset(), count=3, people=None, least=1)
    assert [one.number for one in slices] == [1, 2, 3]
    assert [one.until for one in slices] == sorted({one.until for one in slices})
    everybody = {partner.name: partner.users for partner in slices[0].world.partners}
    for one in slices:
        assert {partner.name: partner.users for partner in one.world.partners} == everybody
        for partner in one.world.partners:
            assert int(partner.known.timestamps.max()) < one.until
    counts = [one.events for one in slices]
    assert counts == sorted(counts)
    assert abs(counts[1] - 2 * counts[0]) < PEOPLE


def test_people_are_asked_for_the_first_thing_that_is_new_to_them() -> None:
    data = dataset()
    slices = cut(plan(), data, count=3, people=None, least=1)
    for one, after in zip(slices, [*(one.until for one in slices[1:]), 2**40], strict=True):
        for partner in one.asked:
            for user, target in zip(partner.users, partner.targets.tolist(), strict=True):
                own = data.events[data.events["user"] == user]
                before = set(own[own["timestamp"] < one.until]["item"])
                coming = own[(own["timestamp"] >= one.until) & (own["timestamp"] < after)]
                new = [item for item in coming["item"] if item not in before]
                assert one.world.catalogue.items[target - 1] == new[0]


def test_fewer_people_and_rare_items_are_left_out_by_the_seed() -> None:
    first = cut(plan(), dataset(), count=2, people=12, least=1)
    again = cut(plan(), dataset(), count=2, people=12, least=1)
    other = cut(replace(plan(), seed=1), dataset(), count=2, people=12, least=1)

    def users(slices: tuple[Slice, ...]) -> set[str]:
        return {user for partner in slices[0].world.partners for user in partner.users}

    assert len(users(first)) == 12
    assert users(first) == users(again) != users(other)
    counts = dataset().events["item"].value_counts()
    least = int(counts.median())
    fewer = cut(plan(), dataset(), count=2, people=None, least=least)
    assert set(fewer[0].world.catalogue.items) == set(counts[counts >= least].index)


def test_data_without_times_and_slices_without_people_are_refused() -> None:
    with pytest.raises(UsageError, match="expected events with times, got rank"):
        cut(plan(), replace(dataset(), times="rank"), count=2, people=None, least=1)
    with pytest.raises(UsageError, match="expected items with at least 1000 events, got 0"):
        cut(plan(), dataset(), count=2, people=None, least=1000)


def test_without_privacy_each_model_beats_the_one_before_and_an_untrained_one_is_not_promoted(tmp_path: Path) -> None:
    made = plan()
    slices = cut(made, dataset(), count=3, people=None, least=1)
    told: list[str] = []
    turns = Succession(made, slices, tmp_path / "out", MACHINE, told.append).run()
    assert [turn.name for turn in turns] == ["slice-1", "slice-2", "slice-3", UNTRAINED]
    assert [turn.promoted for turn in turns] == [True, True, True, False]
    for turn in turns[1:3]:
        assert turn.difference is not None
        assert turn.before is not None
        assert turn.difference.mean == pytest.approx(turn.ndcg - turn.before)
        assert turn.difference.low >= 0
    assert turns[1].difference is not None
    assert turns[1].difference.low > 0, "after more rounds round the circle; then the circle is known"
    assert turns[-1].difference is not None
    assert turns[-1].difference.high < 0, "and it would have been worse"
    assert "expected a model no worse than slice-3:1" in turns[-1].why
    with Registry.open(tmp_path / "out" / "registry.sqlite", None, [_key(made, slices, tmp_path)]) as registry:
        assert registry.verify() == ()
        assert registry.model("promoted").card.run == "slice-3"
    # Asked again, nothing is trained again; results of another plan are not gone on with.
    told.clear()
    assert Succession(made, slices, tmp_path / "out", MACHINE, told.append).run() == turns
    assert told == []
    with pytest.raises(IntegrityError, match="expected results of this plan, got others"):
        Succession(replace(made, seed=5), slices, tmp_path / "out", MACHINE, told.append).run()
    (tmp_path / "out" / "slices.json").write_text("{}")
    with pytest.raises(IntegrityError, match="expected results of slices, got a damaged file"):
        Succession(made, slices, tmp_path / "out", MACHINE, told.append).run()


def _key(made: Plan, slices: tuple[Slice, ...], folder: Path) -> bytes:
    return Succession(made, slices, folder / "out", MACHINE, lambda what: None)._identity.public


@pytest.mark.slow
def test_with_privacy_the_charged_evaluation_decides_and_epsilon_adds_up(tmp_path: Path) -> None:
    made = plan("local")
    slices = cut(made, dataset(), count=2, people=None, least=1)
    turns = Succession(made, slices, tmp_path / "out", MACHINE, lambda what: None).run()
    first, second, _ = turns
    assert first.epsilon is not None
    assert second.epsilon is not None
    assert second.run_epsilon is not None
    assert first.epsilon == first.run_epsilon
    assert second.run_epsilon <= 16.0 * 1.001
    assert second.epsilon > second.run_epsilon
    document = json.loads((tmp_path / "out" / "slices.json").read_text())
    assert [one["name"] for one in document["turns"]] == ["slice-1", "slice-2", UNTRAINED]
    with Registry.open(tmp_path / "out" / "registry.sqlite", None, [_key(made, slices, tmp_path)]) as registry:
        card = registry.model("slice-2").card
        check_privacy(card)
        assert card.evaluation is not None
        assert card.evaluation.quality.overall.noise_std > 0
        assert list(card.evaluation.beside) == [registry.model("slice-1").card.model]


def test_a_plan_that_promotion_could_not_decide_by_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"analytics.evaluation_share: expected a share of the budget"):
        Succession(plan("local", evaluation=0.0), (), tmp_path, MACHINE, lambda what: None)
    open_plan = replace(plan(), aggregation=Aggregation(protocol="none"))
    with pytest.raises(UsageError, match=r'aggregation.protocol: expected "sa-1"'):
        Succession(open_plan, (), tmp_path, MACHINE, lambda what: None)
