"""The agent: the only owner of a partner's data.

It answers round messages and decides what it answers to. Nothing outside this package reaches the histories.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.policy.receipt import Receipt
from silhouette_client.secure import Asked, Enrolment, SecureMember
from silhouette_client.training.engine import EngineName
from silhouette_client.training.figures import evaluation_rows, evaluation_sum, figure_sum
from silhouette_client.training.local import train_plainly
from silhouette_client.training.private import noised_gradient, train_privately
from silhouette_client.training.release import (
    ClippedSum,
    NoisedSum,
    PlainUpdate,
    PrivateUpdate,
    Releasable,
    encode_sum,
    encode_update,
    in_place,
)
from silhouette_client.training.statistics import popularity_sum, transition_sum
from silhouette_client.training.step import ChargedNoise
from silhouette_shared.config import Plan, ReleaseName
from silhouette_shared.errors import RefusedError
from silhouette_shared.model.appraisal import MOST_MODELS, Sheet
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.figures import FIGURES
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.pairs import pair_count
from silhouette_shared.model.vector import Layout, write_vector
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource, SecretBytes, SecureSource
from silhouette_shared.secagg import Encoded
from silhouette_shared.secagg import Terms as SecureTerms
from silhouette_shared.wire import (
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
)
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.exchange import Answer, Exchange
from silhouette_shared.wire.messages import STATISTICS, StatisticName
from silhouette_shared.wire.rounds import noised_layout, round_terms, training_layout

_MODELS = ("parameters", "beside")  # what an evaluation is asked of, the second one if there is one

Secrets = Callable[[int, str], SecretBytes]
"""Gives, for a round and the name of a purpose, the bytes that serve these two and nothing else."""


def unpredictable(round_number: int, purpose: str) -> SecretBytes:
    """What a partner uses: fresh bytes, whatever is asked for."""
    return SecureSource()


@dataclass(frozen=True)
class Terms:
    """What a partner agreed to, beyond the plan."""

    budget: Budget | None  # None: it answers without privacy, in a simulation only
    declared_people: int  # what it publishes as its size; no count of its people, if there is a budget
    largest_partner: int = 0  # the largest declared size of all partners; a weight in a secure round is no larger


class Agent:
    """One partner's side of a training run.

    Args:
        partner: Its name in the roster.
        histories: Its people, already on the device where they stay.
        vocabulary: The public catalogue and attribute classes, on the same device.
        plan: The plan that this partner installed.
        terms: Whether it answers with privacy, and the mechanisms that its accounting reads.
        randomness: Reproducible; training without privacy draws from it, the partner and the round.
        ledger: Charged before every private release; a partner without privacy needs none.
        secrets: For the sampling and the noise of private training.
        engine: Computes the same clipped sums another way.
        enrolment: For secure aggregation. A partner that has one answers in no other way.

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
        enrolment: Enrolment | None = None,
    ) -> None:
        if len(histories) == 0:
            raise RefusedError(f"{partner} holds no people; a partner needs at least one")
        if terms.budget is not None and ledger is None:
            raise ValueError("expected a ledger to charge private releases to, got none")
        self.partner = partner
        self._everything = self._histories = histories
        if terms.budget is not None and terms.budget.evaluation is not None:
            # The newest event is asked for by the evaluation and for nothing else. Who has no other keeps it.
            self._histories = histories.without_last((histories.lengths > 1).long())
        self._plan = plan
        self._vocabulary = vocabulary
        self._terms = terms
        self._randomness = randomness.child(partner)
        self._ledger, self._secrets, self._engine = ledger, secrets, engine
        self._device = histories.items.device
        self._encoder = ProfileEncoder(plan.model, vocabulary, plan.data.history_length).to(self._device)
        self._layout = Layout.of(self._encoder)
        self._turn = threading.Lock()  # one encoder, one round at a time
        self._foreseen: set[str] = set()  # runs that were found to fit to their ends
        self._enrolment = enrolment
        self._member = (
            None if enrolment is None else SecureMember(partner, enrolment, secrets(0, "aggregation"), self, ledger)
        )

    def describe(self, request: DescribeRequest) -> Description:
        """Name, declared number of people, and the plan and model layout that this partner holds."""
        return Description(
            run=request.run,
            partner=self.partner,
            people=self._terms.declared_people,
            plan_digest=self._plan.digest,
            layout_digest=self._layout.digest,
        )

    def train(self, request: TrainRequest) -> TrainReply:
        """One round's update.

        Raises:
            RefusedError: If the request is not one of the plan that this partner installed.
        """
        self._refuse_in_the_open()
        update = self._trained(request)
        return TrainReply(
            run=request.run,
            round=request.round,
            plan_digest=request.plan_digest,
            update=update.vector.cpu().numpy(),
        )

    def exchange(self, request: Exchange) -> Answer:
        """One step of a secure round.

        Raises:
            RefusedError: If this partner is not enrolled for secure aggregation, or has not agreed to the round.
            AbortError: If the message is not what this step needs; the round is over here.
        """
        if self._member is None:
            raise RefusedError(
                "expected a run without secure aggregation, got a secure round; enrol this partner first"
            )
        return self._member.answer(request)

    def terms(self, asked: Asked) -> SecureTerms:
        """What a secure round is about, as this partner's plan has it; RefusedError if it has no such round."""
        mechanism: SampledGaussian | None
        if asked.purpose == "training":
            self._check(self._train_request(asked))
            training = None if self._terms.budget is None else self._terms.budget.training
            mechanism = None if training is None else self._of_round(training)
            layout = training_layout(
                self._plan,
                self._layout.size,
                mechanism,
                partners=len(self._roster),
                people=self._terms.largest_partner,
            )
        else:
            name = self._release_name(asked.purpose)
            if asked.round < 0:
                raise RefusedError(f"expected an attempt from 0 on at {name}, got {asked.round}")
            mechanism, grid, size = self._statistic(name, self._checked_inputs(name, asked.inputs))
            layout = noised_layout(size, mechanism, grid, people=self._terms.largest_partner)
        return round_terms(
            self._plan,
            self._vocabulary,
            purpose=asked.purpose,
            number=asked.round,
            layout=layout,
            inputs=asked.inputs,
            mechanism=mechanism,
        )

    def contribute(self, asked: Asked, terms: SecureTerms) -> Encoded:
        """The vector of a secure round: charged, noised and on its grid, ready to be masked and for nothing else."""
        if asked.purpose == "training":
            if self._terms.budget is not None and self._plan.privacy.mode == "distributed":
                return encode_sum(self._gradient(self._train_request(asked)), terms.layout)
            update = self._trained(self._train_request(asked))
            private = self._terms.budget is not None
            weight = self._terms.declared_people if private else len(self._histories)
            return encode_update(update, weight, terms.layout)
        name = self._release_name(asked.purpose)
        return encode_sum(self._counted(asked.run, name, asked.inputs, asked.round), terms.layout)

    @property
    def parameters(self) -> int:
        """Coordinates D of the model, without a prior."""
        return self._layout.size

    @property
    def _roster(self) -> tuple[str, ...]:
        return () if self._enrolment is None else tuple(sorted(self._enrolment.pins.partners))

    def _train_request(self, asked: Asked) -> TrainRequest:
        return TrainRequest(
            run=asked.run,
            round=asked.round,
            plan_digest=self._plan.digest,  # the manifest is bound to the plan
            parameters=_only(asked.inputs, asked.purpose, "parameters"),
        )

    def _release_name(self, purpose: str) -> StatisticName | ReleaseName:
        for name in (*STATISTICS, *FIGURES):
            if purpose == name:
                return name
        raise RefusedError(
            f"expected a round for training, popularity or transitions, or for one of {', '.join(FIGURES)}, got "
            f"{purpose[:40]!r}"
        )

    def _refuse_in_the_open(self) -> None:
        if self._member is not None:
            raise RefusedError(
                "expected a secure round, got a request for an update without masks; this partner is enrolled for "
                "secure aggregation and answers in no other way"
            )

    def _trained(self, request: TrainRequest) -> Releasable:
        self._check(request)
        with self._turn:
            self._take_over(torch.from_numpy(request.parameters).to(self._device))
            update = self._update(request)
        if self._terms.budget is not None and not isinstance(update, PrivateUpdate):
            raise RefusedError("expected a private update, got one without noise; nothing was sent")
        if self._terms.budget is None and not isinstance(update, PlainUpdate):
            raise RefusedError("expected an update without noise, got a private one")
        return update

    def _update(self, request: TrainRequest) -> Releasable:
        plan, budget = self._plan, self._terms.budget
        if budget is None or self._ledger is None:
            source = self._randomness.child(request.round).child("objective")
            return train_plainly(
                self._encoder,
                self._layout,
                self._histories,
                plan.training,
                request.round,
                source.torch_generator(self._device),
            )
        receipt, mechanism = self._charged(request)
        return train_privately(
            self._encoder,
            self._layout,
            self._histories,
            plan.training,
            plan.privacy,
            request.round,
            receipt=receipt,
            mechanism=mechanism,
            declared_people=self._terms.declared_people,
            secret=lambda purpose: self._secrets(request.round, purpose),
            engine=self._engine,
        )

    def _gradient(self, request: TrainRequest) -> NoisedSum:
        """One noised gradient, for the mode `distributed`: what leaves is a part of a sum."""
        self._check(request)
        with self._turn:
            self._take_over(torch.from_numpy(request.parameters).to(self._device))
            receipt, mechanism = self._charged(request)
            return noised_gradient(
                self._encoder,
                self._layout,
                self._histories,
                self._plan.training,
                self._plan.privacy,
                receipt=receipt,
                mechanism=mechanism,
                secret=lambda purpose: self._secrets(request.round, purpose),
                engine=self._engine,
            )

    def _charged(self, request: TrainRequest) -> tuple[Receipt, SampledGaussian]:
        """Charge one round of training: on disk when this returns."""
        mechanism = None if self._terms.budget is None else self._terms.budget.training
        if mechanism is None or self._ledger is None:
            raise RefusedError("expected a budget for training, got none; nothing was sent")
        of_round = self._of_round(mechanism)
        return self._charge(request.run, request.round, "training", of_round, request.parameters), of_round

    def foresee(self, run: str) -> None:
        """Refuse a run now if the ledger would refuse the rest of it later; nothing is written.

        Raises:
            BudgetRefusedError: With the limit that it would pass.
        """
        ledger, budget = self._ledger, self._terms.budget
        if ledger is None or budget is None or run in self._foreseen:
            return
        charged = any(isinstance(entry.content, Charge) and entry.content.run == run for entry in ledger.entries)
        if not charged:  # else what is left of it is not known here, and each round is looked at as it comes
            ledger.foresee(run, self._plan.digest, self._whole_run(budget), self._plan.privacy.delta)
        self._foreseen.add(run)

    def _charge(self, run: str, number: int, purpose: str, mechanism: SampledGaussian, inputs: Vector) -> Receipt:
        """Charge one release; the first one of a run is refused if the run would not fit to its end."""
        ledger, budget, delta = self._ledger, self._terms.budget, self._plan.privacy.delta
        if ledger is None or budget is None:
            raise RefusedError("expected a budget to charge, got none; nothing was sent")
        self.foresee(run)
        return ledger.charge(
            Charge(
                run=run,
                round=number,
                purpose=purpose,
                mechanism=mechanism,
                delta=delta,
                plan_digest=self._plan.digest,
                model_digest=hashlib.sha256(inputs.tobytes()).hexdigest(),
            )
        )

    def _whole_run(self, budget: Budget) -> list[SampledGaussian]:
        """Everything that a run of the plan charges, each on its grid."""
        active = min(self._plan.active_items, len(self._encoder.item.weight) - 1)
        counted = [name for name in (*STATISTICS, *FIGURES) if getattr(budget, name) is not None]
        parts = [self._statistic(name, MOST_MODELS if name == "evaluation" else active)[0] for name in counted]
        if budget.training is not None:
            parts.append(self._of_round(budget.training).after(budget.training.steps))
        return parts

    def _of_round(self, mechanism: SampledGaussian) -> SampledGaussian:
        grid = Grid.of(mechanism.clip_norm, self._plan.privacy.grid_bits)
        return mechanism.after(self._plan.privacy.local_steps).on_grid(grid, self._layout.size)

    def _take_over(self, model: torch.Tensor) -> None:
        size = self._layout.size
        write_vector(self._encoder, self._layout, model[:size])
        try:
            self._encoder.set_prior(model[size:])
        except ValueError as error:
            raise RefusedError(f"expected a model with a prior: {error}") from None

    def count(self, statistic: StatisticName, request: StatisticRequest) -> StatisticReply:
        """One noised sum over this partner's people, charged before its noise is drawn.

        Raises:
            RefusedError: If it is not one of the statistics of the plan that this partner installed.
        """
        self._refuse_in_the_open()
        if request.statistic != statistic:
            raise RefusedError(f"expected a request for {statistic}, got one for {request.statistic}")
        self._check_plan(request.plan_digest)
        noised = self._counted(request.run, statistic, {"active": request.active})
        return StatisticReply(
            run=request.run,
            statistic=statistic,
            plan_digest=request.plan_digest,
            total=noised.value().cpu().numpy(),
        )

    def _counted(
        self, run: str, statistic: StatisticName | ReleaseName, inputs: Mapping[str, Vector], attempt: int = 0
    ) -> NoisedSum:
        """A statistic's or a figure's noised sum; every attempt is a charge of its own, as long as the budget lasts.

        Args:
            run: The run's name.
            statistic: What is counted.
            inputs: Active items for the transitions, one or two models for the evaluation, nothing for the others.
            attempt: Number of it.
        """
        if self._ledger is None:
            raise RefusedError(f"expected a request of the plan, got one for {statistic}, which has no budget in it")
        released, grid, size = self._statistic(statistic, self._checked_inputs(statistic, inputs))
        asked_for = inputs["parameters" if statistic == "evaluation" else "active"]
        receipt = self._charge(run, attempt, statistic, released, asked_for)
        place = slice(0, size)
        if statistic == "evaluation" and self._plan.privacy.mode != "distributed":
            # All the noise that this partner's people need, in its own place; the other places are the others'.
            place = self._sheet(len(inputs)).place(self.partner)
        noise = ChargedNoise(receipt, released, self._secrets(attempt, statistic), grid, place.stop - place.start)
        noise.begin()
        clipped = self._clipped(statistic, inputs)
        if statistic == "evaluation" and place == slice(0, size):
            clipped = clipped.at(self._sheet(len(inputs)).place(self.partner), size)
        noised = noise.release(clipped)
        return noised if place == slice(0, size) else in_place(noised, place, size)

    def _clipped(self, statistic: StatisticName | ReleaseName, inputs: Mapping[str, Vector]) -> ClippedSum:
        """The sum before its noise, for nobody but `_counted`."""
        items = len(self._encoder.item.weight) - 1
        if statistic == "popularity":
            return popularity_sum(self._histories, items)
        if statistic == "transitions":
            active = torch.from_numpy(inputs["active"]).to(self._device)
            return transition_sum(self._histories, active, self._plan.statistics.window, items)
        if statistic == "evaluation":
            return self._evaluated([inputs[name] for name in _MODELS[: len(inputs)]])
        return figure_sum(statistic, self._histories, self._vocabulary)

    def _evaluated(self, models: Sequence[Vector]) -> ClippedSum:
        rows = []
        with self._turn:
            for model in models:
                self._take_over(torch.from_numpy(model).to(self._device))
                rows.append(evaluation_rows(self._encoder, self._everything))
        return evaluation_sum(rows, self._sheet(len(models)))

    def _sheet(self, models: int) -> Sheet:
        return Sheet(self._roster or (self.partner,), models)

    def _statistic(self, statistic: StatisticName | ReleaseName, count: int) -> tuple[SampledGaussian, Grid, int]:
        """The mechanism of a statistic on its grid, the grid, and the size of its sum.

        Args:
            statistic: What is counted.
            count: Active items, or models that are evaluated.
        """
        budget = self._terms.budget
        mechanism: SampledGaussian | None = None if budget is None else getattr(budget, statistic)
        if mechanism is None:
            raise RefusedError(f"expected a request of the plan, got one for {statistic}, which has no budget in it")
        if statistic == "popularity":
            size = len(self._encoder.item.weight)
        elif statistic == "transitions":
            size = pair_count(count)
        elif statistic == "evaluation":
            size = self._sheet(count).size
        else:
            size = len(FIGURES[statistic].cells(self._vocabulary))
        grid = Grid.of(mechanism.clip_norm, self._plan.privacy.grid_bits)
        return mechanism.on_grid(grid, size), grid, size

    def _checked_inputs(self, statistic: StatisticName | ReleaseName, inputs: Mapping[str, Vector]) -> int:
        """How many active items or models came, if they may."""
        if statistic == "evaluation":
            if set(inputs) not in ({"parameters"}, set(_MODELS)):
                raise RefusedError(f"expected one or two models to evaluate, got {sorted(inputs)}")
            for model in inputs.values():
                self._check_model(model)
            return len(inputs)
        active = _only(inputs, statistic, "active")
        self._check_active(statistic, active)
        return len(active)

    def _check_active(self, statistic: StatisticName | ReleaseName, active: Vector) -> None:
        items = len(self._encoder.item.weight) - 1
        expected = min(self._plan.active_items, items) if statistic == "transitions" else 0
        if len(active) != expected:
            raise RefusedError(f"expected {expected} active items, got {len(active)}")
        if len(active) and (int(active.min()) < 1 or int(active.max()) > items or len(set(active)) < len(active)):
            raise RefusedError(f"expected different active items from 1 to {items}, got others")

    def _check_plan(self, digest: str) -> None:
        if digest != self._plan.digest:
            raise RefusedError(
                f"expected plan {self._plan.digest[:12]}, got {digest[:12]}; install the same plan on both sides"
            )

    def _check(self, request: TrainRequest) -> None:
        self._check_plan(request.plan_digest)
        private = self._terms.budget is not None
        rounds = self._plan.privacy.rounds if private else self._plan.training.rounds
        if not 1 <= request.round <= rounds:
            raise RefusedError(f"expected a round from 1 to {rounds}, got {request.round}")
        self._check_model(request.parameters)

    def _check_model(self, parameters: Vector) -> None:
        size = self._layout.size + self._encoder.prior_size
        if parameters.shape != (size,):
            raise RefusedError(f"expected a model of {size} parameters, got shape {parameters.shape}")
        if not np.isfinite(parameters).all():  # torch's takes 20 times as long
            raise RefusedError("expected a finite model, got infinite or undefined parameters")


def _only(inputs: Mapping[str, Vector], purpose: str, name: str) -> Vector:
    if set(inputs) != {name}:
        raise RefusedError(f"expected {name} with a round for {purpose}, got {sorted(inputs)}")
    return inputs[name]
