"""A run that starts from a model of an earlier one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.enrolled import House, deployed_plan, public_catalogue

from silhouette_server.registry import RunState, Submission
from silhouette_server.registry.home import open_registry
from silhouette_server.runs import open_run, prepare_run
from silhouette_shared.cards import OtherModelError, pack_model
from silhouette_shared.model.vector import Layout
from silhouette_shared.wire.offers import model_digest


def test_a_run_starts_from_the_promoted_model_and_its_offer_names_it(tmp_path: Path) -> None:
    house, plan, public = House(tmp_path), deployed_plan(), public_catalogue()
    runs = house.office.folder / "runs"
    fresh = prepare_run(house.office, plan, public, runs)
    job = open_run(house.office, fresh.folder)
    trained = job.initial + torch.linspace(-1, 1, len(job.initial))
    with open_registry(house.office, write=True) as registry:
        first = registry.submit(plan, Submission(name=fresh.run)).name
        registry.set_state(first, RunState.running)
        registry.begin_round(first, 1)
        registry.commit_round(first, 1, torch.cat([trained, torch.ones(3)]), job.layout)  # with a prior behind it
        registry.promote(first)
        start = registry.start_of("promoted", plan).read()
        second = prepare_run(house.office, plan, public, runs, None, start)
        begun = registry.submit(plan, Submission(name=second.run, start="promoted"))
    assert begun.parent is not None
    assert (begun.parent.run, begun.parent.round) == (first, 1)
    started = open_run(house.office, second.folder)
    assert started.initial.equal(trained)
    assert not job.initial.equal(trained)
    assert (job.trained_before, started.trained_before) == (False, True)
    assert second.read_offer(house.office).start_model == model_digest(np.asarray(trained))
    assert second.run != fresh.run


def test_a_model_of_another_shape_is_no_start(tmp_path: Path) -> None:
    house = House(tmp_path)
    other = pack_model(torch.zeros(3), Layout(names=("weight",), shapes=((3,),)))
    with pytest.raises(OtherModelError, match="expected the tensors of a model of this plan"):
        prepare_run(house.office, deployed_plan(), public_catalogue(), house.office.folder / "runs", None, other)
    assert not list((house.office.folder / "runs").glob("*"))
