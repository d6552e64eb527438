"""Real agents and a real coordinator over Flower's messages in one process, on a wire that tests change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.app import Error, Message, RecordDict
from tests.people import MECHANISM, histories, plan, vocabulary

from silhouette_client.agent import Agent
from silhouette_client.app import make_client_app
from silhouette_client.node_folder import AgentCache, Fittings, write_node_folder
from silhouette_server.app import open_job
from silhouette_server.coordination.federation import CheckedStrategy, Job, RoundRecord
from silhouette_shared.config import Aggregation, Partition, Plan, Privacy, Replies, Statistics, Training
from silhouette_shared.model.histories import Histories
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.secagg import Identity, Pins
from silhouette_shared.wire.agreement import vocabulary_for
from silhouette_simulations.backend import InProcessGrid
from silhouette_simulations.nodes import simulated
from silhouette_simulations.training import declared_people

COORDINATOR = bytes([99]) * 32
IDENTITIES = {f"partner-{number}": bytes([number + 1]) * 32 for number in range(5)}
PEOPLE = {"partner-0": 31, "partner-1": 7, "partner-2": 13, "partner-3": 3, "partner-4": 23}
LOCAL = Budget(popularity=None, transitions=None, training=MECHANISM)


@dataclass(frozen=True)
class Passed:
    """A message or an answer, as it passed the wire."""

    partner: str
    kind: str  # the message type
    group: str
    answer: bool
    content: RecordDict


Trouble = Callable[[Passed, Message], Message | None]
"""Lets a message or an answer pass, changes it, or loses it."""


def untroubled(passed: Passed, message: Message) -> Message | None:
    """Let everything pass."""
    return message


class Wire(InProcessGrid):
    """The grid in process, with somebody between it and the coordinator."""

    trouble: Trouble = staticmethod(untroubled)

    def __init__(self, agents: Callable[..., Agent], nodes: int) -> None:
        super().__init__(make_client_app(agents), nodes, workers=1)
        self.passed: list[Passed] = []
        self._names = dict(zip(self.get_node_ids(), sorted(IDENTITIES)[:nodes], strict=True))

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        # One at a time: the next partner is asked when this one has answered, which no protocol may notice.
        for asked in messages:
            message = self._through(asked, answer=False)
            for reply in [] if message is None else super().send_and_receive([message], timeout=timeout):
                if (changed := self._through(reply, answer=True)) is not None:
                    yield changed

    def _through(self, message: Message, *, answer: bool) -> Message | None:
        metadata = message.metadata
        node = metadata.src_node_id if answer else metadata.dst_node_id
        content = RecordDict() if message.has_error() else message.content
        passed = Passed(self._names[node], metadata.message_type, metadata.group_id, answer, content)
        self.passed.append(passed)
        return self.trouble(passed, message)

    def steps(self) -> list[tuple[str, str]]:
        """Round and step of every exchange that the coordinator began, in order."""
        found = [(one.group, one.kind.removeprefix("train.")) for one in self.passed if not one.answer]
        return [one for number, one in enumerate(found) if one[0] and one not in found[:number]]


def failing(message: Message) -> Message:
    """An answer that says that the partner failed."""
    return Message(Error(code=2, reason="RefusedError: the disk is full"), reply_to=message)


class Consortium:
    """Partners with people of their own, and their coordinator.

    Args:
        folder: Of nodes and the coordinator.
        plan: With secure aggregation or without.
        budget: None trains without privacy.
        partners: How many.
        people: A partner's people instead of the usual ones.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        budget: Budget | None = None,
        *,
        partners: int = 5,
        people: dict[str, Histories] | None = None,
        fittings: Fittings | None = None,
    ) -> None:
        self.folder, self.plan, self.budget = folder, plan, budget
        self.names = sorted(IDENTITIES)[:partners]
        self.people = {name: histories([4] * PEOPLE[name], seed=number) for number, name in enumerate(self.names)}
        self.people |= people or {}
        secure = plan.aggregation.protocol == "sa-1"
        self.pins = Pins(Identity(COORDINATOR).public, {name: Identity(IDENTITIES[name]).public for name in self.names})
        write_node_folder(
            folder,
            plan=plan,
            vocabulary=vocabulary_for(plan, vocabulary(), budget),
            partners=self.people,
            declared_people={
                name: declared_people(len(people), counted=not secure and budget is None)
                for name, people in self.people.items()
            },
            budget=budget,
            seed_path=("training", "together"),
            pins=self.pins if secure else None,
            identities={name: IDENTITIES[name] for name in self.names} if secure else None,
        )
        (folder / "coordinator.key").write_bytes(COORDINATOR)
        self._fittings = fittings or simulated("bookkeeping")
        self.agents = self._open()
        self.wire = Wire(lambda context: self.agents.of(context), partners)
        self.models: list[torch.Tensor] = []

    def _open(self) -> AgentCache:
        return AgentCache(self.folder, torch.device("cpu"), self._fittings)

    def restart_partners(self) -> None:
        """All of them, as after a power cut."""
        self.agents = self._open()

    def restart(self, name: str) -> None:
        """One of them."""
        index = self.names.index(name)
        with suppress(KeyError):
            del self.agents._agents[index]

    def agent(self, name: str) -> Agent:
        """A partner's agent, as it runs."""
        node = list(self.wire.get_node_ids())[self.names.index(name)]
        return self.agents.of(self.wire._contexts[node])

    @property
    def job(self) -> Job:
        """As the coordinator opens it."""
        return replace(open_job(self.folder), on_round=lambda record, model: self.models.append(model.clone()))

    def strategy(self) -> CheckedStrategy:
        """A coordinator that has just started."""
        return CheckedStrategy(self.job)

    def run(self) -> CheckedStrategy:
        """Run, or go on, to the end."""
        strategy = self.strategy()
        strategy.start(self.wire)
        return strategy

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """Of the finished rounds, read from the disk."""
        strategy = self.strategy()
        strategy._resume()
        return strategy.records


def secure_plan(protocol: str = "sa-1", *, rounds: int = 1, partners: int = 5, **privacy: object) -> Plan:
    """A plan that averages; `privacy` are changes of its private training."""
    return plan(
        partition=Partition(partners=partners),
        training=Training(rounds=rounds, batch_size=32),
        privacy=Privacy(
            **{
                "rounds": rounds,
                "sampling_rate": 0.5,
                "clip_norm": 0.5,
                "server_optimiser": "average",
                "server_learning_rate": 1.0,
                **privacy,
            }  # type: ignore[arg-type]
        ),
        aggregation=Aggregation(protocol=protocol),  # type: ignore[arg-type]
        replies=Replies(timeout_seconds=120.0),
        statistics=Statistics(popularity_share=0.0, transition_share=0.0),
    )
