"""The Flower ClientApp: decode, ask the agent, encode.

In a simulation the agent of a node is opened from the folder named in the environment; see `node_folder`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from silhouette_client.node_folder import open_agent_of
from silhouette_shared.errors import RefusedError, SilhouetteError
from silhouette_shared.wire import (
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
)
from silhouette_shared.wire.exchange import STEPS, Answer, Exchange
from silhouette_shared.wire.messages import StatisticName
from silhouette_shared.wire.offers import OfferAnswer, OfferRequest, RosterHeld, RosterNotice
from silhouette_shared.wire.promoted import ModelHeld, ModelNotice

_LOG = logging.getLogger(__name__)


class Answering(Protocol):
    """What answers the messages of a run: an agent, or a node with several of them."""

    def describe(self, request: DescribeRequest) -> Description:
        """Who this is."""
        ...

    def train(self, request: TrainRequest) -> TrainReply:
        """One round's update."""
        ...

    def count(self, statistic: StatisticName, request: StatisticRequest) -> StatisticReply:
        """One noised sum."""
        ...

    def exchange(self, request: Exchange) -> Answer:
        """One step of a secure round."""
        ...


class Enrolled(Protocol):
    """What answers for an enrolled node, outside of any run."""

    def offer(self, request: OfferRequest) -> OfferAnswer:
        """Take part in a run, or refuse."""
        ...

    def roster(self, notice: RosterNotice) -> RosterHeld:
        """Take over a newer roster."""
        ...

    def model(self, notice: ModelNotice) -> ModelHeld:
        """Take the promoted model, ask for it, or refuse it."""
        ...


def make_client_app(agent_of: Callable[[Context], Answering], enrolled: Enrolled | None = None) -> ClientApp:
    """A ClientApp whose nodes answer through `agent_of`, and offers through `enrolled`; a simulation has no offers."""
    client_app = ClientApp()

    @client_app.query("offer")
    def offer(message: Message, context: Context) -> Message:
        with _only_our_words():
            request = OfferRequest.decode(message.content)
            return Message(_of(enrolled).offer(request).encode(), reply_to=message)

    @client_app.query("roster")
    def roster(message: Message, context: Context) -> Message:
        with _only_our_words():
            notice = RosterNotice.decode(message.content)
            return Message(_of(enrolled).roster(notice).encode(), reply_to=message)

    @client_app.query("model")
    def model(message: Message, context: Context) -> Message:
        with _only_our_words():
            notice = ModelNotice.decode(message.content)
            return Message(_of(enrolled).model(notice).encode(), reply_to=message)

    @client_app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        with _only_our_words():
            request = DescribeRequest.decode(message.content)
            return Message(agent_of(context).describe(request).encode(), reply_to=message)

    @client_app.train("popularity")
    def popularity(message: Message, context: Context) -> Message:
        with _only_our_words():
            request = StatisticRequest.decode(message.content)
            return Message(agent_of(context).count("popularity", request).encode(), reply_to=message)

    @client_app.train("transitions")
    def transitions(message: Message, context: Context) -> Message:
        with _only_our_words():
            request = StatisticRequest.decode(message.content)
            return Message(agent_of(context).count("transitions", request).encode(), reply_to=message)

    def exchange(message: Message, context: Context) -> Message:
        with _only_our_words():
            request = Exchange.decode(message.content)
            return Message(agent_of(context).exchange(request).encode(), reply_to=message)

    for step in STEPS:
        client_app.train(step)(exchange)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        with _only_our_words():
            request = TrainRequest.decode(message.content)
            return Message(agent_of(context).train(request).encode(), reply_to=message)

    return client_app


def _of(enrolled: Enrolled | None) -> Enrolled:
    if enrolled is None:
        raise RefusedError("expected a run that this node holds already, got an offer; enrol a node to take part in it")
    return enrolled


@contextmanager
def _only_our_words() -> Iterator[None]:
    """Keep the text of an unforeseen error at the partner.

    Flower sends the text of whatever an app raises to the coordinator, and a library's error may quote a record. Our
    own errors name rounds and sizes alone.
    """
    try:
        yield
    except SilhouetteError as error:
        _LOG.warning("a message was refused: %s", error)
        raise error from None  # Flower tells the coordinator the cause, if there is one, and that says less
    except Exception as error:  # noqa: BLE001 - whatever it is, its text stays here
        _LOG.exception("the answer to a message failed")
        raise SilhouetteError(
            f"the partner failed with {type(error).__name__}; see the log of this partner for what happened"
        ) from None


app = make_client_app(open_agent_of)
