"""One bad answer costs that answer; too few are a failure that can be resumed to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Error, Message, MetricRecord
from tests.server.coordination.grids import Answers, FakeGrid, from_node, honest
from torch import Tensor

from silhouette_server.coordination.checkpoints import read_checkpoint, write_checkpoint
from silhouette_server.coordination.federation import CheckedStrategy, Job, RoundRecord
from silhouette_shared.config import Replies, Schedule, Training
from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.model.vector import Layout
from silhouette_shared.wire import TrainReply

LAYOUT = Layout(names=("a", "b"), shapes=((2, 2), (1,)))
PEOPLE = {"partner-0": 5, "partner-1": 9, "partner-22": 2}
BAD_ROUND = 2
ADAM = Training(rounds=4, server_optimiser="adam", server_learning_rate=0.1, update_limit=100.0)


def job(
    *,
    schedule: Schedule = ADAM,
    minimum: int = 1,
    checkpoint: Path | None = None,
    on_round: Callable[[RoundRecord, Tensor], None] = lambda record, model: None,
) -> Job:
    return Job(
        run="plan/federated",
        plan_digest="p",
        layout=LAYOUT,
        schedule=schedule,
        replies=Replies(minimum=minimum, timeout_seconds=1.0),
        partners=len(PEOPLE),
        initial=torch.linspace(-1, 1, LAYOUT.size),
        checkpoint=checkpoint,
        on_round=on_round,
    )


def good() -> dict[int, Answers]:
    return {100 + i: honest(name, count, LAYOUT.digest) for i, (name, count) in enumerate(PEOPLE.items())}


def run(made: Job, grid: FakeGrid | None = None) -> CheckedStrategy:
    strategy = CheckedStrategy(made)
    result = strategy.start(grid or FakeGrid(good()))
    assert np.array_equal(result.arrays["parameters"].numpy(), strategy.parameters.numpy())
    return strategy


def only_in_the_bad_round(bad: Callable[[Message, TrainReply], Sequence[Message]]) -> dict[int, Answers]:
    """All nodes, of which the second one misbehaves in one round."""
    nodes = good()
    well = nodes[101]

    def answer(message: Message) -> Sequence[Message]:
        replies = well(message)
        if message.metadata.group_id != str(BAD_ROUND):
            return replies
        return bad(message, TrainReply.decode(replies[0].content))

    nodes[101] = answer
    return nodes


def saying(change: Callable[[TrainReply], TrainReply]) -> Callable[[Message, TrainReply], Sequence[Message]]:
    return lambda message, reply: [Message(change(reply).encode(), reply_to=message)]


def with_first(value: float) -> Callable[[TrainReply], TrainReply]:
    def change(reply: TrainReply) -> TrainReply:
        reply.update[0] = value
        return reply

    return change


def with_metric(message: Message, reply: TrainReply) -> Sequence[Message]:
    records = reply.encode()
    records["metrics"] = MetricRecord({"loss": 0.5})
    return [Message(records, reply_to=message)]


BAD: dict[str, tuple[Callable[[Message, TrainReply], Sequence[Message]], str]] = {
    "NaN": (saying(with_first(float("nan"))), "partner-1: expected finite coordinates"),
    "infinite": (saying(with_first(float("inf"))), "partner-1: expected finite coordinates"),
    "out of range": (saying(with_first(101.0)), "partner-1: expected coordinates of at most 100.0, got larger ones"),
    "shape": (saying(lambda r: replace(r, update=r.update[:4])), "partner-1: expected 5 float32 coordinates, got"),
    "type": (saying(lambda r: replace(r, update=r.update.astype(np.float64))), "partner-1: expected update to be"),
    "run": (saying(lambda r: replace(r, run="other")), "partner-1: expected an answer of this run"),
    "round": (saying(lambda r: replace(r, round=1)), "partner-1: expected an answer of round 2, got 1"),
    "plan": (saying(lambda r: replace(r, plan_digest="q")), "partner-1: expected plan p, got q"),
    "extra record": (with_metric, "partner-1: expected the records ['arrays', 'silhouette'], got"),
    "error": (
        lambda message, reply: [Message(Error(code=2, reason="disk full"), reply_to=message)],
        "partner-1: error 2: disk full",
    ),
    "missing": (lambda message, reply: [], "partner-1: no answer"),
    "stranger": (
        lambda message, reply: [from_node(Message(reply.encode(), reply_to=message), 999)],
        "a node that is not in the roster answered or was lost",
    ),
}


def without_the_second() -> dict[int, Answers]:
    return only_in_the_bad_round(lambda message, reply: [])


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_answer_costs_that_answer_and_no_other(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    bad, reason = BAD[kind]
    strategy = run(job(), FakeGrid(only_in_the_bad_round(bad)))
    assert [(r.round, r.replies, r.refused) for r in strategy.records] == [(1, 3, 0), (2, 2, 1), (3, 3, 0), (4, 3, 0)]
    assert torch.equal(strategy.parameters, run(job(), FakeGrid(without_the_second())).parameters)
    assert not torch.equal(strategy.parameters, run(job()).parameters)
    assert any(reason in message for message in caplog.messages)


def test_a_second_answer_of_a_partner_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    def twice(message: Message, reply: TrainReply) -> Sequence[Message]:
        return [
            Message(reply.encode(), reply_to=message),
            Message(replace(reply, update=reply.update + 1).encode(), reply_to=message),
        ]

    strategy = run(job(), FakeGrid(only_in_the_bad_round(twice)))
    assert torch.equal(strategy.parameters, run(job()).parameters)
    assert {record.refused for record in strategy.records} == {0}
    assert "round 2: partner-1: answered twice; the first answer counts" in caplog.messages


def test_the_model_is_the_weighted_mean_of_what_the_partners_asked_for() -> None:
    once = Training(rounds=1, server_optimiser="average", server_learning_rate=1.0, update_limit=100.0)
    made = job(schedule=once)
    strategy = run(made)
    updates = [0.1 * (torch.arange(5.0) * count + len(name) - made.initial) for name, count in PEOPLE.items()]
    mean = sum(count * update for count, update in zip(PEOPLE.values(), updates, strict=True)) / 16
    assert torch.allclose(strategy.parameters, made.initial + mean, atol=1e-6)
    assert strategy.records[0].update_norm == pytest.approx(float(torch.as_tensor(mean).norm()), rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_answers_does_not_change_the_model(seed: int) -> None:
    def shuffled(replies: list[Message]) -> list[Message]:
        return random.Random(seed).sample(replies, len(replies))

    assert torch.equal(run(job(), FakeGrid(good(), shuffled)).parameters, run(job()).parameters)


def test_every_partner_gets_the_same_model_and_nothing_but_the_agreed_messages() -> None:
    grid = FakeGrid(good())
    run(job(), grid)
    kinds = [message.metadata.message_type for message in grid.sent]
    assert kinds == ["query.describe"] * 3 + ["train"] * 12
    assert [message.metadata.dst_node_id for message in grid.sent[3:6]] == [100, 101, 102]


@dataclass
class Failing:
    """Nodes that do not answer from a round on."""

    first: int
    nodes: dict[int, Answers] = field(default_factory=good)

    def grid(self) -> FakeGrid:
        def wrap(answer: Answers) -> Answers:
            def wrapped(message: Message) -> Sequence[Message]:
                number = message.metadata.group_id
                return [] if number.isdigit() and int(number) >= self.first else answer(message)

            return wrapped

        return FakeGrid({100: self.nodes[100], **{n: wrap(self.nodes[n]) for n in (101, 102)}})


def test_too_few_answers_are_a_failure_with_reasons_and_the_model_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    told: list[int] = []
    made = job(minimum=2, checkpoint=path, on_round=lambda record, model: told.append(record.round))
    with pytest.raises(UnavailableError) as caught:
        run(made, Failing(first=3).grid())
    for part in (
        "round 3: expected at least 2 valid answers, got 1",
        "partner-1: no answer",
        "partner-22: no answer",
        "the model of round 2 is kept: resume the run",
    ):
        assert part in str(caught.value)
    checkpoint = read_checkpoint(path)
    assert checkpoint is not None
    assert checkpoint.round == 2
    two = replace(ADAM, rounds=2)
    assert torch.equal(checkpoint.tensors["parameters"], run(job(schedule=two)).parameters)
    assert told == [1, 2]


@pytest.mark.parametrize("kind", ["average", "momentum", "adam"])
@pytest.mark.parametrize("first", [1, 2, 4])
def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_never_stopped(kind: str, first: int, tmp_path: Path) -> None:
    schedule = replace(ADAM, server_optimiser=kind)  # type: ignore[arg-type]
    path = tmp_path / "checkpoint.safetensors"
    made = job(schedule=schedule, minimum=3, checkpoint=path)
    with pytest.raises(UnavailableError):
        run(made, Failing(first=first).grid())
    resumed, whole = run(made), run(job(schedule=schedule))
    assert torch.equal(resumed.parameters, whole.parameters)
    assert [replace(r, seconds=0) for r in resumed.records] == [replace(r, seconds=0) for r in whole.records]


def test_a_kill_after_a_round_was_told_and_before_it_was_kept_loses_nothing(tmp_path: Path) -> None:
    told: list[tuple[int, Tensor]] = []

    class Killed(BaseException):
        pass

    def tell(record: RoundRecord, model: Tensor) -> None:
        told.append((record.round, model))
        if len(told) == 2:
            raise Killed

    made = job(checkpoint=tmp_path / "checkpoint.safetensors", on_round=tell)
    with pytest.raises(Killed):
        run(made)
    strategy = run(made)
    assert [number for number, _ in told] == [1, 2, 2, 3, 4]
    assert torch.equal(told[1][1], told[2][1])
    assert torch.equal(told[-1][1], strategy.parameters)
    assert not torch.equal(told[0][1], told[-1][1])  # what was told does not follow the model
    assert torch.equal(strategy.parameters, run(job()).parameters)


def test_a_finished_run_asks_nobody_again(tmp_path: Path) -> None:
    made = job(checkpoint=tmp_path / "checkpoint.safetensors")
    first = run(made)
    grid = FakeGrid({})
    again = run(made, grid)
    assert grid.sent == []
    assert torch.equal(again.parameters, first.parameters)
    assert again.records == first.records


@pytest.mark.parametrize("change", [{"run": "other/federated"}, {"plan_digest": "q"}])
def test_a_checkpoint_of_another_run_or_plan_is_refused(change: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    made = job(checkpoint=path)
    run(made)
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match="resume with the plan that started it"):
        run(replace(made, **change))  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    made = job(checkpoint=path)
    run(made)
    checkpoint = read_checkpoint(path)
    assert checkpoint is not None
    write_checkpoint(path, replace(checkpoint, tensors={"parameters": torch.zeros(4)}))
    with pytest.raises(IntegrityError, match="expected a checkpoint of this model"):
        run(made)


def test_a_model_that_is_not_finite_any_more_is_a_failure_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    wild = Training(rounds=2, server_optimiser="average", server_learning_rate=3e38, update_limit=1e6)
    with pytest.raises(IntegrityError, match="round 1: the global model is not finite any more"):
        run(job(schedule=wild, checkpoint=path))
    assert read_checkpoint(path) is None
