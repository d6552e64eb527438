"""The bytes of a model: safetensors, one tensor a parameter, and the prior of the statistics after them."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from silhouette_shared.cards.refusals import OtherModelError
from silhouette_shared.model.vector import Layout

PRIOR = "statistics.prior"
"""Name of the tensor that holds what follows the trained parameters, (P,); left out where there is none."""


def pack_model(vector: Tensor, layout: Layout) -> bytes:
    """A model as safetensors.

    Args:
        vector: The global model, (D + P,): what is trained, then the prior if there are statistics.
        layout: Of the D trained parameters.

    Raises:
        ValueError: If the vector is shorter than the layout, or no vector.
    """
    if vector.ndim != 1 or len(vector) < layout.size:
        raise ValueError(f"expected a vector of at least {layout.size}, got shape {tuple(vector.shape)}")
    trained, prior = vector[: layout.size], vector[layout.size :]
    tensors = {name: part.contiguous() for name, part in layout.split(trained).items()}
    if len(prior):
        tensors[PRIOR] = prior.contiguous()
    return save(tensors)


def unpack_model(data: bytes, layout: Layout) -> Tensor:
    """Undo `pack_model`: the vector (D + P,).

    Raises:
        OtherModelError: If these are not the bytes of a model of this layout.
    """
    try:
        tensors = load(data)
        prior = tensors.pop(PRIOR, torch.zeros(0))
        if set(tensors) != set(layout.names) or prior.ndim != 1:
            raise ValueError("it has other tensors")
        if any(tensor.dtype != torch.float32 for tensor in (*tensors.values(), prior)):
            raise ValueError("it has other types than float32")
        return torch.cat([layout.flatten(tensors), prior])
    except (SafetensorError, ValueError, KeyError) as error:
        raise OtherModelError(
            f"expected the tensors of a model of this plan, got something else ({error}); refuse it"
        ) from None
