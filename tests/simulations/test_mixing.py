"""A model and counts together are the model at weight zero, near the counts at a large one, and else what it says."""

from __future__ import annotations

import pytest
import torch
from tests.people import encoder
from tests.simulations.test_probes import PEOPLE, partner

from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import Interval
from silhouette_simulations.mixing import counts_of, counts_traffic, mix, rank_with_counts, with_counts
from silhouette_simulations.rows import rank_model, rank_quickly, ranks_of_targets

CPU = torch.device("cpu")


def test_without_weight_the_ranks_and_lists_are_the_models_and_with_one_they_are_those_of_both() -> None:
    model, people = encoder(scale=10.0), partner()
    counts = counts_of([people], 20)
    alone, both = (rank_with_counts(model, people, counts, weight, CPU) for weight in (0.0, 0.5))
    assert torch.equal(alone.ranks, rank_quickly(model, people, CPU))
    assert torch.equal(alone.top, rank_model(model, people, CPU).ranking.top)
    rows = torch.arange(PEOPLE)
    batch = people.known.batch(rows, model.history_length)
    scores = model.next_item_scores(batch)
    counted = torch.from_numpy(counts.scores([own.numpy() for own in people.known.items.split(8)])).float()
    expected = ranks_of_targets(with_counts(scores, counted, 0.5), people, people.known, rows)
    assert torch.equal(both.ranks, expected)
    assert not torch.equal(both.ranks, alone.ranks)


def test_the_counts_are_added_as_log_chances_and_nothing_counted_leaves_the_models_order() -> None:
    scores, counts = torch.randn(4, 6), torch.rand(4, 6)
    scores[:, 0] = counts[:, 0] = -torch.inf
    chances = counts.clamp(min=0) / counts.clamp(min=0).sum(1, keepdim=True)
    expected = scores[:, 1:] + 2.0 * (0.99 * chances[:, 1:] + 0.01 / 5).log()
    found = with_counts(scores, counts, 2.0)
    assert torch.allclose(found[:, 1:].softmax(1), expected.softmax(1), atol=1e-6)
    assert (found[:, 0] == -torch.inf).all()
    counts[2] = 0.0
    assert torch.allclose(with_counts(scores, counts, 2.0)[2].softmax(0), scores[2].softmax(0))


def test_counts_of_partners_add_up_to_those_of_all_their_people_and_so_do_their_bytes() -> None:
    people = partner()
    first, second = people.of_people(torch.arange(0, 5), "a"), people.of_people(torch.arange(5, PEOPLE), "b")
    together, alone = counts_of([first, second], 20), counts_of([people], 20)
    assert (together.transitions != alone.transitions).nnz == 0
    traffic = counts_traffic([first, second], 20)
    assert {down for down, _ in traffic.values()} == {8 * alone.transitions.nnz}
    assert traffic["a"][1] == 8 * counts_of([first], 20).transitions.nnz
    assert 0 < traffic["a"][1] < traffic["a"][0] <= traffic["a"][1] + traffic["b"][1]


def test_the_table_has_the_model_alone_first_and_differences_person_by_person() -> None:
    model, people = encoder(scale=10.0), partner()
    table = mix(model, people, CPU, (0.5, 1.0))
    assert [row["weight of the counts"] for row in table.rows] == [0.0, 0.5, 1.0]
    first, *others = table.rows
    assert first["above the model alone"] is None
    for row in others:
        above = row["above the model alone"]
        assert isinstance(above, Interval)
        assert above.mean == pytest.approx(float(str(row["NDCG@10"])) - float(str(first["NDCG@10"])))
    with pytest.raises(UsageError, match=r"expected weights of 0 or more, got 0\.5, -2"):
        mix(model, people, CPU, (0.5, -2))
