"""Eight bits a coordinate move it by half a unit of its row at most, and the wrong tensors are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.people import encoder, generator

from silhouette_shared.errors import IntegrityError
from silhouette_shared.model.quantised import export_int8, load_int8, quantise_rows, size_bytes
from silhouette_shared.model.vector import Layout, read_vector


@given(st.integers(0, 1000), st.floats(1e-20, 1e20))
def test_a_coordinate_moves_by_half_a_unit_of_its_row_at_most(seed: int, scale: float) -> None:
    table = torch.randn(5, 7, generator=generator("table", seed)) * scale
    table[2] = 0.0
    made = quantise_rows(table)
    assert int(made.values.abs().max()) <= 127
    assert ((made.restored() - table).abs() <= 0.501 * made.scale[:, None]).all()
    assert (made.restored()[2] == 0).all()
    assert torch.equal(made.scale, table.abs().amax(1) / 127)


def test_a_table_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a finite table, got NaN or infinity"):
        quantise_rows(torch.tensor([[1.0, torch.inf]]))


def test_a_recommender_comes_back_with_its_table_rounded_and_the_rest_as_it_was() -> None:
    model, other = encoder(scale=10.0), encoder(scale=1.0)
    tensors = export_int8(model)
    load_int8(other, tensors)
    layout = Layout.of(model)
    mine, theirs = (layout.split(read_vector(m, layout)) for m in (model, other))
    for name in layout.names:
        if name == "item.weight":
            assert torch.allclose(theirs[name], mine[name], atol=float(mine[name].abs().max()) / 127)
            assert not torch.equal(theirs[name], mine[name])
        else:
            assert torch.equal(theirs[name], mine[name]), name
    assert other.score_item.weight is other.item.weight
    table = model.item.weight.numel()
    assert size_bytes(tensors) == 4 * (layout.size - table) + table + 4 * len(model.item.weight)


@pytest.mark.parametrize("fault", ["no table", "no scale", "another catalogue", "another shape", "unknown"])
def test_what_is_no_export_of_this_encoder_is_refused_and_nothing_taken_over(fault: str) -> None:
    tensors = export_int8(encoder(scale=10.0))
    if fault == "no table":
        del tensors["item.weight.int8"]
    elif fault == "no scale":
        del tensors["item.weight.scale"]
    elif fault == "another catalogue":
        tensors["item.weight.int8"] = tensors["item.weight.int8"][1:]
    elif fault == "another shape":
        tensors["fusion.query.bias"] = torch.zeros(9)
    else:
        tensors["extra"] = torch.zeros(1)
    model = encoder()
    before = read_vector(model, Layout.of(model))
    with pytest.raises(IntegrityError, match="export it"):
        load_int8(model, tensors)
    assert torch.equal(read_vector(model, Layout.of(model)), before)
