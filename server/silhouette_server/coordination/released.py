"""What a run has released beside its training: sums with their noise, by name, and what is read from them.

A partner is charged for each of them once. Therefore this lies in the checkpoint, and what is here is not asked for
again, also after a kill.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silhouette_server.coordination.job import Counting, Job
from silhouette_server.statistics import ReleasedSum, active_items, make_prior
from silhouette_shared.config import ReleaseName
from silhouette_shared.model.appraisal import Appraised, Sheet, read_appraisal
from silhouette_shared.model.figures import FIGURES, Released, read_figure
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.wire.messages import STATISTICS, StatisticName

# In a checkpoint, before every name. The names of what was released are followed by ".answers" (how many partners
# are in a sum) and ".attempts" (void ones).
_PREFIX = "statistics."

_ITEMS_STARTED = "item start"  # that the model has been started with what was counted


class ReleasedSums:
    """The statistics and figures of one run, as far as they are released.

    Args:
        job: Which ones the run asks for, and with how much noise.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tensors: dict[str, Tensor] = {}

    def state(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        return {_PREFIX + name: tensor for name, tensor in self._tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the tensors of a checkpoint, those of others among them.

        Raises:
            ValueError: If its prior has another shape.
        """
        self._tensors = {
            name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)
        }
        counting = self._job.counting
        if counting is not None and self.prior.shape != (counting.prior_size,):
            raise ValueError("its prior has another shape")

    # What is left

    def statistics_left(self) -> tuple[StatisticName, ...]:
        """Statistics of the plan that are not released yet, in their order."""
        counting = self._job.counting
        if counting is None:
            return ()
        return tuple(name for name in STATISTICS if getattr(counting.budget, name) and name not in self._tensors)

    def figures_left(self) -> tuple[ReleaseName, ...]:
        """Figures of the plan that are not released yet, in their order; those without cells are none."""
        secure = self._job.secure
        if secure is None:
            return ()
        return tuple(
            name for name in secure.figures if name not in self._tensors and FIGURES[name].cells(secure.vocabulary)
        )

    def attempt(self, name: StatisticName | ReleaseName) -> int:
        """The number of the next attempt, from 0; it is part of the round and of its charges."""
        return int(self._tensors.get(f"{name}.attempts", torch.tensor(0)))

    def use_up_attempt(self, name: StatisticName | ReleaseName) -> None:
        """The attempt was void."""
        self._tensors[f"{name}.attempts"] = torch.tensor(self.attempt(name) + 1)

    # Statistics

    @property
    def prior(self) -> Tensor:
        """The prior of the statistics so far, shape (P,): zeros before there is one, nothing without statistics."""
        counting = self._job.counting
        if counting is None:
            return torch.zeros(0)
        return self._tensors.get("prior", torch.zeros(counting.prior_size))

    @property
    def items_started(self) -> bool:
        """Whether the model has been started with what was counted."""
        return _ITEMS_STARTED in self._tensors

    def mark_items_started(self) -> None:
        """The model has been started with what was counted."""
        self._tensors[_ITEMS_STARTED] = torch.tensor(1)

    def active(self) -> NDArray[np.int64]:
        """The items that transitions are counted between, shape (M,), once popularity is released."""
        return active_items(self._statistic("popularity"), self._counting.settings.active_items)

    def add_statistic(self, name: StatisticName, total: NDArray[np.float64], answers: int) -> None:
        """Keep a statistic's sum over so many partners, and make the prior of what is there."""
        counting = self._counting
        self._add(name, total, answers)
        prior = make_prior(
            counting.settings,
            counting.content,
            self._statistic("popularity"),
            self.active(),
            self._statistic("transitions") if name == "transitions" else None,
        )
        self._tensors["prior"] = prior.vector()

    # Figures

    @property
    def figures(self) -> dict[str, Released]:
        """What was released of the people, by its name, the evaluation over everybody among it."""
        secure = self._job.secure
        if secure is None:
            return {}
        found: dict[str, Released] = {}
        for name, mechanism in secure.figures.items():
            if name in self._tensors and name != "evaluation":
                total, answers = self._sum(name, mechanism), self._answers(name)
                found[name] = read_figure(name, secure.vocabulary, total.values.numpy(), total.noise_std, answers)
        if (appraised := self.appraisal) is not None:
            found["evaluation"] = appraised.together
        return found

    def add_figure(self, name: ReleaseName, total: NDArray[np.float64], answers: int) -> None:
        """Keep a figure's sum over so many partners."""
        self._add(name, total, answers)

    @property
    def appraisal(self) -> Appraised | None:
        """What the evaluation has shown of the run's model, over everybody and at each partner; None before it."""
        secure = self._job.secure
        if secure is None or "evaluation" not in self._tensors:
            return None
        total, counted = self._tensors["evaluation"], self._tensors["evaluation.counted"].tolist()
        roster, mechanism = secure.partners, secure.figures["evaluation"]
        # In the mode `local` nobody else's noise is in a partner's place, and `shares` is one.
        drawn = len(counted) if secure.plan.privacy.mode == "distributed" else 1
        return read_appraisal(
            Sheet(roster, models=2 if "evaluation.beside" in self._tensors else 1),
            total.numpy(),
            mechanism.noise_std * math.sqrt(drawn / mechanism.shares),
            [roster[number] for number in counted],
        )

    @property
    def beside(self) -> str:
        """Digest of the model that the evaluation was beside, hex; empty without one."""
        return bytes(self._tensors.get("evaluation.beside", torch.zeros(0)).to(torch.uint8).tolist()).hex()

    def add_evaluation(self, total: NDArray[np.float64], counted: Iterable[str], beside: str) -> None:
        """Keep the sum of the evaluation.

        Args:
            total: As the sheet of all partners has it.
            counted: Whose answers are in it.
            beside: Digest of the model that it was beside, hex; empty without one.
        """
        secure = self._job.secure
        if secure is None:
            raise ValueError("expected secure aggregation for the evaluation, got none")
        self._tensors["evaluation"] = torch.from_numpy(total)
        self._tensors["evaluation.counted"] = torch.tensor([secure.partners.index(name) for name in counted])
        if beside:
            self._tensors["evaluation.beside"] = torch.tensor(list(bytes.fromhex(beside)))

    # Inside

    @property
    def _counting(self) -> Counting:
        if self._job.counting is None:
            raise ValueError("expected a run with statistics, got one without")
        return self._job.counting

    def _add(self, name: str, total: NDArray[np.float64], answers: int) -> None:
        self._tensors[name] = torch.from_numpy(total)
        self._tensors[f"{name}.answers"] = torch.tensor(answers)

    def _answers(self, name: str) -> int:
        return int(self._tensors[f"{name}.answers"])

    def _statistic(self, name: StatisticName) -> ReleasedSum:
        return self._sum(name, getattr(self._counting.budget, name))

    def _sum(self, name: str, mechanism: SampledGaussian) -> ReleasedSum:
        noise_std = mechanism.noise_std * math.sqrt(self._answers(name) / mechanism.shares)
        return ReleasedSum(self._tensors[name], noise_std)
