"""Attacks find what is there, find nothing where there is nothing, and are read at the rates they claim."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.integration.desk import write_films
from tests.people import encoder, histories, plan

from silhouette_shared.config import Plan, with_changes
from silhouette_shared.errors import UsageError
from silhouette_simulations import datasets
from silhouette_simulations.attacks import (
    AttackReport,
    _directions,
    _item_weights,
    _losses,
    attack,
    describe,
    halves,
    lira_scores,
    membership_limit,
    operating_points,
    probe,
    rmia_scores,
)
from silhouette_simulations.training import Machine

MACHINE = Machine(backend="process", device=torch.device("cpu"), workers=1)


def generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_the_limit_is_that_of_randomised_response_where_it_is_tight() -> None:
    chance = math.e / (1 + math.e)  # of telling the truth, for epsilon 1
    assert membership_limit(1.0, 0.0, 1 - chance) == pytest.approx(chance)
    assert membership_limit(0.0, 1e-3, 0.01) == pytest.approx(0.011)
    assert membership_limit(1000.0, 1e-5, 0.5) == 1.0
    assert membership_limit(2.0, 0.0, 0.9) < math.exp(2) * 0.9


def test_each_person_trains_one_model_of_every_pair() -> None:
    found = halves(101, 6, generator(1))
    assert found.shape == (6, 101)
    assert (found.sum(1) >= 50).all()
    for pair in range(3):
        assert (found[2 * pair] ^ found[2 * pair + 1]).all()
    assert not np.array_equal(found[0], found[2])


def made_up_losses(shift: float, people: int = 4000, references: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses that fall by `shift` for whoever a model was trained on, and differ a lot between people anyway."""
    draw = generator(2)
    trained_on = np.concatenate([halves(people, 1, draw), halves(people, references, draw)])
    own = draw.normal(5, 2, people)
    losses = own + draw.normal(0, 0.3, trained_on.shape) - shift * trained_on
    return trained_on, losses[0], losses[1:]


def rate(scores: np.ndarray, members: np.ndarray, at: float) -> float:
    return operating_points(scores, members, None, 0.0, (at,))[0].rate


def test_attacks_with_references_find_members_that_losses_alone_do_not_show() -> None:
    trained_on, target, others = made_up_losses(shift=1.0)
    by_loss = rate(-target, trained_on[0], 0.01)
    assert rate(rmia_scores(target, others), trained_on[0], 0.01) > 0.3 > 0.1 > by_loss
    assert rate(lira_scores(target, others, trained_on[1:]), trained_on[0], 0.01) > 0.5


def test_attacks_find_nobody_where_training_left_no_trace() -> None:
    trained_on, target, others = made_up_losses(shift=0.0)
    for scores in (-target, rmia_scores(target, others), lira_scores(target, others, trained_on[1:])):
        assert rate(scores, trained_on[0], 0.01) < 0.03


def test_a_rate_counts_at_most_the_allowed_false_positives_and_ties_against_the_attacker() -> None:
    members = np.array([True] * 100 + [False] * 100)
    scores = np.concatenate([np.arange(100.0), np.arange(100.0)])
    (point,) = operating_points(scores, members, 1.0, 1e-5, (0.05,))
    assert (point.false_positives, point.true_positives) == (5, 5)
    (point,) = operating_points(np.zeros(200), members, 1.0, 1e-5, (0.5,))
    assert (point.false_positives, point.true_positives) == (0, 0)


@pytest.mark.parametrize(("epsilon", "exceeds"), [(4.5, False), (1.0, True)])
def test_only_a_rate_clearly_above_the_limit_exceeds_it(epsilon: float, exceeds: bool) -> None:
    trained_on, target, others = made_up_losses(shift=1.0)  # finds some 60 % of the members at 1 %
    scores = lira_scores(target, others, trained_on[1:])
    (point,) = operating_points(scores, trained_on[0], epsilon, 1e-5, (0.01,))
    assert point.limit == membership_limit(epsilon, 1e-5, 0.01)
    assert point.loose_limit is not None
    assert point.loose_limit > point.limit
    assert point.exceeds == exceeds
    assert not replace(point, loose_limit=None).exceeds
    assert not replace(point, true_positives=0).exceeds


def test_few_people_show_no_excess() -> None:
    """One hit without a false alarm among thirty non-members says next to nothing about a rate of one in a thousand."""
    members = np.array([True] * 30 + [False] * 30)
    scores = np.concatenate([[9.0], np.zeros(59)])
    (point,) = operating_points(scores, members, 2.0, 1e-5, (0.001,))
    assert point.limit is not None
    assert point.rate > point.limit
    assert not point.exceeds


def test_a_probe_finds_what_the_features_say_and_no_more() -> None:
    draw = generator(3)
    labels = draw.integers(1, 3, 300)
    speaking = labels[:, None] + draw.normal(0, 0.3, (300, 4))
    found = probe("gender", "history", speaking, labels)
    assert found.accuracy > 0.9
    assert found.auc is not None
    assert found.auc > 0.95
    silent = probe("gender", "noise", draw.normal(0, 1, (300, 4)), labels)
    assert silent.auc is not None
    assert abs(silent.auc - 0.5) < 0.12
    assert probe("age", "history", speaking, draw.integers(1, 5, 300)).auc is None


def test_histories_weigh_rare_items_and_have_length_one() -> None:
    people = histories((3, 9, 1, 12))
    found = _item_weights(people, 21)
    assert found.shape == (4, 21)
    lengths = np.asarray(found.multiply(found).sum(1)).ravel()
    assert np.allclose(lengths[lengths > 0], 1.0)


def test_losses_are_those_of_use_without_dropout() -> None:
    people = histories((3, 9, 1, 12))
    one, other = (_losses(encoder(dropout=0.5), people) for _ in range(2))
    assert np.array_equal(one, other)
    assert one[2] == 0.0  # nothing to predict


def test_main_directions_keep_the_lengths_of_clipped_gradients() -> None:
    made = plan(privacy=replace(plan().privacy, clip_norm=0.01))
    along = _directions(made, histories((3, 9, 5, 12)), encoder(scale=5.0))
    lengths = np.linalg.norm(along, axis=1)
    assert np.allclose(lengths, 0.01, rtol=1e-4)  # all are clipped, and four people span four directions


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AttackReport:
    """Of a training without privacy that learns sixty people by heart."""
    home = tmp_path_factory.mktemp("home")
    dataset = datasets.get("ml-1m", home=home, source=write_films(home / "films"), progress=lambda _: None)
    asked = with_changes(
        Plan(name="tiny"),
        {
            "data.dataset": "ml-1m",
            "data.history_length": 12,
            "model.width": 16,
            "model.blocks": 1,
            "model.dropout": 0.0,
            "model.content_width": 8,
            "training.rounds": 40,
            "training.batch_size": 8,
            "training.learning_rate": 1e-2,
            "privacy.mode": "none",
            "seed": 4,
        },
    )
    return attack(asked, dataset, MACHINE, references=4, people=60)


@pytest.mark.slow
def test_a_model_without_privacy_gives_its_people_away(report: AttackReport) -> None:
    assert report.epsilon is None
    best = max(one.auc for one in report.membership)
    assert best > 0.75
    assert {one.attack for one in report.membership} == {"loss", "rmia", "lira"}
    document = describe(report)
    assert document["mode"] == "none"
    assert document["delta"] is None


@pytest.mark.slow
def test_with_privacy_every_attack_stands_beside_its_limit(tmp_path: Path) -> None:
    dataset = datasets.get("ml-1m", home=tmp_path, source=write_films(tmp_path / "films"), progress=lambda _: None)
    asked = with_changes(
        Plan(name="tiny"),
        {
            "data.dataset": "ml-1m",
            "data.history_length": 12,
            "model.width": 8,
            "model.blocks": 1,
            "model.content_width": 8,
            "privacy.rounds": 4,
            "privacy.epsilon": 2.0,
            "partition.partners": 3,
        },
    )
    found = attack(asked, dataset, MACHINE, references=2, people=60)
    assert found.epsilon is not None
    assert 1.9 < found.epsilon <= 2.0
    for one in found.membership:
        assert [point.limit for point in one.points] == [
            membership_limit(found.epsilon, 1e-5, rate) for rate in (0.001, 0.01, 0.1)
        ]
        assert not any(point.exceeds for point in one.points)
    assert {one.source for one in found.probes} == {
        "history",
        "clipped gradient",
        "one release",
        "all releases, averaged",
    }


@pytest.mark.slow
def test_too_few_people_or_references_are_refused(tmp_path: Path) -> None:
    dataset = datasets.get("ml-1m", home=tmp_path, source=write_films(tmp_path / "films"), progress=lambda _: None)
    asked = with_changes(Plan(name="tiny"), {"data.dataset": "ml-1m"})
    for references in (1, 3, 66):
        with pytest.raises(UsageError, match="expected an even number of references"):
            attack(asked, dataset, MACHINE, references=references, people=60)
