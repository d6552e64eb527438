"""What the coordinator does with the mean update: it is the negative gradient of a server-side optimiser.

Reddi et al. 2021, https://arxiv.org/abs/2003.00295. The arithmetic is torch's.
"""

from typing import Any, cast

import torch
from torch import Tensor

from silhouette_shared.config import Schedule

_SECOND_MOMENT_DECAY = 0.99
_ADAM_EPSILON = 1e-8


class ServerOptimiser:
    """Keeps the global model and moves it by mean updates.

    Args:
        schedule: Kind, learning rate and momentum.
        parameters: Initial model, shape (D,); copied.
    """

    def __init__(self, schedule: Schedule, parameters: Tensor) -> None:
        self._model = parameters.detach().clone().requires_grad_(True)
        rate = schedule.server_learning_rate
        self._optimiser: torch.optim.Optimizer
        if schedule.server_optimiser == "adam":
            self._optimiser = torch.optim.Adam(
                [self._model],
                lr=rate,
                betas=(schedule.server_momentum, _SECOND_MOMENT_DECAY),
                eps=_ADAM_EPSILON,
            )
        else:
            momentum = schedule.server_momentum if schedule.server_optimiser == "momentum" else 0.0
            self._optimiser = torch.optim.SGD([self._model], lr=rate, momentum=momentum)

    @property
    def parameters(self) -> Tensor:
        """A copy of the global model, shape (D,), which later steps do not change."""
        return self._model.detach().clone()

    def step(self, mean_update: Tensor) -> None:
        """Move the model along `mean_update`, shape (D,), float32."""
        self._model.grad = -mean_update
        self._optimiser.step()
        self._model.grad = None

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on later, as plain tensors."""
        tensors = {"parameters": self.parameters}
        inner = self._optimiser.state.get(self._model, {})
        for name, value in inner.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{name}"] = value.clone()
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: If the state is that of a model of another size.
        """
        if "parameters" not in tensors or tensors["parameters"].shape != self._model.shape:
            raise ValueError(f"expected the state of a model of {len(self._model)} parameters, got another")
        with torch.no_grad():
            self._model.copy_(tensors["parameters"])
        prefix = "optimiser."
        inner: dict[str, Any] = {
            name.removeprefix(prefix): value.clone() for name, value in tensors.items() if name.startswith(prefix)
        }
        if inner:
            self._optimiser.state[self._model] = cast(Any, inner)
