"""Bringing the promoted model to the nodes over the line that the rounds use.

A node is told which model is promoted and answers what it holds; the bytes go to those who want them. Whether to take a
model is the node's decision: it checks signatures, number and bytes, and a refusal is an answer.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from silhouette_shared.wire import WireError
from silhouette_shared.wire.promoted import MODEL, ModelHeld, ModelNotice

_LOG = logging.getLogger(__name__)

_TOLD_SECONDS = 30.0
_SENT_SECONDS = 300.0  # for the bytes of a large model
_AGAIN_SECONDS = 600.0  # until a node that refused, or did not say, is told again


@dataclass(frozen=True)
class Promoted:
    """The promoted model as nodes get it."""

    number: int  # of the alias
    alias: bytes  # signed
    card: bytes  # signed, the one that the alias names
    read: Callable[[], bytes]  # the model's bytes, checked against the card


class HandingOut:
    """Knows which node was told of which alias.

    Args:
        promoted: Gives what is promoted now; None if nothing is.
        clock: Seconds, for waiting.
    """

    def __init__(self, promoted: Callable[[], Promoted | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._promoted, self._clock = promoted, clock
        self._held: dict[str, int] = {}  # alias number that a partner said it holds
        self._asked: dict[str, tuple[int, float]] = {}  # the last it was told of, and when

    def number(self) -> int:
        """Of the alias; 0 before the first promotion."""
        found = self._promoted()
        return 0 if found is None else found.number

    def waiting(self, nodes: Mapping[int, str]) -> dict[int, str]:
        """Of these nodes, by number and partner, those that are to be told now."""
        number = self.number()
        return {node: name for node, name in nodes.items() if number and self._is_due(name, number)}

    def _is_due(self, name: str, number: int) -> bool:
        if self._held.get(name) == number:
            return False
        told, when = self._asked.get(name, (0, 0.0))
        return told != number or self._clock() - when > _AGAIN_SECONDS

    def tell(self, grid: Grid, nodes: Mapping[int, str]) -> None:
        """Tell these nodes what is promoted, and send it to those that want it."""
        promoted = self._promoted()
        if promoted is None or not nodes:
            return
        for name in nodes.values():
            self._asked[name] = (promoted.number, self._clock())
        told = ModelNotice(promoted.alias, promoted.card).encode()
        answers = self._ask(grid, nodes, told, _TOLD_SECONDS)
        wanting = {node: nodes[node] for node, held in answers.items() if held.wanted}
        if wanting:
            sent = ModelNotice(promoted.alias, promoted.card, promoted.read()).encode()
            answers |= self._ask(grid, wanting, sent, _SENT_SECONDS)
        for node, held in answers.items():
            self._held[nodes[node]] = held.number
            if held.refusal:
                _LOG.warning("%s keeps model number %d: %s", nodes[node], held.number, held.refusal)
            else:
                _LOG.info("%s holds model number %d", nodes[node], held.number)

    def _ask(self, grid: Grid, nodes: Mapping[int, str], content: RecordDict, seconds: float) -> dict[int, ModelHeld]:
        messages = [Message(content, dst_node_id=node, message_type=MODEL) for node in sorted(nodes)]
        found: dict[int, ModelHeld] = {}
        for reply in grid.send_and_receive(messages, timeout=seconds):
            node = reply.metadata.src_node_id
            if node not in nodes:
                continue
            if reply.has_error():
                _LOG.warning("%s was not told of the promoted model: %s", nodes[node], reply.error.reason)
                continue
            try:
                found[node] = ModelHeld.decode(reply.content)
            except WireError as error:
                _LOG.warning("%s did not say which model it holds: %s", nodes[node], error)
        return found
