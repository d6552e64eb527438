"""Early stopping spares one event a person, keeps the best model, and stands again after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.people import plan
from tests.simulations.test_probes import world

from silhouette_shared.config import Evaluation, Training, with_changes
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_simulations.models import new_encoder
from silhouette_simulations.stopping import EarlyStopping, spare_last
from silhouette_simulations.world import PartnerData

CPU = torch.device("cpu")
PLAN = replace(plan(), training=Training(rounds=9, patience=3), evaluation=Evaluation(every_rounds=1))


def test_the_last_known_event_of_everybody_with_three_is_spared_and_asked_for() -> None:
    known = Histories(
        items=torch.tensor([4, 5, 6, 7, 8, 9, 1, 2, 3, 4]),
        behaviours=torch.zeros(10, dtype=torch.int64),
        values=torch.zeros(10, dtype=torch.int64),
        timestamps=torch.zeros(10, dtype=torch.int64),
        offsets=torch.tensor([0, 3, 5, 6, 10]),
        attributes=torch.zeros((4, 1), dtype=torch.int64),
        has_times=False,
    )
    target, row = torch.tensor([11, 12]), torch.tensor([1, 3])
    partner = PartnerData("a", ("u", "v", "w", "x"), known, target, row, torch.zeros((0, 2), dtype=torch.int64))
    shorter, asked = spare_last(partner)
    assert shorter.known.items.tolist() == [4, 5, 7, 8, 9, 1, 2, 3]
    assert shorter.known.lengths.tolist() == [2, 2, 1, 3]
    assert (shorter.targets.tolist(), shorter.asked.tolist()) == ([11, 12], [1, 3])
    assert (asked.targets.tolist(), asked.asked.tolist()) == ([6, 4], [0, 3])
    assert asked.known is shorter.known


def models() -> tuple[torch.Tensor, torch.Tensor]:
    """One that ranks everybody's spared event worse than the other; found by drawing."""
    encoder = new_encoder(PLAN, world().vocabulary, CPU)
    start = read_vector(encoder, Layout.of(encoder))
    return start, start + torch.randn(len(start), generator=torch.Generator().manual_seed(3))


def watcher(folder: Path, **changes: object) -> EarlyStopping:
    folder.mkdir(exist_ok=True)
    chosen = with_changes(PLAN, {f"evaluation.{name}": value for name, value in changes.items()})
    made = world()
    return EarlyStopping(chosen, made, made.partners, folder, CPU)


def test_the_best_model_is_kept_and_patience_ends_the_training_after_it(tmp_path: Path) -> None:
    first, second = models()
    trial = watcher(tmp_path / "trial", every_rounds=1)
    trial.after(1, first)
    trial.after(2, second)
    worse, better = (
        (first, second) if trial.parameters is not None and torch.equal(trial.parameters, second) else (second, first)
    )
    stopping = watcher(tmp_path, every_rounds=1)
    assert not stopping.enough(0)
    stopping.after(1, worse)
    stopping.after(2, better)
    for number in (3, 4):
        stopping.after(number, worse)
    assert [stopping.enough(done) for done in (2, 4, 5)] == [False, False, True]
    assert stopping.parameters is not None
    assert torch.equal(stopping.parameters, better)
    again = watcher(tmp_path, every_rounds=1)  # as after a kill
    assert again.parameters is not None
    assert torch.equal(again.parameters, better)
    again.after(4, worse)  # told again
    assert [again.enough(done) for done in (4, 5)] == [False, True]


def test_rounds_between_two_rankings_are_not_looked_at_but_the_last_one_is(tmp_path: Path) -> None:
    first, second = models()
    stopping = watcher(tmp_path, every_rounds=3)
    for number in (1, 2):
        stopping.after(number, first)
    assert stopping.parameters is None
    assert not stopping.enough(8)
    stopping.after(9, second)
    last = watcher(tmp_path, every_rounds=3).parameters
    assert last is not None
    assert torch.equal(last, second)


def test_people_too_short_to_spare_an_event_are_refused(tmp_path: Path) -> None:
    made = world()
    (whole,) = made.partners
    short = replace(whole, known=whole.known.without_last(6))  # two events each
    with pytest.raises(UsageError, match=r"expected people with at least 3 known events.*got none"):
        EarlyStopping(PLAN, made, [short], tmp_path, CPU)


def test_the_best_model_of_another_plan_is_refused(tmp_path: Path) -> None:
    watcher(tmp_path, every_rounds=1).after(1, models()[0])
    with pytest.raises(IntegrityError, match="expected the best model of this run, got another's"):
        watcher(tmp_path, every_rounds=2)
