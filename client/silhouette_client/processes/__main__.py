"""What the supervisor starts: `python -m silhouette_client.processes connector|agent --home HOME`.

The agent starts the third, `profiles`, which builds profiles with a newly promoted model and ends.
"""

import sys
from contextlib import ExitStack, closing
from pathlib import Path

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.processes.services import gateway_of, places_of
from silhouette_shared.supervision import Heart, end_on_signals, run_role, run_until_asked

_START_PATIENCE = 300.0  # seconds for importing torch and opening the ledger on a busy machine


def _connector(home: Path) -> None:
    from silhouette_client.connector import Connector

    node = NodeHome.of(home)
    places = places_of(node)
    connector = Connector(gateway_of(node), places.certificate, places.key)
    run_until_asked(connector.serve("127.0.0.1", places.connector, Heart.from_environment()))


def _agent(home: Path) -> None:
    heart = Heart.from_environment()
    heart.beat(_START_PATIENCE)
    from silhouette_client.executor import Executor, answer_for_the_dead
    from silhouette_client.hardening import protect_process

    protect_process()
    found = NodeHome.of(home)
    places = places_of(found)
    address = f"127.0.0.1:{places.supernode}"
    answer_for_the_dead(address, places.task)
    from prometheus_client import CollectorRegistry

    from silhouette_client.numbers import CountedNode, LedgerCollector, told
    from silhouette_client.offers import Node, node_app
    from silhouette_client.outbox import OUTBOX_NAME, Outbox
    from silhouette_client.processes.builds import Builder
    from silhouette_shared.allocator import keep_freed_memory

    stop = end_on_signals()
    keep_freed_memory()
    with closing(Node.open(home)) as node, ExitStack() as serving:
        numbers = CollectorRegistry(auto_describe=False)
        numbers.register(LedgerCollector(node.ledger))
        if places.metrics is not None:
            serving.enter_context(told(numbers, places.metrics))
        serving.enter_context(Builder(home, places.work))
        Executor(
            address,
            places.secret.read_bytes(),
            node_app(CountedNode(node, numbers)),
            memory=places.task,
            heart=heart,
            outbox=Outbox(found.folder / OUTBOX_NAME, found.roster().consortium).note,
        ).serve(stop)


def _profiles(home: Path) -> None:
    from silhouette_client.hardening import protect_process
    from silhouette_client.processes.builds import build_all

    protect_process()
    build_all(home)


def main() -> int:
    """Run the process that the command line names; its exit code."""
    return run_role("silhouette_client.processes", {"connector": _connector, "agent": _agent, "profiles": _profiles})


if __name__ == "__main__":
    sys.exit(main())
