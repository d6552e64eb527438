"""A Grid whose nodes answer as a test says, without a network or a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from silhouette_shared.wire import DescribeRequest, Description, TrainReply, TrainRequest

Answers = Callable[[Message], Sequence[Message]]


class FakeGrid(Grid):
    """Nodes by number; each answers a message with none, one or several messages.

    Args:
        nodes: What each node answers.
        arrange: The order in which answers arrive.
    """

    def __init__(
        self,
        nodes: dict[int, Answers],
        arrange: Callable[[list[Message]], list[Message]] = lambda replies: replies,
    ) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self.nodes, self.arrange = nodes, arrange
        self.sent: list[Message] = []
        self._numbers = 0

    def set_run(self, run: Run) -> None:
        """Nothing is kept."""

    @property
    def run(self) -> Run:
        """An empty run."""
        return Run.create_empty(run_id=1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The numbers of all nodes."""
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not used."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not used."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All answers, in the arranged order."""
        replies: list[Message] = []
        for message in messages:
            self._numbers += 1
            message.metadata.__dict__["_message_id"] = str(self._numbers)
            self.sent.append(message)
            replies += self.nodes[message.metadata.dst_node_id](message)
        return self.arrange(replies)


def pull_of(partner: str, people: int, round_number: int, parameters: np.ndarray) -> np.ndarray:
    """What the honest node of `partner` answers: a step towards a point of its own, that depends on the model."""
    goal = np.arange(len(parameters), dtype=np.float32) * people + len(partner) / round_number
    update: np.ndarray = (0.1 * (goal - parameters)).astype(np.float32)
    return update


def honest(partner: str, people: int, layout_digest: str, plan_digest: str = "p", size: int | None = None) -> Answers:
    """A node that does what it is asked; `size` is that of its update, where the model has a prior behind it."""

    def answer(message: Message) -> Sequence[Message]:
        if message.metadata.message_type.startswith("query"):
            request = DescribeRequest.decode(message.content)
            description = Description(
                run=request.run,
                partner=partner,
                people=people,
                plan_digest=plan_digest,
                layout_digest=layout_digest,
            )
            return [Message(description.encode(), reply_to=message)]
        asked = TrainRequest.decode(message.content)
        reply = TrainReply(
            run=asked.run,
            round=asked.round,
            plan_digest=asked.plan_digest,
            update=pull_of(partner, people, asked.round, asked.parameters[:size]),
        )
        return [Message(reply.encode(), reply_to=message)]

    return answer


def from_node(message: Message, node_id: int) -> Message:
    """The same message under another sender's number."""
    message.metadata.__dict__["_src_node_id"] = node_id
    return message
