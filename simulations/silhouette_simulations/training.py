"""Training runs of a simulation: a set of partners, the Flower apps, and the model that comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from silhouette_client.node_folder import write_node_folder
from silhouette_client.training.engine import EngineName
from silhouette_server.app import counting_of, make_server_app, secure_job
from silhouette_server.coordination.federation import Beside, CheckedStrategy, Job, RoundRecord
from silhouette_server.coordination.secure import Desk
from silhouette_shared.config import Plan
from silhouette_shared.model.appraisal import Appraised
from silhouette_shared.model.figures import Released
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.secagg import Identity, Pins
from silhouette_shared.secagg.keys import KEY_BYTES
from silhouette_shared.wire.agreement import vocabulary_for
from silhouette_simulations.backend import Backend, run_apps
from silhouette_simulations.models import new_encoder
from silhouette_simulations.repeatable import RepeatableBytes
from silhouette_simulations.stopping import EarlyStopping
from silhouette_simulations.world import PartnerData, World


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    parameters: Tensor  # (D + P,) with the prior of a run with statistics
    records: tuple[RoundRecord, ...]
    figures: Mapping[str, Released] = field(default_factory=dict)  # what else was released of the people
    appraisal: Appraised | None = None  # the federated evaluation, by partner; None without one


@dataclass(frozen=True)
class Machine:
    """Settings that change speed and nothing else."""

    backend: Backend
    device: torch.device
    workers: int
    engine: EngineName = "bookkeeping"


def workers_for(plan: Plan, machine: Machine) -> int:
    """How many partners train at the same time.

    On Ray a partner's next message may reach another process, which knows nothing of the secrets of an open round.
    """
    return 1 if machine.backend == "ray" and plan.aggregation.protocol == "sa-1" else machine.workers


def declared_people(people: int, *, counted: bool) -> int:
    """What a partner of a simulation publishes as its size: its people to two digits or to tens, rounded up.

    Only where neither privacy nor secure aggregation keeps the number from the coordinator may it be `counted`.

    >>> [declared_people(people, counted=False) for people in (1, 99, 101, 189, 6040)]
    [10, 100, 110, 190, 6100]
    >>> declared_people(189, counted=True)
    189
    """
    if counted:
        return people
    unit = int(10 ** max(1, len(str(people)) - 2))
    return -(-people // unit) * unit


@dataclass(frozen=True)
class _Keys:
    """Signing keys of everybody in a simulation, which its seed repeats."""

    coordinator: bytes
    partners: dict[str, bytes]

    @property
    def pins(self) -> Pins:
        """The public halves."""
        return Pins(
            Identity(self.coordinator).public, {name: Identity(key).public for name, key in self.partners.items()}
        )

    def desk(self, folder: Path) -> Desk:
        """The coordinator's side."""
        return Desk(Identity(self.coordinator), self.pins, folder)


def _keys(plan: Plan, name: str, partners: Sequence[PartnerData]) -> _Keys:
    source = ReproducibleSource(plan.seed).child("training", name, "identity")

    def key(*path: str) -> bytes:
        return RepeatableBytes(source.child(*path)).bytes(KEY_BYTES)

    return _Keys(key("coordinator"), {partner.name: key("partner", partner.name) for partner in partners})


def train_together(
    plan: Plan,
    world: World,
    partners: Sequence[PartnerData],
    *,
    name: str,
    budget: Budget | None,
    folder: Path,
    records: Path | None = None,
    machine: Machine,
    on_round: Callable[[RoundRecord, Tensor], None],
    start: Tensor | None = None,
    beside: Beside | None = None,
) -> Trained:
    """Train one model on several partners through Flower, or on one partner alone, which is the same with one node.

    Without privacy, and with `training.patience`, the model of the best round is what comes out.

    Args:
        plan: Model, objective and schedule.
        world: For the public catalogue.
        partners: Who takes part.
        name: Of this training; names its draws and its checkpoint.
        budget: None trains without privacy.
        folder: For node data and the checkpoint; a training found there half done goes on.
        records: For the signed records of secure rounds, which outlast the training; None keeps them in `folder`.
        machine: Backend, device, workers and engine.
        on_round: Told every finished round and the model after it.
        start: The model to begin with, (D,) or (D + P,), whose prior is not taken over; None begins afresh.
        beside: A model of the same shape that the federated evaluation is to compare with.
    """
    vocabulary = vocabulary_for(plan, world.vocabulary, budget)
    initial = new_encoder(plan, vocabulary, torch.device("cpu"))
    layout = Layout.of(initial)
    stopping = None
    if budget is None and plan.training.patience:
        stopping = EarlyStopping(plan, world, partners, folder, machine.device)
        partners = stopping.trained_on

    def after_round(record: RoundRecord, model: Tensor) -> None:
        if stopping is not None:
            stopping.after(record.round, model)
        on_round(record, model)

    nodes = folder / "nodes"
    keys = _keys(plan, name, partners) if plan.aggregation.protocol == "sa-1" and len(partners) > 1 else None
    pins = None if keys is None else keys.pins
    counted = budget is None and keys is None
    declared = {partner.name: declared_people(len(partner), counted=counted) for partner in partners}
    write_node_folder(
        nodes,
        plan=plan,
        vocabulary=vocabulary,
        partners={partner.name: partner.known for partner in partners},
        declared_people=declared,
        budget=budget,
        seed_path=("training", name),
        pins=pins,
        identities=None if keys is None else keys.partners,
    )
    job = Job(
        run=f"{plan.digest[:16]}/{name}",
        plan_digest=plan.digest,
        layout=layout,
        schedule=plan.training if budget is None else plan.privacy,
        replies=plan.replies if len(partners) > 1 else type(plan.replies)(),
        partners=len(partners),
        initial=read_vector(initial, layout) if start is None else start[: layout.size],
        trained_before=start is not None,
        counting=counting_of(plan, vocabulary, budget),
        secure=None
        if keys is None
        else secure_job(
            plan, vocabulary, budget, layout.size, keys.desk(records or folder / "secure"), max(declared.values())
        ),
        training=None if budget is None else budget.training,
        checkpoint=folder / "checkpoint.safetensors",
        on_round=after_round,
        beside=lambda: beside,
        enough=(lambda done: False) if stopping is None else stopping.enough,
    )
    finished: list[CheckedStrategy] = []
    run_apps(
        make_server_app(job, finished.append),
        nodes,
        nodes=len(partners),
        backend=machine.backend,
        device=machine.device,
        workers=workers_for(plan, machine),
        engine=machine.engine,
    )
    (strategy,) = finished
    best = None if stopping is None else stopping.parameters
    return Trained(
        parameters=strategy.model if best is None else best,
        records=strategy.records,
        figures=strategy.figures,
        appraisal=strategy.appraisal,
    )
