"""Clipped sums from Opacus' hooks: a gradient a person of every parameter, the reference for the faster engine.

It holds people x parameters numbers at once, so a step goes through its people in small virtual batches.
"""

import warnings
from typing import cast

import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from silhouette_client.training.engine import Losses, clip_factors
from silhouette_shared.config import Clipping

# Opacus hooks every layer, and an embedding's input is item numbers, which have no gradient. torch then says that the
# hook fires for the outputs alone, and those are all that Opacus reads there (the per-person gradients are tested
# against plain autograd). Once for the process: `warnings.catch_warnings` is not safe where partners train in threads.
warnings.filterwarnings(
    "ignore",
    message="Full backward hook is firing when gradients are computed with respect to module outputs",
    category=UserWarning,
)


class OpacusHooks:
    """The engine `opacus`; see `Engine`.

    Args:
        model: Every layer with parameters needs a per-person gradient in Opacus.
        clip_norm: Largest L2 norm of one person's part.
        clipping: How a gradient is scaled, as in the plan.
        stability: Added to the norm in automatic clipping.

    Raises:
        ValueError: If a layer of the model has no per-person gradient.
    """

    def __init__(self, model: nn.Module, *, clip_norm: float, clipping: Clipping, stability: float) -> None:
        model.train()  # Opacus judges a model as it trains
        faults = ModuleValidator.validate(model, strict=False)
        if faults:
            raise ValueError(f"expected layers with per-person gradients, got {faults}")
        self._model, self._clip_norm, self._clipping, self._stability = model, clip_norm, clipping, stability
        self._watched = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=True)
        self._sums = self._zeros()

    def add(self, losses: Losses) -> None:
        """Add the people of one virtual batch."""
        self._forget_gradients()
        per_person = losses(None)
        people = len(per_person)
        per_person.sum().backward()
        gradients = {
            # A layer that this batch did not reach has no gradient.
            name: cast(Tensor, getattr(parameter, "grad_sample", None))
            for name, parameter in self._model.named_parameters()
            if getattr(parameter, "grad_sample", None) is not None
        }
        norms = torch.stack(
            [torch.linalg.vector_norm(g.reshape(people, -1), dim=1, dtype=torch.float64) for g in gradients.values()]
        ).norm(dim=0)
        scale = clip_factors(norms, self._clip_norm, self._clipping, self._stability)
        for name, gradient in gradients.items():
            gradient[~norms.isfinite()] = 0.0  # zero times infinity is no number
            self._sums[name] += torch.einsum("b,b...->...", scale.to(gradient.dtype), gradient)
        self._forget_gradients()

    def take(self) -> dict[str, Tensor]:
        """The sum since the last call."""
        sums, self._sums = self._sums, self._zeros()
        return sums

    def close(self) -> None:
        """Leave the model as it came, also after an error between a forward and its backward pass.

        What Opacus would keep is added to the next pass: other people's gradients, under nobody's clip norm.
        """
        self._watched.cleanup()
        self._forget_gradients()
        for module in self._model.modules():
            for name in ("activations", "max_batch_len"):
                if hasattr(module, name):
                    delattr(module, name)

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(p, requires_grad=False) for name, p in self._model.named_parameters()}

    def _forget_gradients(self) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None
            if hasattr(parameter, "grad_sample"):
                parameter.grad_sample = None
