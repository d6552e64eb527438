"""A coordinator with all its keys that asks for what was not agreed: every round is refused, typed, and in the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tests.enrolled import GENEROUS, House, budget_for, deployed_plan, initial_model, public_catalogue, send
from tests.people import MECHANISM

from silhouette_client.app import make_client_app
from silhouette_client.offers import Node, node_app
from silhouette_client.policy.ledger_store import read_chain
from silhouette_client.policy.terms import write_policy
from silhouette_server.app import secure_job
from silhouette_server.coordination.federation import CheckedStrategy, Job, RoundRecord
from silhouette_server.coordination.secure import Desk
from silhouette_shared.config import Plan
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg import Coordinator, Identity, genesis
from silhouette_shared.secagg.messages import Manifest, Member, manifest_signing_context, signed
from silhouette_shared.wire import DescribeRequest, TrainRequest
from silhouette_shared.wire.agreement import vocabulary_for
from silhouette_shared.wire.exchange import Exchange
from silhouette_shared.wire.messages import TRAIN
from silhouette_shared.wire.offers import OFFER, ROSTER, RosterNotice
from silhouette_shared.wire.rounds import round_terms, training_layout
from silhouette_simulations.backend import InProcessGrid, answer

RUN = "run-1"
LOCAL = deployed_plan(mode="local")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def node(house: House) -> Iterator[Node]:
    opened = house.open("east")
    send(opened, OFFER, house.offered(LOCAL).encode())
    yield opened
    opened.close()


def manifest(house: House, plan: Plan = LOCAL, number: int = 1, mechanism: Any = None, **changes: object) -> bytes:
    """The honest manifest of a round of training, or one with changes, signed by the coordinator's key."""
    budget = budget_for(plan)
    vocabulary = vocabulary_for(plan, public_catalogue().vocabulary(), budget)
    model = initial_model(plan)
    desk = Desk(house.office.identity(), house.office.roster().pins())
    paid = mechanism or secure_job(plan, vocabulary, budget, len(model), desk, 10).training
    layout = training_layout(plan, len(model), paid, partners=3, people=10)
    terms = round_terms(
        plan,
        vocabulary,
        purpose="training",
        number=number,
        layout=layout,
        inputs={"parameters": model},
        mechanism=paid,
    )
    made = Coordinator(desk.identity, desk.pins, RUN, number, terms, previous=genesis(RUN)).manifest
    return sign(replace(made, **changes), house.office.identity())  # type: ignore[arg-type]


def sign(made: Manifest, key: Identity) -> bytes:
    return replace(made, signature=signed(made, key, manifest_signing_context(key.public))).encode()


def asked(node: Node, data: bytes, *, run: str = RUN, number: int = 1, model: Any = None) -> Message:
    """The node's answer to the opening of a round, as it crosses Flower."""
    parameters = initial_model(LOCAL) if model is None else model
    exchange = Exchange(run, "training", number, "advertise", {"manifest": data}, inputs={"parameters": parameters})
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    message = Message(exchange.encode(), 2, "train.advertise")
    message.metadata.__dict__["_message_id"] = "1"
    return answer(node_app(node), message, Context(1, 2, {}, RecordDict(), {}))


def refusal(node: Node, data: bytes, caplog: pytest.LogCaptureFixture, **changes: Any) -> str:
    """The reason that crossed as a message; the attempt is in this node's log."""
    caplog.clear()
    reply = asked(node, data, **changes)
    assert reply.has_error()
    reason = str(reply.error.reason)
    assert "a message was refused" in caplog.text
    assert reason.partition(": ")[2][:40] in caplog.text
    return reason


def test_the_honest_manifest_is_answered(house: House, node: Node) -> None:
    assert not asked(node, manifest(house)).has_error()


def test_a_lower_threshold_is_refused(house: House, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    for threshold in (0, 1, 2):
        reason = refusal(node, manifest(house, threshold=threshold), caplog)
        assert reason.startswith("NotAgreedError: ")
        assert f"expected a threshold from 3 to 3, got {threshold}" in reason


def test_an_unpinned_partner_is_refused(house: House, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    pins = house.office.roster().pins()
    honest = [Member(name, pins.partners[name]) for name in pins.names]
    stranger = Identity(bytes([9]) * 32).public
    for roster in (
        (*honest, Member("west", stranger)),
        (*honest[:2], Member("south", stranger)),
        (*honest[:2],),
    ):
        reason = refusal(node, manifest(house, roster=tuple(roster)), caplog)
        assert reason.startswith("NotAgreedError: ")
        assert "expected the 3 pinned partners with their pinned keys" in reason


def test_an_unknown_signer_is_refused(house: House, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    made = sign(Manifest.decode(manifest(house)), Identity(bytes([9]) * 32))
    assert refusal(node, made, caplog).startswith("ForgedError: ")


def test_another_model_than_the_signed_one_is_refused(
    house: House, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    other = initial_model(LOCAL) + np.float32(0.5)
    assert "start_model: expected the run to start from model" in refusal(node, manifest(house), caplog, model=other)
    reason = refusal(node, manifest(house, model=bytes(32)), caplog)
    assert reason.startswith("NotAgreedError: ")
    # In a later round the offer says nothing of the model; the manifest does.
    second = manifest(house, number=2)
    assert refusal(node, second, caplog, number=2, model=other).startswith("NotAgreedError: ")


def test_a_looser_clip_and_other_privacy_terms_are_refused(
    house: House, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    looser: SampledGaussian = replace(MECHANISM, clip_norm=4.0)
    for mechanism in (looser, replace(MECHANISM, noise_multiplier=0.1)):
        reason = refusal(node, manifest(house, mechanism=mechanism), caplog)
        assert reason.startswith("NotAgreedError: ")
    assert refusal(node, manifest(house, privacy=bytes(32)), caplog).startswith("NotAgreedError: ")


def test_an_older_round_is_refused_also_after_a_restart(
    house: House, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    assert not asked(node, manifest(house, number=2), number=2).has_error()
    for number in (2, 1):
        reason = refusal(node, manifest(house, number=number), caplog, number=number)
        assert "round" in reason
        assert reason.startswith("NotAgreedError: ")
    node.close()
    again = house.open("east")
    assert refusal(again, manifest(house, number=2), caplog, number=2).startswith("NotAgreedError: ")
    again.close()


def test_a_run_that_was_not_agreed_to_is_refused(house: House, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    for run in ("run-2", "../run-1", "", "a/b"):
        assert "unknown_run" in refusal(node, manifest(house), caplog, run=run)


def test_an_update_in_the_clear_is_refused(house: House, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    request = TrainRequest(run=RUN, round=1, plan_digest=LOCAL.digest, parameters=initial_model(LOCAL))
    with pytest.raises(Exception, match="answers in no other way"):
        send(node, TRAIN, request.encode())
    assert "a message was refused" in caplog.text


def test_a_round_beyond_the_policy_is_refused_with_its_code(house: House, caplog: pytest.LogCaptureFixture) -> None:
    hour = house.clock().hour
    closed = f"{(hour + 2) % 24:02}:00-{(hour + 3) % 24:02}:00"
    for policy, code in (
        (replace(GENEROUS, rounds_a_day=1), "rounds_a_day"),
        (replace(GENEROUS, hours=(closed,)), "hours"),
    ):
        house.home("east").policy_path.write_text(write_policy(policy), encoding="utf-8")
        node = house.open("east")
        send(node, OFFER, house.offered(LOCAL).encode())
        if code == "rounds_a_day":
            assert not asked(node, manifest(house)).has_error()
            node.close()
            node = house.open("east")  # counted over restarts
        reason = refusal(node, manifest(house, number=2), caplog, number=2)
        assert reason.startswith(f"CodedRefusalError: {code}: ")
        node.close()


def test_a_node_that_learns_its_own_revocation_answers_no_further_round(
    house: House, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    made = manifest(house)
    house.office.revoke("east")
    send(node, ROSTER, RosterNotice(house.office.roster_bytes()).encode())
    assert refusal(node, made, caplog).startswith("RevokedError: ")


class Nodes:
    """The nodes of a house in a grid; each can be closed and opened again."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.nodes = {name: house.open(name) for name in house.names}

    def of(self, context: Context) -> Node:
        return self.nodes[sorted(self.nodes)[int(str(context.node_config["partition-id"]))]]

    def restart(self, name: str) -> None:
        self.nodes[name].close()
        self.nodes[name] = self.house.open(name)

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()


@pytest.mark.parametrize("mode", ["none", "local"])
def test_a_run_that_was_offered_goes_to_its_end_through_restarts(house: House, mode: str, tmp_path: Path) -> None:
    plan = deployed_plan(3, mode)
    nodes = Nodes(house)
    for node in nodes.nodes.values():
        send(node, OFFER, house.offered(plan).encode())
    budget = budget_for(plan)
    vocabulary = vocabulary_for(plan, public_catalogue().vocabulary(), budget)
    described = nodes.nodes["east"].describe(DescribeRequest(run=RUN, plan_digest=plan.digest))
    layout = Layout.of(ProfileEncoder(plan.model, vocabulary, plan.data.history_length))
    assert described.layout_digest == layout.digest
    desk = Desk(house.office.identity(), house.office.roster().pins(), tmp_path / "secure")
    records: list[RoundRecord] = []

    def on_round(record: RoundRecord, model: object) -> None:
        records.append(record)
        if record.round == 1:
            nodes.restart("north")

    job = Job(
        run=RUN,
        plan_digest=plan.digest,
        layout=layout,
        schedule=plan.training if budget is None else plan.privacy,
        replies=plan.replies,
        partners=3,
        initial=torch.from_numpy(initial_model(plan)),
        secure=secure_job(plan, vocabulary, budget, layout.size, desk, 10),
        training=None if budget is None else budget.training,
        on_round=on_round,
    )
    with InProcessGrid(make_client_app(nodes.of), 3) as grid:
        strategy = CheckedStrategy(job)
        strategy.start(grid)
    # The keys that north had sent ahead are gone with its process, and of three partners all are needed.
    assert [record.replies for record in records] == [3, 0, 3]
    assert not np.array_equal(strategy.model.numpy(), initial_model(plan))
    nodes.close()
    for name in house.names:
        chain = read_chain(house.home(name).folder / "ledger.sqlite")
        charged = [entry.content for entry in chain.entries if isinstance(entry.content, Charge)]
        rounds = [1, 3] if name == "north" else [1, 2, 3]
        assert [one.round for one in charged] == ([] if budget is None else rounds)
