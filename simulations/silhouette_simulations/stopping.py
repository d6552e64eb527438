"""Early stopping of a training without privacy: the model of the round that ranked validation events best.

The last known event of everybody is kept from training and ranked every few rounds. That is an exact metric of real
people, which no deployment would see: with privacy it would be a release of its own, so private rows run all their
rounds.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from silhouette_server.coordination.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from silhouette_shared.config import Plan
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_simulations.models import load_encoder
from silhouette_simulations.rows import mean_figures, rank_quickly
from silhouette_simulations.world import PartnerData, World

_FEWEST_EVENTS = 3  # of a person whose last one can be spared: two are left to learn from


def spare_last(partner: PartnerData) -> tuple[PartnerData, PartnerData]:
    """A partner to train on and the same people to validate on, whose last known event is asked for.

    Of a person with fewer than three events nothing is spared. The first keeps what was asked of the partner, the
    second asks for the spared events alone.
    """
    spared = partner.known.lengths >= _FEWEST_EVENTS
    rows = torch.nonzero(spared).flatten()
    shorter = replace(partner, known=partner.known.without_last(spared.long()))
    return shorter, replace(shorter, targets=partner.known.items[partner.known.offsets[1:][rows] - 1], asked=rows)


class EarlyStopping:
    """Watches one training: which round was best, and whether to wait for a better one.

    The best model is kept beside the training's checkpoint, so that a run that was killed goes on as if it had not
    been.
    """

    def __init__(
        self, plan: Plan, world: World, partners: Sequence[PartnerData], folder: Path, device: torch.device
    ) -> None:
        """Spare everybody's last known event.

        Args:
            plan: Its `training.patience` is above 0.
            world: For the catalogue.
            partners: Who is trained on.
            folder: Of the training.
            device: To rank on.

        Raises:
            UsageError: If nobody has an event to spare.
            IntegrityError: If the best model kept is damaged or another training's.
        """
        self._plan, self._world, self._device = plan, world, device
        both = [spare_last(partner) for partner in partners]
        self.trained_on = [shorter for shorter, _ in both]
        self._asked = [asked for _, asked in both]
        if not any(len(part.asked) for part in self._asked):
            raise UsageError(
                f"expected people with at least {_FEWEST_EVENTS} known events, whose last one can be spared to stop "
                "early, got none; set training.patience = 0"
            )
        self._path = folder / "best.safetensors"
        self._best = -1.0
        self._best_round = 0
        self._parameters: Tensor | None = None
        kept = read_checkpoint(self._path)
        if kept is not None:
            if kept.plan_digest != plan.digest:
                raise IntegrityError(f"{self._path}: expected the best model of this run, got another's; start again")
            self._parameters, self._best_round = kept.tensors["parameters"], kept.round
            self._best = float(str(kept.history[0]["ndcg_at_10"]))

    def after(self, number: int, parameters: Tensor) -> None:
        """Rank the spared events every `evaluation.every_rounds` rounds, and keep a better model.

        Args:
            number: Of the round, from 1.
            parameters: What the run would give now.
        """
        if number % self._plan.evaluation.every_rounds and number != self._plan.training.rounds:
            return
        encoder = load_encoder(self._plan, self._world.vocabulary, parameters, self._device)
        found = mean_figures(self._asked, [rank_quickly(encoder, part, self._device) for part in self._asked])[1]
        # A round told again after a kill is no better than it was.
        if found <= self._best:
            return
        self._best, self._best_round, self._parameters = found, number, parameters.clone()
        line: dict[str, float | int | str | None] = {"ndcg_at_10": found}
        write_checkpoint(
            self._path, Checkpoint("best", self._plan.digest, number, {"parameters": self._parameters}, (line,))
        )

    def enough(self, done: int) -> bool:
        """Whether `training.patience` rounds have gone by since the best one, after so many."""
        return self._parameters is not None and done - self._best_round >= self._plan.training.patience

    @property
    def parameters(self) -> Tensor | None:
        """The best model so far, (D,); None before the first ranking."""
        return self._parameters
