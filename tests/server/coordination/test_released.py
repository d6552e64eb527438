"""What was released is asked for once, and comes back from a checkpoint as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.people import vocabulary

from silhouette_server.coordination.job import Counting, Job
from silhouette_server.coordination.released import ReleasedSums
from silhouette_shared.config import Replies, Statistics, Training
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.mechanism import SampledGaussian

ONCE = SampledGaussian.once(noise_multiplier=0.5, clip_norm=1.0)
CONTENT = vocabulary().content
COUNTING = Counting(settings=Statistics(active_items=3, rank=2), budget=Budget(ONCE, ONCE, None), content=CONTENT)
JOB = Job(
    run="plan/private",
    plan_digest="p",
    layout=Layout(names=("a",), shapes=((5,),)),
    schedule=Training(rounds=1),
    replies=Replies(minimum=1, timeout_seconds=1.0),
    partners=3,
    initial=torch.zeros(5),
    counting=COUNTING,
)
POPULARITY = np.linspace(9.0, 1.0, len(CONTENT))


def counted() -> ReleasedSums:
    released = ReleasedSums(JOB)
    released.add_statistic("popularity", POPULARITY, 3)
    return released


def test_what_is_released_is_not_left() -> None:
    assert ReleasedSums(JOB).statistics_left() == ("popularity", "transitions")
    released = counted()
    assert released.statistics_left() == ("transitions",)
    assert released.active().tolist() == [1, 2, 3]
    released.add_statistic("transitions", np.ones(3), 3)
    assert released.statistics_left() == ()


def test_it_comes_back_from_a_checkpoint_and_what_is_not_its_own_does_not() -> None:
    released = counted()
    released.use_up_attempt("transitions")
    released.mark_items_started()
    again = ReleasedSums(JOB)
    again.restore({**released.state(), "momentum": torch.ones(5)})
    assert again.state().keys() == released.state().keys()
    assert all(torch.equal(again.state()[name], tensor) for name, tensor in released.state().items())
    assert torch.equal(again.prior, released.prior)
    assert again.prior.abs().sum() > 0
    assert again.items_started
    assert again.statistics_left() == ("transitions",)


def test_every_name_has_attempts_of_its_own() -> None:
    released = ReleasedSums(JOB)
    released.use_up_attempt("popularity")
    released.use_up_attempt("popularity")
    released.use_up_attempt("transitions")
    assert released.attempt("popularity") == 2
    assert released.attempt("transitions") == 1
    assert released.attempt("evaluation") == 0
    assert released.statistics_left() == ("popularity", "transitions"), "a void attempt releases nothing"


def test_a_prior_of_another_shape_is_refused() -> None:
    tensors = {**counted().state(), "statistics.prior": torch.zeros(3)}
    with pytest.raises(ValueError, match="its prior has another shape"):
        ReleasedSums(JOB).restore(tensors)


def test_a_run_without_statistics_and_without_secure_aggregation_has_nothing_to_release() -> None:
    released = ReleasedSums(replace(JOB, counting=None))
    assert released.statistics_left() == ()
    assert released.figures_left() == ()
    assert released.figures == {}
    assert released.appraisal is None
    assert released.prior.shape == (0,)
    with pytest.raises(ValueError, match="expected a run with statistics, got one without"):
        released.add_statistic("popularity", POPULARITY, 3)
    with pytest.raises(ValueError, match="expected secure aggregation for the evaluation, got none"):
        released.add_evaluation(np.ones(3), ["partner-0"], "")
