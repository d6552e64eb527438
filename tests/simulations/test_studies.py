"""Every study answers in one table, from made-up people, and refuses data that do not carry its question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.simulations.test_splitting import dataset

from silhouette_shared.cli import main
from silhouette_shared.config import Plan, with_changes
from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import Interval
from silhouette_shared.model.histories import Histories
from silhouette_simulations.studies import STUDIES
from silhouette_simulations.studies.ablation import ablation, variants
from silhouette_simulations.studies.bench import Bench, StudyTable, alone, some_people, whole_histories
from silhouette_simulations.studies.continuation import recall
from silhouette_simulations.studies.heads import auc_difference
from silhouette_simulations.studies.people import Figures, difference, over_seeds
from silhouette_simulations.studies.personal import personal
from silhouette_simulations.studies.risk import KINDS, plant
from silhouette_simulations.studies.social import social
from silhouette_simulations.studies.texts import GROUPS, planted
from silhouette_simulations.studies.traits import halves, traits
from silhouette_simulations.training import Machine
from silhouette_simulations.world import World, build_world

SMALL = {
    "partition.partners": 2,
    "privacy.mode": "none",
    "model.width": 8,
    "model.blocks": 1,
    "model.dimensions": ["activity", "rhythm"],
    "training.rounds": 1,
    "data.history_length": 16,
}


def bench(folder: Path, times: str = "utc", *, edges: bool = True, **changes: object) -> Bench:
    plan = with_changes(Plan(name="ring"), {**SMALL, **{key.replace("__", "."): v for key, v in changes.items()}})
    said: list[str] = []
    machine = Machine(backend="process", device=torch.device("cpu"), workers=1)
    return Bench(plan, dataset(times, edges=edges), machine, folder, said.append)


def assert_whole(table: StudyTable, rows: int) -> None:
    assert len(table.rows) == rows
    assert all(set(row) == set(table.columns) for row in table.rows)
    assert len(str(table.document()["rows"])) > 0


def test_every_study_is_a_function_in_the_module_of_its_name() -> None:
    from importlib import import_module

    for name in STUDIES:
        assert callable(getattr(import_module(f"silhouette_simulations.studies.{name}"), name))


def test_the_social_study_ranks_the_same_people_three_times_and_counts_what_was_cut(tmp_path: Path) -> None:
    table = social(bench(tmp_path, evaluation__split="random"))
    assert_whole(table, 3)
    assert [row["friends"] for row in table.rows] == ["none", "own", "drawn at random"]
    assert len({row["people"] for row in table.rows}) == 1
    world = build_world(bench(tmp_path, evaluation__split="random").plan, dataset())
    assert f"12 connections, {world.edges_cut} of them" in table.notes[0]
    with pytest.raises(UsageError, match="expected connections between people"):
        social(bench(tmp_path, edges=False, evaluation__split="random"))


def test_the_ablation_trains_the_plan_without_each_part_and_compares_the_same_people(tmp_path: Path) -> None:
    table = ablation(bench(tmp_path))
    assert [row["without"] for row in table.rows] == ["nothing", "activity", "rhythm", "all but purchases"]
    assert_whole(table, 4)
    assert all(isinstance(row["the whole less it"], Interval) for row in table.rows[1:])
    some = ablation(replace(bench(tmp_path), without=("rhythm",)))
    assert some.rows == (table.rows[0], table.rows[2])
    with pytest.raises(UsageError, match="expected some of activity, rhythm, all but purchases, got 'nothing'"):
        ablation(replace(bench(tmp_path), without=("nothing",)))
    whole = bench(tmp_path).plan
    for name, plan in variants(whole, ("purchase", "view")).items():
        assert (plan == whole) == (name == "nothing")


@pytest.mark.parametrize("study", [ablation, personal])
def test_several_seeds_are_the_mean_of_each_person_and_every_seed_is_told(
    study: Callable[[Bench], StudyTable], tmp_path: Path
) -> None:
    """Each seed alone, then both together: the means of the people are between, their number is the same."""
    figure = "NDCG@10 fine-tuned" if study is personal else "NDCG@10"
    alone_at = [study(bench(tmp_path, seed=seed)).rows[-1] for seed in (0, 1)]
    both = study(replace(bench(tmp_path, seed=0), several=(0, 1)))
    last = both.rows[-1]
    assert last["people"] == alone_at[0]["people"] == alone_at[1]["people"]
    told = [float(str(row[figure])) for row in alone_at]
    assert told[0] != told[1]
    assert last[figure] == pytest.approx(sum(told) / 2)
    interval = next(value for value in last.values() if isinstance(value, Interval))
    ours = [next(value.mean for value in row.values() if isinstance(value, Interval)) for row in alone_at]
    assert interval.mean == pytest.approx(sum(ours) / 2)
    assert interval.low <= interval.mean <= interval.high
    notes = " ".join(both.notes)
    assert "mean of the seeds 0, 1" in notes
    if study is not personal:
        assert f"{told[0]:.4f}, {told[1]:.4f}" in notes
    else:
        assert [row["partner"] for row in both.rows] == ["all, seed 0", "all, seed 1", "all"]


def test_people_with_friends_are_those_of_each_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Friends move the ranks by one place more in the second seed, so the gain is that of the two seeds' mean."""
    from silhouette_simulations.studies import social as module

    def ranked(made: Bench, world: World) -> dict[str, list[torch.Tensor]]:
        none = [torch.full_like(partner.targets, 5) for partner in world.partners]
        return {"none": none, "own": [ranks - 1 - made.plan.seed for ranks in none], "drawn at random": none}

    monkeypatch.setattr(module, "_ranked", ranked)
    made = [bench(tmp_path, evaluation__split="random", seed=seed) for seed in (0, 1)]
    first, second = (social(one).rows[1] for one in made)
    both = social(replace(made[0], several=(0, 1)))
    gain, one, other = (row["above none"] for row in (both.rows[1], first, second))
    assert isinstance(gain, Interval)
    assert isinstance(one, Interval)
    assert isinstance(other, Interval)
    assert 0 < one.mean < gain.mean < other.mean
    assert gain.mean == pytest.approx((one.mean + other.mean) / 2)
    befriended = both.rows[1]["above none, with friends"]
    assert isinstance(befriended, Interval)
    assert one.mean <= befriended.mean <= other.mean
    cut = [build_world(one.plan, one.dataset).edges_cut for one in made]
    assert both.notes[0] == f"12 connections, {cut[0]}; {cut[1]} of them between people of different partners and cut"


def test_a_person_who_was_not_asked_in_a_seed_counts_with_the_others() -> None:
    one = Figures(("a", "b"), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.25]))
    other = Figures(("c", "b"), torch.tensor([1.0, 1.0]), torch.tensor([0.125, 0.75]))
    both = over_seeds([one, other])
    assert both.people == ("a", "b", "c")
    assert both.gains.tolist() == [0.5, 0.5, 0.125]
    assert both.hits.tolist() == [1.0, 0.5, 1.0]
    assert both.among({"c", "a"}).people == ("a", "c")


def test_figures_of_other_people_are_not_compared(tmp_path: Path) -> None:
    one = Figures(("a",), torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="expected figures of the same people"):
        difference(bench(tmp_path), one, replace(one, people=("b",)))


def test_parts_are_left_out_by_the_ablation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "study", "risk", "plan.toml", "--without", "rhythm"]) == 2
    assert "--without: expected the study ablation, got risk" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("study", "seeds", "message"),
    [
        ("heads", "0,1", "expected one for the study heads, got 2; several are for ablation, personal, social, texts"),
        ("social", "0,0", "expected each seed once, got '0,0'"),
        ("social", "0,x", "expected whole numbers separated by commas, got '0,x'"),
    ],
)
def test_seeds_that_a_study_cannot_take_are_refused(
    study: str, seeds: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", "study", study, "plan.toml", "--seed", seeds]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_study_that_was_killed_goes_on_with_the_training_it_was_at(tmp_path: Path) -> None:
    """What was trained is not trained again: the second call finds every round done."""
    made = bench(tmp_path)
    world = build_world(made.plan, made.dataset)
    first = made.train("one", world, world.partners)
    checkpoint = next(tmp_path.glob("one/*/checkpoint.safetensors"))
    before = checkpoint.stat().st_mtime_ns
    again = made.train("one", world, world.partners)
    assert checkpoint.stat().st_mtime_ns == before
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_fine_tuning_is_reported_for_every_partner_and_for_all(tmp_path: Path) -> None:
    table = personal(bench(tmp_path))
    assert_whole(table, 3)
    assert [row["partner"] for row in table.rows] == ["partner-0", "partner-1", "all"]
    assert sum(int(str(row["people"])) for row in table.rows[:2]) == table.rows[2]["people"] == 12


def test_traits_are_compared_between_the_halves_of_a_persons_events(tmp_path: Path) -> None:
    made = bench(tmp_path)
    whole = whole_histories(made, build_world(made.plan, made.dataset))
    early, late = halves(whole)
    assert (early.lengths + late.lengths).tolist() == whole.lengths.tolist()
    for person in range(len(whole)):
        start, end = whole.offsets[person : person + 2].tolist()
        own = [half.items[half.offsets[person] : half.offsets[person + 1]] for half in (early, late)]
        assert torch.equal(torch.cat(own), whole.items[start:end])
    with pytest.raises(UsageError, match="expected at least 20 people of 10 events"):
        traits(made)


def test_recall_counts_new_items_alone() -> None:
    known = alone(
        Histories(
            items=torch.tensor([1, 2, 3]),
            behaviours=torch.ones(3, dtype=torch.int64),
            values=torch.zeros(3, dtype=torch.int64),
            timestamps=torch.arange(3),
            offsets=torch.tensor([0, 2, 3]),
            attributes=torch.zeros((2, 0), dtype=torch.int64),
            has_times=True,
        )
    ).known
    asked = [torch.tensor([1, 4, 4, 5]), torch.tensor([3, 3])]
    assert recall(torch.tensor([[4, 9], [3, 4]]), known, asked).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_history_is_made_of_one_real_person_and_in_the_order_of_time(kind: str, tmp_path: Path) -> None:
    made = bench(tmp_path)
    whole = whole_histories(made, build_world(made.plan, made.dataset))
    odd = plant(whole, 3, KINDS[kind], 30, torch.Generator().manual_seed(1))
    assert len(odd) == 1
    assert bool((odd.timestamps.diff() >= 0).all())
    assert int(odd.items.min()) >= 1
    assert int(odd.items.max()) <= 30


def test_planted_words_tell_the_next_items_group_and_nothing_of_their_own() -> None:
    made = planted(dataset())
    index = {item: number * GROUPS // len(made.catalogue) for number, item in enumerate(made.catalogue.items)}
    for _, own in made.events.groupby("user"):
        told = own["text"].tolist()
        following = [f"word{index[item]}" for item in own["item"].tolist()[1:]]
        assert told[:-1] == following
        assert told[-1] is None or np.isnan(told[-1])
    assert made.catalogue.texts[0] == "word0"


def test_the_difference_of_two_auc_is_paired() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    truth = draw.random(400) < 0.4
    good = truth + draw.normal(0, 1, 400)
    found = auc_difference(truth, good, draw.normal(0, 1, 400), seed=0)
    assert 0.1 < found.low < found.mean < found.high < 0.5
    same = auc_difference(truth, good, good, seed=0)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_some_people_are_drawn_with_everything_that_is_theirs() -> None:
    some = some_people(dataset(), 5, seed=1)
    users = set(some.users["user"])
    assert len(users) == 5
    assert set(some.events["user"]) == users
    assert some.edges is not None
    assert set(some.edges["user"]) | set(some.edges["other"]) <= users
    assert some.digest != dataset().digest
    with pytest.raises(UsageError, match="expected at most 12 people, got 13"):
        some_people(dataset(), 13, seed=1)
