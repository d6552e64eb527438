"""The social dimension reads friends, and nothing that is shared reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from tests.people import LENGTHS, agent, encoder, generator, histories, plan, vocabulary
from torch import Tensor

from silhouette_client.profiles.social import (
    SocialDimension,
    SocialSettings,
    neighbourhood,
    social_scores,
    train_social,
)
from silhouette_client.training import release
from silhouette_shared.config import DimensionName, with_changes
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.wire import TrainRequest

QUICK = SocialSettings(heads=2, epochs=2, batch_size=4, negatives=0)
RING = torch.tensor([[a, (a + 1) % 6] for a in range(6)] + [[(a + 1) % 6, a] for a in range(6)])  # person 6 has nobody


def trained(model: ProfileEncoder | None = None, edges: Tensor = RING) -> tuple[ProfileEncoder, SocialDimension]:
    model = model or encoder(scale=5.0)
    return model, train_social(model, histories(), edges, QUICK, generator("social"))


def scores_of(model: ProfileEncoder, social: SocialDimension, edges: Tensor = RING, seed: int = 0) -> Tensor:
    return torch.cat([part for _, part in social_scores(model, social, histories(seed=seed), edges)])


def plain(model: ProfileEncoder) -> Tensor:
    batch = histories().batch(torch.arange(len(LENGTHS)), model.history_length)
    return model.next_item_scores(batch).detach()


def test_attention_is_that_of_the_paper_on_a_graph_computed_by_hand() -> None:
    """Velickovic et al. 2018, equations 1 to 4, with a loop over people instead of an index."""
    social = SocialDimension(8, 2)
    social.initialise(generator("weights"))
    with torch.no_grad():
        social.source.normal_(generator=generator("source"))
        social.target.normal_(generator=generator("target"))
        social.out.weight.copy_(torch.eye(8))
    people = torch.randn(4, 16, generator=generator("people"))
    edges = torch.tensor([[1, 0], [2, 0], [3, 0], [0, 2]])
    tokens, attention = social(people, edges)
    values = social.value(social.norm(people)).view(4, 2, 4)
    for person, friends in ((0, [1, 2, 3]), (2, [0])):
        for head in range(2):
            raw = torch.stack(
                [values[f, head] @ social.source[head] + values[person, head] @ social.target[head] for f in friends]
            )
            weights = torch.nn.functional.leaky_relu(raw, 0.2).softmax(0)
            mixed = (weights[:, None] * values[friends, head]).sum(0)
            expected = torch.nn.functional.elu(mixed)
            assert torch.allclose(tokens[person, 4 * head : 4 * head + 4], expected, atol=1e-6)
    assert torch.allclose(attention[:3].sum(), torch.tensor(1.0))
    assert attention[3].item() == pytest.approx(1.0)
    assert torch.equal(tokens[1], torch.zeros(8))


def test_untrained_it_changes_no_score_and_trained_only_those_of_people_with_friends() -> None:
    model = encoder(scale=5.0)
    fresh = SocialDimension(model.shape.width, 2)
    fresh.initialise(generator("fresh"))
    assert torch.equal(scores_of(model, fresh), plain(model))
    _, social = trained(model)
    found, base = scores_of(model, social), plain(model)
    assert torch.equal(found[6], base[6])
    assert all(not torch.equal(found[row], base[row]) for row in range(6))


def test_training_it_lowers_the_loss_where_friends_have_what_comes_next() -> None:
    """Six people in three pairs, whose members have the same items in the same order."""
    base = histories([8] * 6)
    items = torch.cat([torch.randint(1, 21, (8,), generator=generator("pair", pair)) for pair in (0, 0, 1, 1, 2, 2)])
    made = replace(base, items=items)
    pairs = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4]])
    model = encoder()
    social = train_social(model, made, pairs, replace(QUICK, epochs=60, learning_rate=0.05), generator("pairs"))
    scores = torch.cat([part for _, part in social_scores(model, social, made, pairs)]).softmax(1)
    own = torch.stack([scores[row, items[8 * row : 8 * row + 8].unique()].sum() for row in range(6)])
    batch = made.batch(torch.arange(6), model.history_length)
    alone = model.next_item_scores(batch).softmax(1).detach()
    before = torch.stack([alone[row, items[8 * row : 8 * row + 8].unique()].sum() for row in range(6)])
    assert bool((own > before + 0.1).all())


def test_nothing_of_it_is_shared() -> None:
    """No name in the vector that is summed, no dimension that a plan can ask for, no way to encode it."""
    model, social = trained()
    layout = Layout.of(model)
    assert layout.size == sum(parameter.numel() for parameter in model.parameters())
    names = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    assert not any("social" in name for name in names)
    assert "social" not in get_args(DimensionName)
    with pytest.raises(UsageError, match=r"model\.dimensions"):
        with_changes(plan(), {"model.dimensions": ["activity", "social"]})
    for encode in (release.encode_update, release.encode_sum):
        with pytest.raises((AttributeError, TypeError)):
            encode(social, 1, None)  # type: ignore[call-arg, arg-type]


def test_training_it_leaves_the_shared_parameters_bit_by_bit_and_without_a_gradient() -> None:
    model = encoder(scale=5.0)
    before = read_vector(model, Layout.of(model)).clone()
    trained(model)
    assert torch.equal(read_vector(model, Layout.of(model)), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_partner_answers_a_round_is_the_same_with_and_without_it() -> None:
    """The forward pass behind an answer never sees it: same request, same bytes, whatever was trained in between."""
    parameters = read_vector(encoder(vocabulary()), Layout.of(encoder(vocabulary()))).numpy()
    request = TrainRequest(run="r", round=1, plan_digest=plan().digest, parameters=parameters)
    first = agent().train(request)
    trained()
    assert agent().train(request).update.tobytes() == first.update.tobytes()


def test_a_friends_record_changes_the_social_score_and_no_shared_one() -> None:
    model, social = trained()
    theirs = histories(seed=1)
    own = histories()
    start, end = own.offsets[3:5].tolist()
    mixed_items = theirs.items.clone()
    mixed_items[start:end] = own.items[start:end]
    mixed = replace(own, items=mixed_items)  # everybody but person 3 is another
    with_friends = [torch.cat([p for _, p in social_scores(model, social, made, RING)])[3] for made in (own, mixed)]
    assert not torch.equal(with_friends[0], with_friends[1])
    row = torch.tensor([3])
    shared = []
    for made in (own, mixed):
        batch = made.batch(row, model.history_length)
        shared.append(model.next_item_scores(batch))
    assert torch.equal(shared[0], shared[1])


def test_without_connections_it_stays_nothing_and_wrong_ones_are_refused() -> None:
    none = torch.zeros((0, 2), dtype=torch.int64)
    model, social = trained(edges=none)
    assert torch.equal(scores_of(model, social, none), plain(model))
    with pytest.raises(UsageError, match="expected connections among the 7 people"):
        neighbourhood(model, histories(), torch.tensor([[0, 7]]))
    with pytest.raises(UsageError, match="between different people"):
        neighbourhood(model, histories(), torch.tensor([[2, 2]]))
    with pytest.raises(UsageError, match="expected heads that divide the width"):
        SocialDimension(8, 3)
