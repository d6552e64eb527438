"""A recommender in a quarter of its size: the item table as whole numbers of eight bits, a scale a row.

The item table is nearly all of a recommender. Its rows differ in length, so each has its own scale; everything else
keeps its float32. Symmetric, rounding to nearest: a coordinate moves by at most half a scale.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_shared.errors import IntegrityError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.vector import Layout

_TABLE = "item.weight"
_LARGEST = 127


@dataclass(frozen=True)
class QuantisedTable:
    """Rows of whole numbers, each with its unit."""

    values: Tensor  # (N, H) int8, from -127 to 127
    scale: Tensor  # (N,) float32, zero for a row of zeros

    def restored(self) -> Tensor:
        """The rows in float32."""
        return self.values.float() * self.scale[:, None]


def quantise_rows(table: Tensor) -> QuantisedTable:
    """Round every row to 8 bits of its own largest magnitude.

    Args:
        table: Finite, shape (N, H).

    Raises:
        ValueError: If a number is not finite.

    >>> quantise_rows(torch.tensor([[1.0, -0.5], [0.0, 0.0]])).values.tolist()
    [[127, -64], [0, 0]]
    """
    if not bool(table.isfinite().all()):
        raise ValueError("expected a finite table, got NaN or infinity; check the model")
    scale = table.float().abs().amax(1) / _LARGEST
    unit = scale.where(scale > 0, torch.ones_like(scale))
    values = (table.float() / unit[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return QuantisedTable(values.to(torch.int8), scale)


def export_int8(encoder: ProfileEncoder) -> dict[str, Tensor]:
    """The encoder's parameters by name, the item table as `item.weight.int8` and `item.weight.scale`."""
    parameters = {name: value.detach().contiguous() for name, value in encoder.named_parameters()}
    table = quantise_rows(parameters.pop(_TABLE))
    return {**parameters, f"{_TABLE}.int8": table.values, f"{_TABLE}.scale": table.scale}


def load_int8(encoder: ProfileEncoder, tensors: dict[str, Tensor]) -> None:
    """Take over what `export_int8` gave, in place.

    Raises:
        IntegrityError: If a tensor is missing, unknown or of another shape or type.
    """
    rest = dict(tensors)
    try:
        table = QuantisedTable(rest.pop(f"{_TABLE}.int8"), rest.pop(f"{_TABLE}.scale"))
    except KeyError as error:
        raise IntegrityError(f"expected a recommender of 8 bits, got one without {error}; export it again") from None
    wanted = dict(encoder.named_parameters())
    count, width = wanted[_TABLE].shape
    if table.values.dtype != torch.int8 or table.values.shape != (count, width) or table.scale.shape != (count,):
        raise IntegrityError(
            f"expected an item table of {count} x {width} whole numbers of 8 bits, got {tuple(table.values.shape)} of "
            f"{table.values.dtype}; export it from this catalogue's model"
        )
    rest[_TABLE] = table.restored()
    if rest.keys() != wanted.keys() or any(rest[name].shape != wanted[name].shape for name in wanted):
        raise IntegrityError(
            f"expected the {Layout.of(encoder).size} parameters of this plan's encoder, got others; export it again"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(rest[name])


def size_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of the numbers alone."""
    return sum(value.numel() * value.element_size() for value in tensors.values())
