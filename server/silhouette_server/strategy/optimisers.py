"""What the coordinator does with the mean update: it is the negative gradient of a server-side optimiser.

Reddi et al. 2021, https://arxiv.org/abs/2003.00295. The arithmetic is torch's, but for Adam with the noise taken out of
its second moment, Tang et al. 2024, https://arxiv.org/abs/2312.14334.
"""

from typing import Any, cast

import torch
from torch import Tensor

from silhouette_shared.config import Schedule

_SECOND_MOMENT_DECAY = 0.99
_ADAM_EPSILON = 1e-8
_LEAST_SECOND_MOMENT = 0.05  # of the noise's, once that is taken off: an estimate of nothing is not divided by


class CorrectedAdam(torch.optim.Optimizer):
    """Adam whose second moment is that of the signal: the known variance of the noise is taken off.

    Under noise Adam divides by the noise, which is the same for every coordinate, and so is momentum with another
    learning rate. What is left after the correction is the coordinate's own; it is kept above a fraction of the noise.

    Args:
        parameters: What is optimised.
        lr: Learning rate.
        betas: Decays of the two moments.
    """

    def __init__(self, parameters: list[Tensor], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})
        self.noise_std = 0.0  # of each coordinate of the next gradient

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the gradients and the `noise_std` that was set."""
        for group in self.param_groups:
            decay, slow = group["betas"]
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                    state["noise_sq"] = torch.tensor(0.0, dtype=torch.float64)
                state["step"] += 1
                state["exp_avg"].lerp_(parameter.grad, 1 - decay)
                state["exp_avg_sq"].mul_(slow).addcmul_(parameter.grad, parameter.grad, value=1 - slow)
                state["noise_sq"] = slow * state["noise_sq"] + (1 - slow) * self.noise_std**2
                taken = float(state["step"])
                known = float(state["noise_sq"]) / (1 - slow**taken)
                second = (state["exp_avg_sq"] / (1 - slow**taken) - known).clamp(min=_LEAST_SECOND_MOMENT * known)
                first = state["exp_avg"] / (1 - decay**taken)
                parameter.addcdiv_(first, second.sqrt() + _ADAM_EPSILON, value=-group["lr"])


class ServerOptimiser:
    """Keeps the global model and moves it by mean updates.

    Args:
        schedule: Kind, learning rate and momentum.
        parameters: Initial model, shape (D,); copied.
    """

    def __init__(self, schedule: Schedule, parameters: Tensor) -> None:
        self._model = parameters.detach().clone().requires_grad_(True)
        self._averaging = schedule.averaging
        self._sum = torch.zeros_like(parameters) if self._averaging else None  # of the models, later ones weighing more
        self._weight = 0.0  # of all of them
        rate = schedule.server_learning_rate
        self._optimiser: torch.optim.Optimizer
        if schedule.server_optimiser == "adam":
            self._optimiser = torch.optim.Adam(
                [self._model],
                lr=rate,
                betas=(schedule.server_momentum, _SECOND_MOMENT_DECAY),
                eps=_ADAM_EPSILON,
            )
        elif schedule.server_optimiser == "adam_corrected":
            self._optimiser = CorrectedAdam(
                [self._model], lr=rate, betas=(schedule.server_momentum, _SECOND_MOMENT_DECAY)
            )
        else:
            momentum = schedule.server_momentum if schedule.server_optimiser == "momentum" else 0.0
            self._optimiser = torch.optim.SGD([self._model], lr=rate, momentum=momentum)

    @property
    def parameters(self) -> Tensor:
        """A copy of the global model, shape (D,), which later steps do not change."""
        return self._model.detach().clone()

    @property
    def averaged(self) -> Tensor:
        """The running mean of the models after each step, shape (D,); the last one without averaging.

        Polyak and Juditsky 1992, with the weights of an exponential mean; noise of single steps averages out.
        """
        return self.parameters if self._sum is None or self._weight == 0 else self._sum / self._weight

    def step(self, mean_update: Tensor, noise_std: float = 0.0) -> None:
        """Move the model along `mean_update`, shape (D,), float32, each coordinate with noise of `noise_std`."""
        self._model.grad = -mean_update
        if isinstance(self._optimiser, CorrectedAdam):
            self._optimiser.noise_std = noise_std
        self._optimiser.step()
        self._model.grad = None
        if self._sum is not None:
            self._sum = self._averaging * self._sum + (1 - self._averaging) * self._model.detach()
            self._weight = self._averaging * self._weight + (1 - self._averaging)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on later, as plain tensors."""
        tensors = {"parameters": self.parameters}
        if self._sum is not None:
            tensors |= {"average.sum": self._sum.clone(), "average.weight": torch.tensor(self._weight).double()}
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
        if self._sum is not None and {"average.sum", "average.weight"} - set(tensors):
            raise ValueError("expected the state of a model with its running mean, got one without")
        with torch.no_grad():
            self._model.copy_(tensors["parameters"])
        if self._sum is not None:
            self._sum, self._weight = tensors["average.sum"].clone(), float(tensors["average.weight"])
        prefix = "optimiser."
        inner: dict[str, Any] = {
            name.removeprefix(prefix): value.clone() for name, value in tensors.items() if name.startswith(prefix)
        }
        if inner:
            self._optimiser.state[self._model] = cast(Any, inner)
