"""Named tensors to one flat vector and back.

Aggregation, clipping and the wire work on one float32 vector; its layout is agreed on beforehand.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a model's parameters in the order in which they fill the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """The layout of a model's trainable parameters; a parameter shared by two modules counts once."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return cls(
            names=tuple(name for name, _ in named),
            shapes=tuple(tuple(p.shape) for _, p in named),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Coordinates of each tensor."""
        return tuple(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def size(self) -> int:
        """Coordinates D of the flat vector."""
        return sum(self.sizes)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the names and shapes."""
        text = "".join(
            f"{len(name)}:{name}{len(shape)}:{','.join(map(str, shape))};"
            for name, shape in zip(self.names, self.shapes, strict=True)
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector (D,) from named tensors.

        Raises:
            ValueError: If a name is missing or a shape differs.
        """
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in tensors:
                raise ValueError(f"expected a tensor named {name}, got none")
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"expected {name} of shape {shape}, got {tuple(tensors[name].shape)}")
            parts.append(tensors[name].reshape(-1))
        return torch.cat(parts)

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Named views of a flat vector (D,)."""
        if vector.shape != (self.size,):
            raise ValueError(f"expected a vector of {self.size}, got shape {tuple(vector.shape)}")
        parts = vector.split(list(self.sizes))
        return {name: part.view(shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)}


def read_vector(model: nn.Module, layout: Layout) -> Tensor:
    """A copy of a model's parameters as one vector (D,)."""
    return layout.flatten({name: p.detach() for name, p in model.named_parameters()})


def write_vector(model: nn.Module, layout: Layout, vector: Tensor) -> None:
    """Set a model's parameters from one vector (D,) without replacing the tensors."""
    parts = layout.split(vector)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in parts:
                parameter.copy_(parts[name])
