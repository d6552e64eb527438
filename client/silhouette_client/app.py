"""The Flower ClientApp: decode, ask the agent, encode.

In a simulation the agent of a node is opened from the folder named in the environment; see `node_folder`.
"""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from silhouette_client.agent import Agent
from silhouette_client.node_folder import open_agent_of
from silhouette_shared.wire import DescribeRequest, TrainRequest


def make_client_app(agent_of: Callable[[Context], Agent]) -> ClientApp:
    """A ClientApp whose nodes answer through `agent_of`."""
    client_app = ClientApp()

    @client_app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        request = DescribeRequest.decode(message.content)
        return Message(agent_of(context).describe(request).encode(), reply_to=message)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        request = TrainRequest.decode(message.content)
        return Message(agent_of(context).train(request).encode(), reply_to=message)

    return client_app


app = make_client_app(open_agent_of)
