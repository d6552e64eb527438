"""What a run leaves of each partner's people beside their rankings."""

from __future__ import annotations

import torch
from tests.simulations.test_splitting import dataset, plan

from silhouette_simulations.models import new_encoder
from silhouette_simulations.outputs import _score_columns
from silhouette_simulations.world import build_world


def test_scores_stand_in_the_profiles_where_there_are_times_and_repeat_with_the_seed() -> None:
    settings = plan(partition__partners=1)
    found = []
    for times in ("utc", "none"):
        world = build_world(settings, dataset(times))
        encoder = new_encoder(settings, world.vocabulary, torch.device("cpu"))
        known = world.partners[0].known
        found.append([_score_columns(encoder, known, "partner-0", seed=0) for _ in range(2)])
    (timed, again), (untimed, _) = found
    assert set(timed) == {"risk", "risk_confidence"}  # twelve people are too few to learn the other two from
    assert len(timed["risk"]) == 12
    assert set(timed["risk"]) <= {"usual", "unusual"}
    assert timed == again
    assert untimed == {}
