"""What a node tells Prometheus."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.ledgers import ANY, charge

from silhouette_client.numbers import CountedNode, LedgerCollector, told
from silhouette_client.policy.ledger_store import Ledger
from silhouette_shared.enrolment.refusals import CodedRefusalError, RevokedError
from silhouette_shared.errors import SilhouetteError, UnavailableError
from silhouette_shared.privacy.ledger import Limits
from silhouette_shared.wire import (
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
)
from silhouette_shared.wire.exchange import Answer, Exchange, ExchangeStep
from silhouette_shared.wire.messages import StatisticName
from silhouette_shared.wire.offers import OfferAnswer, OfferRequest, Refusal, RosterHeld, RosterNotice
from silhouette_shared.wire.promoted import ModelHeld, ModelNotice


class FakeNode:
    """Answers every step, or refuses with `error`."""

    error: SilhouetteError | None = None
    held = ModelHeld("north", 4)
    reply = OfferAnswer(Refusal("north", "hours", "expected a time from 20:00 to 06:00", 3))

    def offer(self, request: OfferRequest) -> OfferAnswer:
        return self.reply

    def roster(self, notice: RosterNotice) -> RosterHeld:
        return RosterHeld("north", 3, "")

    def model(self, notice: ModelNotice) -> ModelHeld:
        return self.held

    def describe(self, request: DescribeRequest) -> Description:
        raise NotImplementedError

    def train(self, request: TrainRequest) -> TrainReply:
        raise NotImplementedError

    def count(self, statistic: StatisticName, request: StatisticRequest) -> StatisticReply:
        raise NotImplementedError

    def exchange(self, request: Exchange) -> Answer:
        if self.error is not None:
            raise self.error
        return Answer(run="run-1", purpose="training", round=1, step=request.step, parts={})


def exchange(step: ExchangeStep) -> Exchange:
    return Exchange(run="run-1", purpose="training", round=1, step=step, parts={}, missed=(), inputs={})


def numbers(registry: CollectorRegistry) -> dict[str, float]:
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=False)


def test_the_model_that_is_held_and_one_that_was_refused_are_shown(registry: CollectorRegistry) -> None:
    inner = FakeNode()
    node = CountedNode(inner, registry)
    node.model(ModelNotice(b"alias", b"card"))
    assert numbers(registry)["silhouette_model_number"] == 4
    inner.held = ModelHeld("north", 4, refusal="older_alias: expected number 4 or a later one, got 3")
    node.model(ModelNotice(b"alias", b"card"))
    assert numbers(registry)['silhouette_refusals_total{code="older_alias",step="model"}'] == 1


def test_answers_rounds_and_seconds_are_counted_by_step(registry: CollectorRegistry) -> None:
    node = CountedNode(FakeNode(), registry)
    steps: tuple[ExchangeStep, ...] = ("mask", "agree", "unmask")
    for _ in range(3):
        for step in steps:
            node.exchange(exchange(step))
    node.roster(RosterNotice(b"roster"))
    found = numbers(registry)
    assert found["silhouette_rounds_total"] == 3
    assert found['silhouette_answers_total{step="mask"}'] == 3
    assert found['silhouette_answers_total{step="roster"}'] == 1
    assert found['silhouette_answer_seconds_total{step="mask"}'] >= 0
    assert not [name for name in found if name.startswith("silhouette_refusals")]


@pytest.mark.parametrize(
    ("error", "code"),
    [(CodedRefusalError("rounds_a_day", "expected fewer"), "rounds_a_day"), (RevokedError("gone"), "revoked")],
)
def test_a_refusal_is_counted_by_its_code_and_is_no_answer(
    registry: CollectorRegistry, error: SilhouetteError, code: str
) -> None:
    behind = FakeNode()
    behind.error = error
    node = CountedNode(behind, registry)
    with pytest.raises(type(error)):
        node.exchange(exchange("unmask"))
    found = numbers(registry)
    assert found[f'silhouette_refusals_total{{code="{code}",step="unmask"}}'] == 1
    assert found["silhouette_rounds_total"] == 0
    assert 'silhouette_answers_total{step="unmask"}' not in found


def test_a_refused_offer_is_an_answer_and_a_refusal(registry: CollectorRegistry) -> None:
    node = CountedNode(FakeNode(), registry)
    asked: Callable[[OfferRequest], OfferAnswer] = node.offer
    assert asked(OfferRequest(b"", b"", None)) is FakeNode.reply  # type: ignore[arg-type] # the fake reads nothing
    assert numbers(registry)['silhouette_refusals_total{code="hours",step="offer"}'] == 1


def test_the_privacy_spent_follows_the_ledger(registry: CollectorRegistry) -> None:
    limits = Limits(epsilon_per_run=8.0, epsilon_per_year=None, delta=1e-5)
    with Ledger.in_memory(limits) as ledger:
        registry.register(LedgerCollector(ledger))
        assert numbers(registry) == {"silhouette_epsilon_year": 0.0, 'silhouette_epsilon_limit{span="run"}': 8.0}
        ledger.charge(charge(1))
        first = numbers(registry)['silhouette_epsilon_spent{run="run-1"}']
        ledger.charge(charge(2))
        found = numbers(registry)
        assert 0 < first < found['silhouette_epsilon_spent{run="run-1"}'] < 8
        assert found["silhouette_epsilon_year"] > 0


def test_the_numbers_are_told_on_loopback_and_name_no_person(registry: CollectorRegistry, tmp_path: Path) -> None:
    node = CountedNode(FakeNode(), registry)
    node.exchange(exchange("unmask"))
    with Ledger.in_memory(ANY) as ledger:
        ledger.charge(charge(1))
        registry.register(LedgerCollector(ledger))
        with told(registry, 0) as port:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                text = answer.read().decode()
            with pytest.raises(UnavailableError, match="expected a free port for the numbers"), told(registry, port):
                pass
    assert set(re.findall(r"(\w+)=", "".join(x for x in text.splitlines() if not x.startswith("#")))) == {"run", "step"}
    assert "silhouette_rounds_total 1.0" in text
