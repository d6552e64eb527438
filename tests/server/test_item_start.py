"""The start of the item table has the features where there are any, of the size asked for, and the drawn rest."""

from __future__ import annotations

import pytest
import torch

from silhouette_server.item_start import start_items
from silhouette_shared.errors import UsageError
from silhouette_shared.model.vector import Layout

LAYOUT = Layout(names=("before", "item.weight", "after"), shapes=((2,), (5, 4), (3,)))
DRAWN = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(0))


def test_items_with_features_begin_with_them_in_the_size_asked_for_and_everything_else_as_drawn() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, -1.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    started = LAYOUT.split(start_items(DRAWN, LAYOUT, features, 1.5))
    drawn = LAYOUT.split(DRAWN)
    table, before = started["item.weight"], drawn["item.weight"]
    own = table[[1, 3], :2]
    assert torch.allclose(own / own[0, 0], features[[1, 3]] / 3.0)
    assert float(own.square().mean().sqrt() / before.square().mean().sqrt()) == pytest.approx(1.5)
    assert torch.equal(table[[0, 2, 4]], before[[0, 2, 4]])
    assert torch.equal(table[:, 2:], before[:, 2:])
    assert torch.equal(started["before"], drawn["before"])
    assert torch.equal(started["after"], drawn["after"])


def test_without_any_feature_the_start_is_as_drawn_and_too_many_are_refused() -> None:
    assert torch.equal(start_items(DRAWN, LAYOUT, torch.zeros(5, 2), 1.0), DRAWN)
    with pytest.raises(UsageError, match=r"expected at most 4 features an item.*got 5; lower statistics\.rank"):
        start_items(DRAWN, LAYOUT, torch.ones(5, 5), 1.0)
