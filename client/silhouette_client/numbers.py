"""What a node tells Prometheus: messages answered and refused, seconds, and the privacy spent.

Labels name steps of the protocol, codes of refusals and runs; never a person, and nothing is counted that a person's
record changes: a round is answered whoever was sampled in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from silhouette_client.offers.node import Answered
from silhouette_client.policy.budget import Budget
from silhouette_client.policy.ledger_store import Ledger
from silhouette_shared.enrolment.refusals import code_of
from silhouette_shared.errors import SilhouetteError, UnavailableError
from silhouette_shared.wire import (
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
)
from silhouette_shared.wire.exchange import Answer, Exchange
from silhouette_shared.wire.messages import StatisticName
from silhouette_shared.wire.offers import OfferAnswer, OfferRequest, Refusal, RosterHeld, RosterNotice
from silhouette_shared.wire.promoted import ModelHeld, ModelNotice


class CountedNode:
    """A node whose answers are counted.

    Args:
        node: Does the work.
        registry: Of the counters.
    """

    def __init__(self, node: Answered, registry: CollectorRegistry) -> None:
        self._node = node
        self._answers = Counter("silhouette_answers", "Messages answered.", ["step"], registry=registry)
        self._refusals = Counter("silhouette_refusals", "Messages refused.", ["step", "code"], registry=registry)
        self._seconds = Counter("silhouette_answer_seconds", "Seconds at work.", ["step"], registry=registry)
        self._model = Gauge("silhouette_model_number", "Number of the promoted model that is held.", registry=registry)
        self._rounds = Counter("silhouette_rounds", "Secure rounds gone through to the end.", registry=registry)

    def offer(self, request: OfferRequest) -> OfferAnswer:
        """As the node; a refusal is an answer and is counted as a refusal."""
        with self._counted("offer"):
            answer = self._node.offer(request)
        if isinstance(answer.content, Refusal):
            self._refusals.labels("offer", answer.content.code).inc()
        return answer

    def roster(self, notice: RosterNotice) -> RosterHeld:
        """As the node."""
        with self._counted("roster"):
            return self._node.roster(notice)

    def model(self, notice: ModelNotice) -> ModelHeld:
        """As the node."""
        with self._counted("model"):
            held = self._node.model(notice)
        if held.refusal:
            self._refusals.labels("model", held.refusal.partition(":")[0]).inc()
        self._model.set(held.number)
        return held

    def describe(self, request: DescribeRequest) -> Description:
        """As the node."""
        with self._counted("describe"):
            return self._node.describe(request)

    def train(self, request: TrainRequest) -> TrainReply:
        """As the node."""
        with self._counted("train"):
            return self._node.train(request)

    def count(self, statistic: StatisticName, request: StatisticRequest) -> StatisticReply:
        """As the node."""
        with self._counted(statistic):
            return self._node.count(statistic, request)

    def exchange(self, request: Exchange) -> Answer:
        """As the node; the last step ends a round."""
        with self._counted(request.step):
            answer = self._node.exchange(request)
        if request.step == "unmask":
            self._rounds.inc()
        return answer

    @contextmanager
    def _counted(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except SilhouetteError as error:
            self._refusals.labels(step, code_of(error)).inc()
            raise
        finally:
            self._seconds.labels(step).inc(time.monotonic() - began)
        self._answers.labels(step).inc()


class LedgerCollector(Collector):
    """The privacy that a ledger says is spent, worked out again when it has a new entry or a day has passed.

    Args:
        ledger: Of the node.
        clock: The time in UTC.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._ledger, self._clock = ledger, clock
        self._known: tuple[object, ...] = ()
        self._spent: dict[str, float] = {}
        self._year = 0.0

    def collect(self) -> Iterable[Metric]:
        """Epsilon by run and of the year, and the limits."""
        limits, today = self._ledger.limits, self._clock().date()
        known = (self._ledger.head, limits, today)
        if known != self._known:
            budget = Budget(self._ledger.entries)
            self._spent = {run: budget.run_epsilon(run, limits) for run in budget.runs}
            self._year = budget.year_epsilon(today, limits)
            self._known = known
        spent = GaugeMetricFamily("silhouette_epsilon_spent", "Epsilon that a run has spent.", labels=["run"])
        for run, value in self._spent.items():
            spent.add_metric([run], value)
        year = GaugeMetricFamily("silhouette_epsilon_year", "Epsilon of the last 365 days.")
        year.add_metric([], self._year)
        most = GaugeMetricFamily("silhouette_epsilon_limit", "What the policy allows.", labels=["span"])
        for span, limit in (("run", limits.epsilon_per_run), ("year", limits.epsilon_per_year)):
            if limit is not None:
                most.add_metric([span], limit)
        yield from (spent, year, most)


@contextmanager
def told(registry: CollectorRegistry, port: int) -> Iterator[int]:
    """Serve the numbers on loopback at `/metrics`, as long as the context lasts.

    Args:
        registry: What is served.
        port: 0 takes a free one.

    Yields:
        The port.

    Raises:
        UnavailableError: If the port is taken.
    """
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise UnavailableError(
            f"127.0.0.1:{port}: expected a free port for the numbers, got {error.strerror or error}; change "
            "`metrics_port` in processes.toml"
        ) from None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
