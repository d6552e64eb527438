"""What a node does with an offer: check it, agree or refuse, and open the agent of the run."""

from silhouette_client.offers.acceptance import Accepted, accept_offer
from silhouette_client.offers.node import Node, node_app
from silhouette_client.offers.people import PeopleSource, TablesOnDisk

__all__ = ["Accepted", "Node", "PeopleSource", "TablesOnDisk", "accept_offer", "node_app"]
