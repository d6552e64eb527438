"""A consortium of enrolled nodes with homes on disk, and a coordinator that offers them runs, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tests.people import LENGTHS, MECHANISM, histories, plan, vocabulary

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import install_kit
from silhouette_client.enrolment.making import make_node
from silhouette_client.offers import Node, node_app
from silhouette_client.policy.terms import Policy, write_policy
from silhouette_server.enrolment.office import Office
from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Aggregation, Partition, Plan, Privacy, Replies, Statistics, Training
from silhouette_shared.enrolment.offers import Offer, offer_of
from silhouette_shared.enrolment.signed import digest
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.accounting import epsilon
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.wire.agreement import vocabulary_for
from silhouette_shared.wire.offers import OfferRequest, PublicCatalogue, model_digest

NAMES = ("east", "north", "south")
PEOPLE = 10
SEED_PATH = ("training", "federated")
CONSORTIUM = "demo"
GENEROUS = Policy(modes=("local", "none"), epsilon_per_run=100.0, epsilon_per_year=100.0)


def public_catalogue() -> PublicCatalogue:
    """The catalogue of `tests.people`, with ids and classes."""
    held = vocabulary()
    items = len(held.categories) - 1
    return PublicCatalogue(
        Catalogue(
            items=tuple(f"i{number}" for number in range(1, items + 1)),
            titles=("", *(f"The title of item {number}" for number in range(2, items + 1))),
            categories=("a", "b", "c"),
            category_matrix=held.categories[1:].numpy(),
            texts=("",) * items,
            content=held.content[1:].numpy(),
        ),
        {"gender": ("f", "m"), "age": ("young", "middle", "old")},
    )


@dataclass
class FixedPeople:
    """A partner's people without tables."""

    found: Histories
    asked: int = 0

    def histories(self, items: Mapping[str, int], attributes: Mapping[str, object]) -> Histories:
        self.asked += 1
        return self.found


def deployed_plan(rounds: int = 2, mode: str = "none", partners: int = 3, **changes: Any) -> Plan:
    """A small plan for secure aggregation; with privacy its epsilon is what `MECHANISM` costs."""
    paid = epsilon(MECHANISM.after(rounds), 1e-5)
    made = plan(
        partition=Partition(partners=partners),
        training=Training(rounds=rounds, batch_size=3),
        privacy=Privacy(
            rounds=rounds,
            sampling_rate=MECHANISM.sampling_rate,
            clip_norm=MECHANISM.clip_norm,
            mode=mode,  # type: ignore[arg-type]
            epsilon=paid * 1.01,
        ),
        aggregation=Aggregation(protocol="sa-1"),
        replies=Replies(timeout_seconds=120.0),
        statistics=Statistics(popularity_share=0.0, transition_share=0.0),
    )
    return replace(made, **changes)


def budget_for(made: Plan) -> Budget | None:
    """The mechanism of `deployed_plan`; none without privacy."""
    if made.privacy.mode == "none":
        return None
    return Budget(popularity=None, transitions=None, training=MECHANISM.after(made.privacy.steps))


def initial_model(made: Plan) -> np.ndarray[Any, Any]:
    """The parameters that every run of a plan starts from, (D,)."""
    encoder = ProfileEncoder(
        made.model, vocabulary_for(made, public_catalogue().vocabulary(), budget_for(made)), made.data.history_length
    )
    encoder.initialise(ReproducibleSource(made.seed).child("initial model").torch_generator())
    return read_vector(encoder, Layout.of(encoder)).numpy()


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class House:
    """Office and nodes.

    Args:
        folder: For all homes.
        names: Of the partners.
        policy: Of every node.
        clock: Of everybody.
    """

    folder: Path
    names: tuple[str, ...] = NAMES
    policy: Policy = GENEROUS
    clock: Callable[[], datetime] = utc_now
    people: dict[str, FixedPeople] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.office = Office(self.folder / "office" / "coordinator", self.clock)
        self.fingerprint = self.office.init(CONSORTIUM, ["127.0.0.1", "localhost"])
        for name in self.names:
            make_node(self.home(name), name, PEOPLE)
        kits = {name: self.sign(name) for name in self.names}
        for name, kit in kits.items():
            install_kit(self.home(name), kit, self.fingerprint, self.clock())
            self.home(name).policy_path.write_text(write_policy(self.policy), encoding="utf-8")
        for number, name in enumerate(self.names):
            self.people.setdefault(name, FixedPeople(histories(LENGTHS[number:], seed=number)))

    def home(self, name: str) -> NodeHome:
        return NodeHome.of(self.folder / name)

    def request(self, name: str) -> bytes:
        return (self.home(name).folder / "request.json").read_bytes()

    def sign(self, name: str) -> bytes:
        return self.office.sign(self.request(name))[1]

    def open(self, name: str) -> Node:
        return Node.open(self.folder / name, people=self.people[name], clock=self.clock)

    def offer(self, made: Plan, run: str = "run-1", **changes: Any) -> Offer:
        """What an honest coordinator offers, or with changes another one."""
        names = tuple(self.office.roster().active)
        return replace(
            offer_of(
                made,
                run=run,
                consortium=CONSORTIUM,
                roster=(self.office.roster().version, digest(self.office.roster_bytes())),
                catalogue=public_catalogue().digest,
                people={name: self.office.roster().members[name].people for name in names},
                budget=budget_for(made),
                seed_path=SEED_PATH,
                start_model=model_digest(initial_model(made)),
                issued=int(self.clock().timestamp()),
            ),
            **changes,
        )

    def offered(self, made: Plan, run: str = "run-1", **changes: Any) -> OfferRequest:
        return self.request_for(self.offer(made, run, **changes))

    def request_for(self, offer: Offer, catalogue: PublicCatalogue | None = None) -> OfferRequest:
        return OfferRequest(
            offer=offer.encode(self.office.identity()),
            roster=self.office.roster_bytes(),
            catalogue=catalogue or public_catalogue(),
        )


def send(node: Node, kind: str, records: RecordDict) -> tuple[Message, float]:
    """A message through Flower's ClientApp of a node, and the seconds until its answer."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    message = Message(records, 2, kind)
    message.metadata.__dict__["_message_id"] = "1"
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    started = time.monotonic()
    answer = node_app(node)(message, context)
    return answer, time.monotonic() - started
