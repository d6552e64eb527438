"""The Flower ClientApp: decode, ask the agent, encode.

In a simulation the agent of a node is opened from the folder named in the environment; see `node_folder`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from silhouette_client.agent import Agent
from silhouette_client.node_folder import open_agent_of
from silhouette_shared.errors import SilhouetteError
from silhouette_shared.wire import DescribeRequest, StatisticRequest, TrainRequest
from silhouette_shared.wire.exchange import STEPS, Exchange

_LOG = logging.getLogger(__name__)


def make_client_app(agent_of: Callable[[Context], Agent]) -> ClientApp:
    """A ClientApp whose nodes answer through `agent_of`."""
    client_app = ClientApp()

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


@contextmanager
def _only_our_words() -> Iterator[None]:
    """Keep the text of an unforeseen error at the partner.

    Flower sends the text of whatever an app raises to the coordinator, and a library's error may quote a record. Our
    own errors name rounds and sizes alone.
    """
    try:
        yield
    except SilhouetteError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, its text stays here
        _LOG.exception("the answer to a message failed")
        raise SilhouetteError(
            f"the partner failed with {type(error).__name__}; see the log of this partner for what happened"
        ) from None


app = make_client_app(open_agent_of)
