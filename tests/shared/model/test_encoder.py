"""The encoder looks at one person's past alone, and says so in every output and gradient."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

import pytest
import torch
from tests.people import ITEMS, LENGTH, encoder, generator, histories, only, shape, vocabulary
from torch import Tensor, nn

from silhouette_shared.config import DimensionName
from silhouette_shared.model.encoder import Profile, ProfileEncoder, at_last, drop
from silhouette_shared.model.histories import Batch
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.schema import BEHAVIOURS

USUAL: tuple[DimensionName, ...] = ("activity", "rhythm", "demographics", "interests", "content")
EVERY: tuple[DimensionName, ...] = get_args(DimensionName)
TEXT = 3
OUTPUTS = ("vector", "weights", "state")


def whole_batch(rows: list[int] | None = None, *, seed: int = 0) -> Batch:
    people = histories(seed=seed, texts=TEXT)
    chosen = torch.arange(len(people)) if rows is None else torch.tensor(rows)
    return people.batch(chosen, LENGTH)


def profile_of(batch: Batch, model: ProfileEncoder | None = None) -> Profile:
    with torch.no_grad():
        found: Profile = (model or everything())(batch)
    return found


def everything() -> ProfileEncoder:
    """An encoder with every dimension and head."""
    return encoder(scale=10.0, dimensions=EVERY, text_width=TEXT, behaviour_head=True)


@pytest.mark.parametrize("moment", range(LENGTH - 1))
def test_no_later_event_changes_an_earlier_output_in_a_single_bit(moment: int) -> None:
    batch = whole_batch([1, 3])
    other = whole_batch([4, 6], seed=3)
    other = replace(other, items=other.items.clamp(min=1))
    later = torch.arange(LENGTH) > moment

    def mix(name: str) -> Tensor:
        mine, theirs = getattr(batch, name), getattr(other, name)
        padded = torch.zeros_like(mine)
        padded[:, : theirs.shape[1]] = theirs
        return torch.where(later.view(-1, *[1] * (mine.dim() - 2)), padded, mine)

    changed = replace(
        batch, **{name: mix(name) for name in ("items", "behaviours", "values", "hours", "weekdays", "gaps", "texts")}
    )
    one, two = profile_of(batch), profile_of(changed)
    for name in OUTPUTS:
        before, after = getattr(one, name), getattr(two, name)
        assert torch.equal(before[:, : moment + 1], after[:, : moment + 1]), name
        assert not torch.equal(before[:, moment + 1 :], after[:, moment + 1 :]), name


@pytest.mark.parametrize("moment", [0, 3])
def test_every_kind_of_input_is_read(moment: int) -> None:
    """Else the tests of independence would pass for an encoder that ignores its inputs."""
    batch, model = whole_batch([3]), everything()
    base = profile_of(batch, model)
    for name in ("items", "behaviours", "values", "hours", "weekdays", "gaps"):
        column = getattr(batch, name).clone()
        column[0, moment] = column[0, moment] % 5 + 1
        changed = profile_of(replace(batch, **{name: column}), model)
        assert not torch.equal(changed.vector[0, moment], base.vector[0, moment]), name
    feedback = replace(batch, behaviours=torch.full_like(batch.behaviours, BEHAVIOURS.index("review") + 1))
    written = replace(feedback, texts=feedback.texts + 1.0)
    assert not torch.equal(profile_of(written).vector[0, moment], profile_of(feedback).vector[0, moment])
    attributes = batch.attributes % 2 + 1
    assert not torch.equal(profile_of(replace(batch, attributes=attributes)).vector, base.vector)


def test_padding_never_changes_a_real_moment() -> None:
    people = histories(texts=TEXT)
    for row in range(len(people)):
        alone = profile_of(only(people, [row]).batch(torch.tensor([0]), LENGTH))
        together = profile_of(whole_batch())
        count = min(LENGTH, int(people.lengths[row]))
        for name in OUTPUTS:
            one, other = getattr(alone, name)[0, :count], getattr(together, name)[row, :count]
            assert torch.allclose(one, other, atol=1e-5, rtol=1e-4), name


def test_what_stands_in_the_padding_is_never_read() -> None:
    batch = whole_batch()
    mask = batch.mask
    rubbish = replace(
        batch,
        **{n: torch.where(mask, getattr(batch, n), 3) for n in ("behaviours", "values", "hours", "weekdays", "gaps")},
    )
    one, other = profile_of(batch), profile_of(rubbish)
    for name in OUTPUTS:
        assert torch.equal(getattr(one, name)[mask], getattr(other, name)[mask]), name


def others_replaced(batch: Batch, row: int) -> Batch:
    """The same batch with the record of everybody but `row` replaced, in the same shape."""
    strangers = whole_batch([1, 3, 1, 3, 1, 3, 1], seed=8)
    keep = torch.arange(len(batch.lengths)) == row

    def mix(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(keep.view(-1, *[1] * (mine.dim() - 1)), mine, theirs)

    return replace(batch, **{f.name: mix(getattr(batch, f.name), getattr(strangers, f.name)) for f in fields(Batch)})


@pytest.mark.parametrize("row", range(7))
def test_everybody_elses_records_do_not_change_a_persons_outputs_or_gradient_in_a_single_bit(row: int) -> None:
    found = []
    for batch in (whole_batch(), others_replaced(whole_batch(), row)):
        model = everything()
        assert model.dimension_names == EVERY
        profile = model(batch)
        scores = model.item_scores(profile.state[row])[:, 1:]
        kinds = model.behaviour_scores(profile.state[row])
        (scores.logsumexp(-1).sum() + profile.vector[row].square().sum() + kinds.logsumexp(-1).sum()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([profile.vector[row], profile.weights[row], profile.state[row], scores, *gradients])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_missing_dimension_weighs_nothing_and_the_others_sum_to_one() -> None:
    batch = whole_batch()
    blank = torch.zeros_like(batch.hours)
    unknown = replace(batch, attributes=torch.zeros_like(batch.attributes), hours=blank, weekdays=blank, gaps=blank)
    model = encoder(scale=10.0)
    assert model.dimension_names == USUAL
    weights = profile_of(unknown, model).weights[batch.mask]
    assert (weights[:, [1, 2]] == 0).all()
    assert (weights[:, [0, 3, 4]] > 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(len(weights)), atol=1e-6)


def test_weights_are_shares() -> None:
    batch = whole_batch()
    weights = profile_of(batch).weights[batch.mask]
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(len(weights)), atol=1e-6)


def test_with_every_dimension_missing_there_is_no_weight_and_no_undefined_number() -> None:
    batch = replace(whole_batch(), attributes=torch.zeros(7, 2, dtype=torch.int64))
    profile = profile_of(batch, encoder(dimensions=("demographics",)))
    assert (profile.weights == 0).all()
    assert profile.vector.isfinite().all()
    assert profile.state.isfinite().all()


def test_a_missing_dimension_gets_no_gradient() -> None:
    batch = replace(whole_batch(), attributes=torch.zeros(7, 2, dtype=torch.int64))
    model = encoder(scale=10.0)
    model(batch).vector[batch.mask].square().sum().backward()
    dimension = model.dimensions["demographics"]
    assert all(p.grad is None or not p.grad.any() for p in dimension.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.dimensions["activity"].parameters())


def test_dimensions_that_the_data_cannot_fill_are_left_out_and_one_must_remain() -> None:
    bare = replace(vocabulary(categories=0, content=0), attributes=())
    assert encoder(bare).dimension_names == ("activity", "rhythm")
    assert profile_of(whole_batch(), encoder(bare)).vector.isfinite().all()
    with pytest.raises(ValueError, match="expected a dimension that the data can fill, got interests, content without"):
        encoder(bare, dimensions=("interests", "content"))


def test_the_item_table_is_one_parameter_and_scores_with_what_it_reads() -> None:
    model = encoder()
    assert model.score_item.weight is model.item.weight
    names = [name for name, _ in model.named_parameters()]
    assert "item.weight" in names
    assert "score_item.weight" not in names
    assert len(names) == len(set(names)) == len(list(model.parameters()))


def test_only_layers_with_an_exact_gradient_for_each_person_own_parameters() -> None:
    for module in everything().modules():
        if list(module.parameters(recurse=False)):
            assert type(module) in (nn.Linear, nn.LayerNorm, nn.Embedding)


def test_the_number_of_parameters_is_the_one_counted_by_hand() -> None:
    h, items, categories, content, classes = 8, ITEMS, 3, 4, (2, 3)

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + 1) * outputs

    events = (items + 1) * h + content * h + (11 + 65 + 33 + LENGTH) * h
    lags = shape().lags * h * h
    block = 4 * h + linear(h, 3 * h) + linear(h, h) + linear(h, 2 * h) + linear(2 * h, h)
    fusion = 6 * h + linear(h, h) + linear(h, 2 * h) + linear(h, h) + linear(h, 2 * h) + linear(2 * h, h)
    dimensions = (
        linear(h, h)  # activity
        + linear(24 + 7 + 32 + 3, h)
        + linear(h, h)  # rhythm
        + (sum(classes) + 2) * h
        + linear(h, h)  # demographics
        + linear(2 * categories, h)
        + linear(2 * content, h)
    )
    heads = 2 * h + h * content + sum(linear(h, count) for count in classes)
    norm = 2 * h
    assert Layout.of(encoder()).size == events + lags + block + norm + dimensions + fusion + heads


def test_padding_is_never_recommended() -> None:
    model = encoder(scale=10.0)
    with torch.no_grad():
        model.item.weight[0] = 100.0
        scores = model.item_scores(torch.ones(2, 3, 8))
    assert (scores[..., 0] == -torch.inf).all()
    assert scores[..., 1:].isfinite().all()
    assert scores.shape == (2, 3, ITEMS + 1)


def test_scores_are_the_item_tables_plus_the_contents() -> None:
    model, state = encoder(scale=10.0), torch.randn(5, 8, generator=generator("state"))
    expected = state @ model.item.weight.T + (state @ model.score_content.weight.T) @ vocabulary().content.T
    assert torch.allclose(model.item_scores(state)[:, 1:], expected[:, 1:], atol=1e-5)


def test_without_a_generator_nothing_is_dropped_and_with_one_the_draws_are_its_own() -> None:
    batch, model = whole_batch(), encoder(dropout=0.5, scale=10.0)
    plain = profile_of(batch, encoder(dropout=0.0, scale=10.0)).vector
    assert torch.equal(profile_of(batch, model.train()).vector, plain)
    before = torch.get_rng_state()
    with torch.no_grad():
        one, same, other = (model(batch, generator(name)).vector for name in ("a", "a", "b"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, plain)


def test_dropout_keeps_the_mean_and_drops_the_rate() -> None:
    dropped = drop(torch.ones(20_000), 0.3, generator("drop"))
    share = float((dropped == 0).double().mean())
    assert abs(share - 0.3) < 5 * (0.21 / 20_000) ** 0.5
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(drop(torch.ones(5), 0.0, generator("drop")), torch.ones(5))


def test_a_first_model_is_a_function_of_its_stream_alone() -> None:
    models: list[Tensor] = []
    for name in ("a", "a", "b"):
        model = encoder(dropout=0.1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(generator=generator(len(models)))
        model.initialise(generator(name))
        models.append(read_vector(model, Layout.of(model)))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
    parts = Layout.of(encoder()).split(models[0])
    assert float(parts["item.weight"].std()) == pytest.approx(0.02, rel=0.2)
    assert (parts["fusion.query.bias"] == 0).all()
    assert (parts["state_norm.weight"] == 1).all()


def test_at_last_takes_the_last_event_of_each_person() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    assert at_last(values, torch.tensor([1, 3])).tolist() == [[0.0, 1.0], [10.0, 11.0]]


def test_what_an_attribute_head_scores_are_its_classes() -> None:
    model = encoder()
    assert [tuple(s.shape) for s in model.attribute_scores(torch.zeros(4, 8))] == [(4, 2), (4, 3)]
    assert model.attribute_names == ("gender", "age")
