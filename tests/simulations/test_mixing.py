"""The mixture is the model at one end, the counts at the other, and what the formula says between."""

from __future__ import annotations

import pytest
import torch
from tests.people import encoder
from tests.simulations.test_probes import PEOPLE, partner

from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import Interval
from silhouette_simulations.baselines import TransitionCounts
from silhouette_simulations.mixing import mix, mixed_chances, mixed_ranks
from silhouette_simulations.rows import rank_quickly, ranks_of_targets

CPU = torch.device("cpu")


def test_at_its_ends_the_mixture_ranks_as_model_and_counts_alone() -> None:
    model, people = encoder(scale=10.0), partner()
    whole, half, counts = mixed_ranks(model, people, (0.0, 0.5, 1.0), CPU)
    assert torch.equal(whole, rank_quickly(model, people, CPU))
    histories = [part.numpy() for part in people.known.items.split(people.known.lengths.tolist())]
    scores = torch.from_numpy(TransitionCounts.fit(histories, 20).scores(histories))
    assert torch.equal(counts, ranks_of_targets(scores, people, people.known, torch.arange(PEOPLE)))
    assert not torch.equal(half, whole)
    assert not torch.equal(half, counts)


def test_chances_add_up_to_one_and_nothing_counted_leaves_the_models_part() -> None:
    scores = torch.randn(4, 6)
    scores[:, 0] = -torch.inf
    counts = torch.rand(4, 6)
    counts[:, 0] = -torch.inf
    assert torch.allclose(mixed_chances(scores, counts, 0.3).sum(1), torch.ones(4))
    counts[2] = 0.0
    assert torch.allclose(mixed_chances(scores, counts, 0.3)[2], 0.7 * scores[2].softmax(0))
    assert (mixed_chances(scores, counts, 0.3)[:, 0] == 0).all()


def test_the_table_has_the_model_alone_first_and_differences_person_by_person() -> None:
    model, people = encoder(scale=10.0), partner()
    table = mix(model, people, CPU, (0.5, 1.0))
    assert [row["part of the counts"] for row in table.rows] == [0.0, 0.5, 1.0]
    first, *others = table.rows
    assert first["above the model alone"] is None
    for row in others:
        above = row["above the model alone"]
        assert isinstance(above, Interval)
        assert above.mean == pytest.approx(float(str(row["NDCG@10"])) - float(str(first["NDCG@10"])))
    with pytest.raises(UsageError, match=r"expected parts from 0 to 1, got 0\.5, 2"):
        mix(model, people, CPU, (0.5, 2))
