"""In a private mode no number that depends on a record leaves a node without noise that was charged.

Two worlds differ in one person. Every message of every node is recorded as it leaves, and must be equal in the two,
the noised vectors apart; these must have equal forms, and come after a charge of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from tests.people import histories, only, plan, vocabulary

from silhouette_client.agent import Agent
from silhouette_client.app import make_client_app
from silhouette_client.node_folder import AgentCache, write_node_folder
from silhouette_client.policy.ledger_store import Ledger
from silhouette_server.app import counting_of, make_server_app
from silhouette_server.coordination.federation import CheckedStrategy, Job
from silhouette_shared.config import Plan, Privacy, Replies, Statistics
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.budget import Budget, budget_of
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.wire.agreement import vocabulary_for
from silhouette_simulations.backend import run_in_process
from silhouette_simulations.models import new_encoder
from silhouette_simulations.nodes import simulated
from silhouette_simulations.training import declared_people

CPU = torch.device("cpu")
SETTINGS = Statistics(active_items=9, window=3, rank=2)
PLAN = plan(
    privacy=Privacy(rounds=2, sampling_rate=0.5, local_steps=2, epsilon=4.0, server_learning_rate=1e-3),
    statistics=SETTINGS,
)
EVERYBODY = {"north": histories((4, 9, 2, 12, 5, 3, 8, 6, 1) * 12, seed=1), "south": histories((5, 7, 3) * 5, seed=2)}


@dataclass
class Sent:
    """What left, by node and message type and in order."""

    fields: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    vectors: list[tuple[str, str, str, np.ndarray]] = field(default_factory=list)
    charged: dict[str, list[Charge]] = field(default_factory=dict)


class Recording(ClientApp):
    """The nodes' own app, with a copy of everything it answers."""

    def __init__(self, inner: ClientApp, sent: Sent) -> None:
        super().__init__()
        self._inner, self._sent = inner, sent

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self._inner(message, context)
        node, kind = str(context.node_config["partition-id"]), message.metadata.message_type
        assert not reply.has_error(), reply.error.reason
        for name, record in sorted(reply.content.items()):
            if isinstance(record, ArrayRecord):
                for key, array in record.items():
                    value = array.numpy()
                    self._sent.fields.append((node, kind, {key: (array.dtype, array.shape, array.stype)}))
                    self._sent.vectors.append((node, kind, key, value))
            else:
                self._sent.fields.append((node, kind, {name: dict(record)}))
        self._sent.fields.append((node, kind, {"metadata": (reply.metadata.message_type, reply.metadata.group_id)}))
        return reply


def everything_sent(folder: Path, people: dict[str, Histories], own: Plan, budget: Budget | None) -> Sent:
    """Run the plan to its end with the real apps."""
    words = vocabulary_for(own, vocabulary(), budget)
    write_node_folder(
        folder,
        plan=own,
        vocabulary=words,
        partners=people,
        declared_people={name: declared_people(len(held), counted=budget is None) for name, held in people.items()},
        budget=budget,
        seed_path=("training", "all"),
    )
    encoder: ProfileEncoder = new_encoder(own, words, CPU)
    layout = Layout.of(encoder)
    job = Job(
        run="plan/all",
        plan_digest=own.digest,
        layout=layout,
        schedule=own.training if budget is None else own.privacy,
        replies=Replies(),
        partners=len(people),
        initial=read_vector(encoder, layout),
        counting=counting_of(own, words, budget),
    )
    sent = Sent()
    ledgers: dict[str, Ledger] = {}
    fittings = simulated("bookkeeping")

    def opened(path: Path, agreement: Any) -> Ledger:
        ledgers[path.name] = fittings.ledger(path, agreement)
        return ledgers[path.name]

    agents = AgentCache(folder, CPU, replace(fittings, ledger=opened))
    of: Callable[[Context], Agent] = agents.of
    finished: list[CheckedStrategy] = []
    run_in_process(
        make_server_app(job, finished.append), Recording(make_client_app(of), sent), nodes=len(people), workers=1
    )
    assert len(finished) == 1
    sent.charged = {
        name: [entry.content for entry in ledger.entries if isinstance(entry.content, Charge)]
        for name, ledger in ledgers.items()
    }
    return sent


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sent, Sent]:
    """Everybody, and everybody but one person of the north who has a long history."""
    budget = budget_of(PLAN)
    north = EVERYBODY["north"]
    fewer = {**EVERYBODY, "north": only(north, [row for row in range(len(north)) if row != 3])}
    return (
        everything_sent(tmp_path_factory.mktemp("all") / "nodes", EVERYBODY, PLAN, budget),
        everything_sent(tmp_path_factory.mktemp("fewer") / "nodes", fewer, PLAN, budget),
    )


def test_only_the_noised_vectors_depend_on_a_person(worlds: tuple[Sent, Sent]) -> None:
    everybody, fewer = worlds
    assert everybody.fields == fewer.fields
    assert [vector[:3] for vector in everybody.vectors] == [vector[:3] for vector in fewer.vectors]


def test_every_vector_that_left_was_charged_first_and_nothing_else_was_sent(worlds: tuple[Sent, Sent]) -> None:
    for sent in worlds:
        for node, name in (("0", "north"), ("1", "south")):
            vectors = [(kind, key) for number, kind, key, _ in sent.vectors if number == node]
            assert vectors == [
                ("train.popularity", "total"),
                ("train.transitions", "total"),
                ("train", "update"),
                ("train", "update"),
            ]
            charges = [(charge.round, charge.purpose, charge.mechanism.steps) for charge in sent.charged[name]]
            assert charges == [(0, "popularity", 1), (0, "transitions", 1), (1, "training", 2), (2, "training", 2)]


def test_a_statistic_moves_by_at_most_what_one_person_was_charged(worlds: tuple[Sent, Sent]) -> None:
    """The simulation repeats its noise, so what is left of the difference is the person."""
    everybody, fewer = worlds
    charges = {charge.purpose: charge for charge in everybody.charged["north"]}
    (one,) = [vector for node, kind, _, vector in everybody.vectors if (node, kind) == ("0", "train.popularity")]
    (other,) = [vector for node, kind, _, vector in fewer.vectors if (node, kind) == ("0", "train.popularity")]
    moved = float(np.linalg.norm(one.astype(np.float64) - other))
    assert 0.5 < moved <= charges["popularity"].mechanism.sensitivity + 1e-5
    bare = float(np.abs(one).max())
    assert bare > charges["popularity"].mechanism.noise_std  # the noise is in it


def test_the_partner_nobody_left_sends_the_same_statistics(worlds: tuple[Sent, Sent]) -> None:
    everybody, fewer = worlds
    for one, other in zip(everybody.vectors, fewer.vectors, strict=True):
        if one[0] == "1" and one[1] == "train.popularity":
            assert np.array_equal(one[3], other[3])


def test_without_privacy_the_number_of_people_does_leave(tmp_path: Path) -> None:
    """What the first test compares is not equal by itself."""
    small = {"north": histories(seed=1), "south": histories(seed=2)}
    fewer = {**small, "north": only(small["north"], [0, 1, 2])}
    sent = [everything_sent(tmp_path / str(n), people, plan(), None) for n, people in enumerate((small, fewer))]
    assert sent[0].fields != sent[1].fields
