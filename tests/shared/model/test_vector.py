"""A flat vector is the model's parameters in an agreed order, each once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.people import encoder, generator
from torch import nn

from silhouette_shared.model.vector import Layout, read_vector, write_vector

shapes = st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), max_size=5)


def layout_of(found: list[tuple[int, ...]]) -> Layout:
    return Layout(names=tuple(f"p{i}" for i in range(len(found))), shapes=tuple(found))


@given(shapes.filter(bool))
def test_flattening_undoes_splitting(found: list[tuple[int, ...]]) -> None:
    layout = layout_of(found)
    vector = torch.arange(layout.size, dtype=torch.float32)
    parts = layout.split(vector)
    assert torch.equal(layout.flatten(parts), vector)
    assert [tuple(part.shape) for part in parts.values()] == found
    assert sum(layout.sizes) == layout.size


@given(shapes, shapes)
def test_digests_are_equal_exactly_when_layouts_are(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> None:
    assert (layout_of(one).digest == layout_of(other).digest) == (one == other)


def test_names_count_in_the_digest_and_do_not_run_together() -> None:
    pairs = [("a", "b1"), ("ab", "1"), ("a;", "b1"), ("b1", "a")]
    assert len({Layout(names=pair, shapes=((1,), (1,))).digest for pair in pairs}) == len(pairs)


def test_a_model_comes_back_from_its_vector_bit_for_bit() -> None:
    one, other = encoder(), encoder()
    layout = Layout.of(one)
    vector = torch.randn(layout.size, generator=generator("vector"))
    tensors = [parameter.data_ptr() for parameter in other.parameters()]
    write_vector(other, layout, vector)
    assert torch.equal(read_vector(other, layout), vector)
    assert [parameter.data_ptr() for parameter in other.parameters()] == tensors
    assert not torch.equal(read_vector(one, layout), vector)


def test_what_was_read_does_not_change_with_the_model() -> None:
    model = encoder()
    layout = Layout.of(model)
    before = read_vector(model, layout)
    kept = before.clone()
    write_vector(model, layout, before + 1)
    assert torch.equal(before, kept)


def test_a_shared_parameter_counts_once_and_a_frozen_one_not_at_all() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 3))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    assert Layout.of(model) == Layout(names=("0.weight", "2.bias"), shapes=((2, 2), (3,)))


def test_vectors_and_tensors_that_do_not_fit_are_refused() -> None:
    layout = Layout(names=("a", "b"), shapes=((2,), (1, 3)))
    with pytest.raises(ValueError, match=r"expected a vector of 5, got shape \(4,\)"):
        layout.split(torch.zeros(4))
    with pytest.raises(ValueError, match=r"expected a vector of 5, got shape \(5, 1\)"):
        layout.split(torch.zeros(5, 1))
    with pytest.raises(ValueError, match="expected a tensor named b, got none"):
        layout.flatten({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"expected b of shape \(1, 3\), got \(3,\)"):
        layout.flatten({"a": torch.zeros(2), "b": torch.zeros(3)})
