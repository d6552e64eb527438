"""The same for Prometheus. Labels name runs, partners and processes, never a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from silhouette_server.dashboard.view import Process, Row
from silhouette_server.registry.state import Contents, RunState, RunView


class RegistryCollector(Collector):
    """Reads the registry whenever somebody asks.

    Args:
        contents: Gives the registry as it stands.
        rows: Gives the runs as the page shows them.
        processes: Gives the coordinator's processes.
    """

    def __init__(
        self,
        contents: Callable[[], Contents],
        rows: Callable[[], Sequence[Row]],
        processes: Callable[[], Sequence[Process]],
    ) -> None:
        self._contents, self._rows, self._processes = contents, rows, processes

    def collect(self) -> Iterable[Metric]:
        """All numbers."""
        contents, rows = self._contents(), self._rows()
        yield from _runs(contents, rows)
        yield from _rounds(list(contents.runs.values()))
        alias = GaugeMetricFamily("silhouette_alias_number", "Changes of the promoted model so far.")
        alias.add_metric([], len(contents.named))
        yield alias
        up = GaugeMetricFamily("silhouette_process_up", "1 if a process runs.", labels=["process"])
        memory = GaugeMetricFamily(
            "silhouette_process_memory_bytes", "Resident memory of a process.", labels=["process"]
        )
        restarts = CounterMetricFamily(
            "silhouette_process_restarts", "How often a process was started again.", labels=["process"]
        )
        for one in self._processes():
            up.add_metric([one.name], one.state == "running")
            memory.add_metric([one.name], one.memory)
            restarts.add_metric([one.name], one.restarts)
        yield from (up, memory, restarts)


def _runs(contents: Contents, rows: Sequence[Row]) -> Iterable[Metric]:
    states = Counter(run.state for run in contents.runs.values())
    runs = GaugeMetricFamily("silhouette_runs", "Runs in a state.", labels=["state"])
    for state in RunState:
        runs.add_metric([state.value], states[state])
    yield runs
    spent = GaugeMetricFamily("silhouette_epsilon_spent", "Epsilon of a run so far.", labels=["run"])
    total = GaugeMetricFamily(
        "silhouette_epsilon_composed", "Epsilon of a run and of those it started from.", labels=["run"]
    )
    promised = GaugeMetricFamily("silhouette_epsilon_promised", "Epsilon that a run's plan promises.", labels=["run"])
    for row in rows:
        for family, value in ((spent, row.spent), (total, row.total), (promised, row.promised)):
            if value is not None:
                family.add_metric([row.name], value)
    yield from (spent, total, promised)


def _rounds(runs: Sequence[RunView]) -> Iterable[Metric]:
    rounds = CounterMetricFamily("silhouette_rounds", "Rounds of a run that have ended so.", labels=["run", "outcome"])
    seconds = CounterMetricFamily("silhouette_round_seconds", "Seconds in committed rounds.", labels=["run"])
    traffic = CounterMetricFamily("silhouette_bytes", "Bytes of committed rounds.", labels=["run", "direction"])
    counted = CounterMetricFamily(
        "silhouette_partner_rounds", "Committed rounds with a partner's update.", labels=["run", "partner"]
    )
    last = GaugeMetricFamily(
        "silhouette_partner_last_round", "Last committed round with its update.", labels=["run", "partner"]
    )
    for run in runs:
        commitments = [one.commitment for one in run.committed if one.commitment is not None]
        rounds.add_metric([run.name, "committed"], len(run.committed))
        rounds.add_metric([run.name, "void"], len(run.void))
        seconds.add_metric([run.name], sum(one.seconds for one in commitments))
        traffic.add_metric([run.name, "sent"], sum(one.sent for one in commitments))
        traffic.add_metric([run.name, "received"], sum(one.received for one in commitments))
        for partner in sorted({name for one in commitments for name in one.survivors}):
            there = [one.round for one in commitments if partner in one.survivors]
            counted.add_metric([run.name, partner], len(there))
            last.add_metric([run.name, partner], there[-1])
    yield from (rounds, seconds, traffic, counted, last)


def exposition(collector: Collector) -> bytes:
    """In Prometheus' text form."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
