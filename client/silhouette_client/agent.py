"""The agent: the only owner of a partner's data.

It answers round messages and decides what it answers to. Nothing outside this package reaches the histories.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.training.engine import EngineName
from silhouette_client.training.local import train_plainly
from silhouette_client.training.private import train_privately
from silhouette_client.training.release import PlainUpdate, PrivateUpdate, Releasable
from silhouette_shared.config import Plan
from silhouette_shared.errors import RefusedError
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, write_vector
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource, SecretBytes, SecureSource
from silhouette_shared.wire import DescribeRequest, Description, TrainReply, TrainRequest

Secrets = Callable[[int, str], SecretBytes]
"""Gives, for a round and the name of a purpose, the bytes that serve these two and nothing else."""


def unpredictable(round_number: int, purpose: str) -> SecretBytes:
    """What a partner uses: fresh bytes, whatever is asked for."""
    return SecureSource()


@dataclass(frozen=True)
class Terms:
    """What a partner agreed to, beyond the plan."""

    mechanism: SampledGaussian | None  # None: it answers without privacy, in a simulation only


class Agent:
    """One partner's side of a training run.

    Args:
        partner: Its name in the roster.
        histories: Its people, already on the device where they stay.
        vocabulary: The public catalogue and attribute classes, on the same device.
        plan: The plan that this partner installed.
        terms: Whether it trains with privacy, and the mechanism that its accounting reads.
        randomness: Reproducible; training without privacy draws from it, the partner and the round.
        ledger: Charged before every private release; a partner without privacy needs none.
        secrets: For the sampling and the noise of private training.
        engine: Computes the same clipped sums another way.

    Raises:
        RefusedError: If there are no people.
        ValueError: If it trains with privacy and has no ledger.
    """

    def __init__(
        self,
        *,
        partner: str,
        histories: Histories,
        vocabulary: Vocabulary,
        plan: Plan,
        terms: Terms,
        randomness: ReproducibleSource,
        ledger: Ledger | None = None,
        secrets: Secrets = unpredictable,
        engine: EngineName = "bookkeeping",
    ) -> None:
        if len(histories) == 0:
            raise RefusedError(f"{partner} holds no people; a partner needs at least one")
        if terms.mechanism is not None and ledger is None:
            raise ValueError("expected a ledger to charge private training to, got none")
        self.partner = partner
        self._histories = histories
        self._plan = plan
        self._terms = terms
        self._randomness = randomness.child(partner)
        self._ledger, self._secrets, self._engine = ledger, secrets, engine
        self._device = histories.items.device
        self._encoder = ProfileEncoder(plan.model, vocabulary, plan.data.history_length).to(self._device)
        self._layout = Layout.of(self._encoder)
        self._turn = threading.Lock()  # one encoder, one round at a time

    def describe(self, request: DescribeRequest) -> Description:
        """Name, public number of people, and the plan and model layout that this partner holds."""
        return Description(
            run=request.run,
            partner=self.partner,
            people=len(self._histories),
            plan_digest=self._plan.digest,
            layout_digest=self._layout.digest,
        )

    def train(self, request: TrainRequest) -> TrainReply:
        """One round's update.

        Raises:
            RefusedError: If the request is not one of the plan that this partner installed.
        """
        self._check(request)
        with self._turn:
            parameters = torch.from_numpy(request.parameters).to(self._device)
            write_vector(self._encoder, self._layout, parameters)
            update = self._update(request)
        return self._reply(request, update)

    def _update(self, request: TrainRequest) -> Releasable:
        plan, mechanism = self._plan, self._terms.mechanism
        if mechanism is None or self._ledger is None:
            source = self._randomness.child(request.round).child("objective")
            return train_plainly(
                self._encoder,
                self._layout,
                self._histories,
                plan.training,
                request.round,
                source.torch_generator(self._device),
            )
        grid = Grid.of(mechanism.clip_norm, plan.privacy.grid_bits)
        of_round = mechanism.after(plan.privacy.local_steps).on_grid(grid, self._layout.size)
        receipt = self._ledger.charge(
            Charge(
                run=request.run,
                round=request.round,
                purpose="training",
                mechanism=of_round,
                delta=plan.privacy.delta,
                plan_digest=plan.digest,
                model_digest=hashlib.sha256(request.parameters.tobytes()).hexdigest(),
            )
        )
        return train_privately(
            self._encoder,
            self._layout,
            self._histories,
            plan.training,
            plan.privacy,
            request.round,
            receipt=receipt,
            mechanism=of_round,
            declared_people=len(self._histories),
            secret=lambda purpose: self._secrets(request.round, purpose),
            engine=self._engine,
        )

    def _check(self, request: TrainRequest) -> None:
        if request.plan_digest != self._plan.digest:
            raise RefusedError(
                f"expected plan {self._plan.digest[:12]}, got {request.plan_digest[:12]}; "
                "install the same plan on both sides"
            )
        private = self._terms.mechanism is not None
        rounds = self._plan.privacy.rounds if private else self._plan.training.rounds
        if not 1 <= request.round <= rounds:
            raise RefusedError(f"expected a round from 1 to {rounds}, got {request.round}")
        if request.parameters.shape != (self._layout.size,):
            raise RefusedError(
                f"expected a model of {self._layout.size} parameters, got shape {request.parameters.shape}"
            )
        if not np.isfinite(request.parameters).all():  # torch's takes 20 times as long
            raise RefusedError("expected a finite model, got infinite or undefined parameters")

    def _reply(self, request: TrainRequest, update: Releasable) -> TrainReply:
        if self._terms.mechanism is not None and not isinstance(update, PrivateUpdate):
            raise RefusedError("expected a private update, got one without noise; nothing was sent")
        if self._terms.mechanism is None and not isinstance(update, PlainUpdate):
            raise RefusedError("expected an update without noise, got a private one")
        return TrainReply(
            run=request.run,
            round=request.round,
            plan_digest=request.plan_digest,
            update=update.vector.cpu().numpy(),
        )
