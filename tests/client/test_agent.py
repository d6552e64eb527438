"""The agent answers what its plan says and refuses the rest; nothing but the update leaves."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.people import (
    ANY_BUDGET,
    DECLARED_PEOPLE,
    MECHANISM,
    agent,
    encoder,
    histories,
    only,
    plan,
    training_budget,
    vocabulary,
)

from silhouette_client import agent as agent_module
from silhouette_client.agent import Agent, Terms
from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.training.release import PlainUpdate, PrivateUpdate
from silhouette_client.training.statistics import popularity_sum, transition_sum
from silhouette_shared.config import Statistics
from silhouette_shared.errors import RefusedError
from silhouette_shared.model.prior import PriorShape
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.ledger import Charge, Limits
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.wire import DescribeRequest, StatisticRequest, TrainReply, TrainRequest
from silhouette_shared.wire.messages import FloatVector, StatisticName

MODEL = read_vector(encoder(), Layout.of(encoder())).numpy()
REQUEST = TrainRequest(run="r", round=2, plan_digest=plan().digest, parameters=MODEL)
modes = pytest.mark.parametrize("mechanism", [None, MECHANISM], ids=["plain", "private"])


@modes
def test_it_describes_itself_by_name_people_plan_and_layout(mechanism: Any) -> None:
    description = agent(mechanism=mechanism).describe(DescribeRequest(run="r", plan_digest="whatever"))
    assert description.run == "r"
    assert (description.partner, description.people) == ("partner-0", DECLARED_PEOPLE)
    assert description.plan_digest == plan().digest
    assert description.layout_digest == Layout.of(encoder()).digest


@modes
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan_digest": "q" * 64}, "got qqqqqqqqqqqq; install the same plan on both sides"),
        ({"round": 0}, "expected a round from 1 to 4, got 0"),
        ({"round": -1}, "expected a round from 1 to 4, got -1"),
        ({"round": 5}, "expected a round from 1 to 4, got 5"),
        ({"parameters": MODEL[:-1]}, f"expected a model of {len(MODEL)} parameters, got shape"),
        ({"parameters": MODEL[None]}, f"expected a model of {len(MODEL)} parameters, got shape"),
        ({"parameters": np.where(np.arange(len(MODEL)) == 7, np.nan, MODEL)}, "expected a finite model"),
        ({"parameters": np.where(np.arange(len(MODEL)) == 7, np.inf, MODEL)}, "expected a finite model"),
    ],
)
def test_a_request_outside_the_plan_is_refused(mechanism: Any, change: dict[str, Any], message: str) -> None:
    asked = agent(mechanism=mechanism)
    with pytest.raises(RefusedError) as caught:
        asked.train(replace(REQUEST, **change))
    assert message in str(caught.value)


def test_a_round_is_one_of_the_training_that_the_partner_agreed_to() -> None:
    longer = plan(training=replace(plan().training, rounds=9))
    request = replace(REQUEST, plan_digest=longer.digest, round=9)
    agent(with_plan=longer).train(request)
    with pytest.raises(RefusedError, match="expected a round from 1 to 4, got 9"):
        agent(with_plan=longer, mechanism=MECHANISM).train(request)


def test_a_partner_without_people_is_refused() -> None:
    nobody = only(histories(), [0])
    empty = replace(
        nobody,
        **{name: getattr(nobody, name)[:0] for name in ("items", "behaviours", "values", "timestamps", "attributes")},
        offsets=torch.zeros(1, dtype=torch.int64),
    )
    with pytest.raises(RefusedError, match="partner-0 holds no people; a partner needs at least one"):
        agent(empty)


@modes
def test_the_same_request_gives_the_same_answer_whatever_was_asked_before(mechanism: Any) -> None:
    asked = agent(mechanism=mechanism)
    asked.train(replace(REQUEST, round=3))
    assert np.array_equal(asked.train(REQUEST).update, agent(mechanism=mechanism).train(REQUEST).update)


def test_a_private_round_is_answered_once_whatever_model_is_sent_along() -> None:
    asked = agent(mechanism=MECHANISM)
    asked.train(REQUEST)
    for again in (REQUEST, replace(REQUEST, parameters=MODEL + 1)):
        with pytest.raises(RefusedError, match="round 2"):
            asked.train(again)
    asked.train(replace(REQUEST, round=3))


def test_a_round_is_charged_with_its_mechanism_and_model_before_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.in_memory(ANY_BUDGET)
    asked = agent(mechanism=MECHANISM, ledger=ledger)

    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(agent_module, "train_privately", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        asked.train(REQUEST)
    (charge,) = [entry.content for entry in ledger.entries if isinstance(entry.content, Charge)]
    assert (charge.run, charge.round, charge.purpose, charge.delta) == ("r", 2, "training", plan().privacy.delta)
    grid = Grid.of(MECHANISM.clip_norm, plan().privacy.grid_bits)
    assert charge.mechanism.after(4) == MECHANISM.on_grid(grid, len(MODEL))
    assert charge.mechanism.steps == plan().privacy.local_steps
    assert charge.mechanism.rounding > 0
    assert charge.model_digest == hashlib.sha256(MODEL.tobytes()).hexdigest()


def test_a_spent_budget_refuses_the_round_and_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.in_memory(Limits(epsilon_per_run=2.0, epsilon_per_year=None, delta=1e-5))
    asked = agent(mechanism=MECHANISM, ledger=ledger)
    monkeypatch.setattr(agent_module, "train_privately", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(RefusedError, match="2"):
        asked.train(REQUEST)


def test_private_training_without_a_ledger_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="expected a ledger to charge private releases to, got none"):
        Agent(
            partner="p",
            histories=histories(),
            vocabulary=vocabulary(),
            plan=plan(),
            terms=Terms(budget=training_budget(MECHANISM), declared_people=DECLARED_PEOPLE),
            randomness=ReproducibleSource(0),
        )


def test_a_partner_draws_its_secrets_from_the_operating_system_unless_told_otherwise() -> None:
    def answer() -> FloatVector:
        return (
            Agent(
                partner="p",
                histories=histories(),
                vocabulary=vocabulary(),
                plan=plan(),
                terms=Terms(budget=training_budget(MECHANISM), declared_people=DECLARED_PEOPLE),
                randomness=ReproducibleSource(0),
                ledger=Ledger.in_memory(ANY_BUDGET),
            )
            .train(REQUEST)
            .update
        )

    assert not np.array_equal(answer(), answer())


@modes
def test_partners_and_rounds_answer_differently(mechanism: Any) -> None:
    answers = [
        agent(partner=partner, mechanism=mechanism).train(replace(REQUEST, round=number)).update
        for partner in ("a", "b")
        for number in (1, 2)
    ]
    for one in range(4):
        assert all(not np.array_equal(answers[one], answers[other]) for other in range(one))


@modes
def test_an_answer_holds_the_question_and_the_update_and_nothing_else(mechanism: Any) -> None:
    reply = agent(mechanism=mechanism).train(REQUEST)
    assert (reply.run, reply.round, reply.plan_digest) == (REQUEST.run, REQUEST.round, REQUEST.plan_digest)
    assert {field.name for field in fields(reply)} == {"run", "round", "plan_digest", "update"}
    assert reply.update.dtype == np.float32
    assert reply.update.shape == MODEL.shape
    records = reply.encode()
    assert {key: set(record) for key, record in records.items()} == {
        "silhouette": {"version", "run", "round", "plan"},
        "arrays": {"update"},
    }


@modes
def test_the_request_is_left_as_it_came(mechanism: Any) -> None:
    sent = MODEL.copy()
    agent(mechanism=mechanism).train(replace(REQUEST, parameters=sent))
    assert np.array_equal(sent, MODEL)


def test_a_private_partner_never_sends_an_update_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = PlainUpdate(torch.zeros(len(MODEL)))
    monkeypatch.setattr(agent_module, "train_privately", lambda *_, **__: bare)
    with pytest.raises(RefusedError, match="expected a private update, got one without noise; nothing was sent"):
        agent(mechanism=MECHANISM).train(REQUEST)
    noised = PrivateUpdate(torch.zeros(len(MODEL)), MECHANISM)
    monkeypatch.setattr(agent_module, "train_plainly", lambda *_: noised)
    with pytest.raises(RefusedError, match="expected an update without noise, got a private one"):
        agent().train(REQUEST)


def test_a_private_answer_is_not_that_of_plain_training_even_with_hardly_any_noise() -> None:
    """What leaves is a clipped sum, whose size does not depend on how far a person is from the model."""
    fine = plan(privacy=replace(plan().privacy, grid_bits=24))
    quiet = replace(MECHANISM, noise_multiplier=2e-5, sampling_rate=1.0)
    update = agent(mechanism=quiet, with_plan=fine).train(replace(REQUEST, plan_digest=fine.digest)).update
    assert np.linalg.norm(update) <= fine.privacy.learning_rate * quiet.clip_norm * 1.01


def test_what_was_sent_is_a_message_that_decodes() -> None:
    reply = agent(mechanism=MECHANISM).train(REQUEST)
    again = TrainReply.decode(reply.encode())
    assert np.array_equal(again.update, reply.update)


ONCE = SampledGaussian.once(noise_multiplier=3.0, clip_norm=1.0)
COUNTED = Budget(popularity=ONCE, transitions=ONCE, training=None)
COUNTING = plan(privacy=replace(plan().privacy, rounds=0), statistics=Statistics(active_items=5, window=2, rank=2))
ACTIVE = np.array([4, 1, 9, 17, 20])


def counting(ledger: Ledger | None = None) -> Agent:
    return agent(budget=COUNTED, with_plan=COUNTING, ledger=ledger)


def asking(of: StatisticName, **changes: Any) -> StatisticRequest:
    active = ACTIVE if of == "transitions" else ACTIVE[:0]
    made = StatisticRequest(run="r", statistic=of, plan_digest=COUNTING.digest, active=active)
    return replace(made, **changes)


@pytest.mark.parametrize("statistic", get_args(StatisticName))
def test_a_count_is_charged_once_and_noised_in_every_place(statistic: StatisticName) -> None:
    ledger = Ledger.in_memory(ANY_BUDGET)
    asked = counting(ledger)
    reply = asked.count(statistic, asking(statistic))
    bare = (
        popularity_sum(histories(), 20)
        if statistic == "popularity"
        else transition_sum(histories(), torch.from_numpy(ACTIVE), 2, 20)
    ).vector.numpy()
    assert reply.total.shape == bare.shape
    assert 1.0 < np.abs(reply.total - bare).std() < 6.0
    assert len(set(reply.total.tolist())) == len(bare)  # item 0 and pairs that nobody has are noised too
    (charge,) = [entry.content for entry in ledger.entries if isinstance(entry.content, Charge)]
    grid = Grid.of(1.0, COUNTING.privacy.grid_bits)
    assert (charge.round, charge.purpose, charge.mechanism) == (0, statistic, ONCE.on_grid(grid, len(bare)))
    with pytest.raises(RefusedError, match="round 0"):
        asked.count(statistic, asking(statistic))


def test_a_plan_whose_active_items_grow_with_epsilon_is_counted_at_that_many() -> None:
    grown = replace(
        COUNTING,
        privacy=replace(COUNTING.privacy, epsilon=2.0),
        statistics=replace(COUNTING.statistics, active_items=10, active_power=0.5),
    )
    for epsilon, expected in ((2.0, 5), (8.0, 10)):
        own = replace(grown, privacy=replace(grown.privacy, epsilon=epsilon))
        if expected == len(ACTIVE):
            reply = agent(budget=COUNTED, with_plan=own).count(
                "transitions", asking("transitions", plan_digest=own.digest)
            )
            assert reply.total.shape == (expected * (expected - 1) // 2,)
        else:
            with pytest.raises(RefusedError, match="expected 10 active items, got 5"):
                agent(budget=COUNTED, with_plan=own).count("transitions", asking("transitions", plan_digest=own.digest))


def test_a_statistic_that_the_budget_does_not_have_is_refused() -> None:
    for asked in (agent(), agent(mechanism=MECHANISM)):
        with pytest.raises(RefusedError, match="got one for popularity, which has no budget in it"):
            asked.count("popularity", asking("popularity", plan_digest=plan().digest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_digest": "q"}, "install the same plan on both sides"),
        ({"statistic": "popularity"}, "expected a request for transitions, got one for popularity"),
        ({"active": ACTIVE[:4]}, "expected 5 active items, got 4"),
        ({"active": np.array([4, 1, 9, 17, 21])}, "expected different active items from 1 to 20, got others"),
        ({"active": np.array([4, 1, 9, 17, 0])}, "expected different active items from 1 to 20, got others"),
        ({"active": np.array([4, 1, 9, 17, 4])}, "expected different active items from 1 to 20, got others"),
    ],
)
def test_a_count_that_the_plan_does_not_have_is_refused_and_not_charged(changes: dict[str, Any], message: str) -> None:
    ledger = Ledger.in_memory(ANY_BUDGET)
    with pytest.raises(RefusedError, match=message):
        counting(ledger).count("transitions", asking("transitions", **changes))
    assert not [entry for entry in ledger.entries if isinstance(entry.content, Charge)]


def test_a_partner_whose_budget_is_all_counted_trains_no_round_even_without_noise() -> None:
    words = replace(vocabulary(), prior=PriorShape.of(COUNTING.statistics))
    made = encoder(words)
    model = np.concatenate([MODEL, np.zeros(made.prior_size, np.float32)])
    request = replace(REQUEST, plan_digest=COUNTING.digest, round=1, parameters=model)
    with pytest.raises(RefusedError, match="expected a round from 1 to 0, got 1"):
        counting().train(request)


def test_a_model_without_its_prior_or_with_a_bad_one_is_refused() -> None:
    own = plan(statistics=COUNTING.statistics)
    asked = agent(budget=replace(COUNTED, training=MECHANISM), with_plan=own)
    prior = encoder(replace(vocabulary(), prior=PriorShape.of(own.statistics))).prior_size
    request = replace(REQUEST, plan_digest=own.digest)
    with pytest.raises(RefusedError, match=f"expected a model of {len(MODEL) + prior} parameters, got shape"):
        asked.train(request)
    negative = np.concatenate([MODEL, np.full(prior, -1.0, np.float32)])
    with pytest.raises(RefusedError, match="expected a content weight of at least 0, got a negative one"):
        asked.train(replace(request, parameters=negative))
    whole = np.concatenate([MODEL, np.zeros(prior, np.float32)])
    assert asked.train(replace(request, parameters=whole)).update.shape == MODEL.shape
