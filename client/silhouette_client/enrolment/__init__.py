"""A node's place in a consortium: its keys, its request, the kit it installed, and whom it trusts."""

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import install_kit, update_roster
from silhouette_client.enrolment.making import make_node

__all__ = ["NodeHome", "install_kit", "make_node", "update_roster"]
