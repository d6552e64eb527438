"""Statistics come before the training, are summed as they came, and are never asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Error, Message
from tests.people import vocabulary
from tests.server.coordination.grids import Answers, FakeGrid, honest

from silhouette_server.coordination import federation
from silhouette_server.coordination.checkpoints import read_checkpoint, write_checkpoint
from silhouette_server.coordination.federation import CheckedStrategy, Counting, Job
from silhouette_server.item_start import start_items
from silhouette_server.statistics import ReleasedSum, active_items, make_prior
from silhouette_shared.config import Privacy, Replies, Statistics
from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.model.pairs import pair_count
from silhouette_shared.model.prior import ItemPrior, PriorShape
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.wire import StatisticReply, StatisticRequest, TrainRequest

LAYOUT = Layout(names=("a",), shapes=((5,),))
PEOPLE = {"partner-0": 5, "partner-1": 9, "partner-22": 2}
CONTENT = vocabulary().content
SETTINGS = Statistics(active_items=6, rank=2)
ONCE = SampledGaussian.once(noise_multiplier=0.5, clip_norm=1.0)
COUNTING = Counting(settings=SETTINGS, budget=Budget(ONCE, ONCE, None), content=CONTENT)
COUNTS = ("train.popularity", "train.transitions")

Spoil = Callable[[StatisticReply], StatisticReply]


def total_of(partner: str, statistic: str, size: int) -> np.ndarray:
    total: np.ndarray = np.linspace(1, PEOPLE[partner], size, dtype=np.float32)
    return total if statistic == "popularity" else total[::-1].copy()


def counting(partner: str, spoil: Spoil = lambda reply: reply, layout: Layout = LAYOUT) -> Answers:
    """An honest node that counts too."""
    train = honest(partner, PEOPLE[partner], layout.digest, size=layout.size)

    def answer(message: Message) -> Sequence[Message]:
        if message.metadata.message_type not in COUNTS:
            return train(message)
        asked = StatisticRequest.decode(message.content)
        size = len(CONTENT) if asked.statistic == "popularity" else pair_count(len(asked.active))
        reply = StatisticReply(asked.run, asked.statistic, asked.plan_digest, total_of(partner, asked.statistic, size))
        return [Message(spoil(reply).encode(), reply_to=message)]

    return answer


def nodes(spoil: Spoil = lambda reply: reply) -> dict[int, Answers]:
    """All of them; the second one spoils what it counts."""
    made = {100 + number: counting(name) for number, name in enumerate(PEOPLE)}
    made[101] = counting("partner-1", spoil)
    return made


def job(*, minimum: int = 1, rounds: int = 2, made: Counting | None = COUNTING, checkpoint: Path | None = None) -> Job:
    return Job(
        run="plan/private",
        plan_digest="p",
        layout=LAYOUT,
        schedule=Privacy(rounds=rounds),
        replies=Replies(minimum=minimum, timeout_seconds=1.0),
        partners=len(PEOPLE),
        initial=torch.zeros(LAYOUT.size),
        counting=made,
        checkpoint=checkpoint,
    )


def run(made: Job, grid: FakeGrid | None = None) -> tuple[CheckedStrategy, list[str]]:
    grid = grid or FakeGrid(nodes())
    strategy = CheckedStrategy(made)
    strategy.start(grid)
    return strategy, [message.metadata.message_type for message in grid.sent]


def kill_after(moment: int, made: Job, grid: FakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a run that ends as if killed just after so many saves."""
    saves = 0

    def dying(*arguments: object) -> None:
        nonlocal saves
        write_checkpoint(*arguments)  # type: ignore[arg-type]
        saves += 1
        if saves == moment:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(federation, "write_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            CheckedStrategy(made).start(grid)


def expected_prior(partners: Sequence[str]) -> torch.Tensor:
    def released(statistic: str, size: int) -> ReleasedSum:
        values = sum(total_of(partner, statistic, size).astype(np.float64) for partner in partners)
        return ReleasedSum(torch.as_tensor(values), 0.5 * len(partners) ** 0.5)

    popularity = released("popularity", len(CONTENT))
    active = active_items(popularity, SETTINGS.active_items)
    transitions = released("transitions", pair_count(len(active)))
    return make_prior(SETTINGS, CONTENT, popularity, active, transitions).vector()


def test_popularity_comes_first_then_transitions_then_the_rounds() -> None:
    strategy, sent = run(job())
    kinds = [sent[3 * number] for number in range(len(sent) // 3)]
    assert kinds == ["query.describe", "train.popularity", "train.transitions", "train", "train"]
    assert len(sent) == 15
    assert torch.equal(strategy.parameters[LAYOUT.size :], expected_prior(list(PEOPLE)))


def test_the_model_that_partners_train_holds_the_prior() -> None:
    grid = FakeGrid(nodes())
    run(job(rounds=1), grid)
    asked = TrainRequest.decode(grid.sent[-1].content)
    assert np.array_equal(asked.parameters[LAYOUT.size :], expected_prior(list(PEOPLE)).numpy())


def test_without_rounds_the_statistics_are_all_there_is() -> None:
    strategy, sent = run(job(rounds=0))
    assert set(sent) == {"query.describe", *COUNTS}
    assert torch.equal(strategy.parameters[: LAYOUT.size], torch.zeros(LAYOUT.size))
    assert strategy.records == ()


def test_popularity_alone_is_asked_where_nothing_else_is_budgeted() -> None:
    _, sent = run(job(rounds=0, made=replace(COUNTING, budget=Budget(ONCE, None, None))))
    assert set(sent) == {"query.describe", "train.popularity"}


def test_a_run_without_statistics_has_no_prior() -> None:
    strategy, sent = run(job(made=None))
    assert set(sent) == {"query.describe", "train"}
    assert strategy.parameters.shape == (LAYOUT.size,)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "NaN": (lambda r: replace(r, total=r.total * np.float32("nan")), "expected finite coordinates"),
    "too large": (lambda r: replace(r, total=r.total + 25), "expected coordinates of at most 24"),
    "size": (lambda r: replace(r, total=r.total[1:]), "float32 coordinates, got float32 of"),
    "run": (lambda r: replace(r, run="other"), "expected an answer of this run"),
    "plan": (lambda r: replace(r, plan_digest="q"), "expected plan p, got q"),
    "statistic": (
        lambda r: replace(r, statistic="popularity" if r.statistic == "transitions" else "transitions"),
        "partner-1: expected the ",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_bad_count_costs_itself_and_is_in_no_sum(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    spoil, reason = SPOILED[kind]
    strategy, _ = run(job(), FakeGrid(nodes(spoil)))
    assert torch.equal(strategy.parameters[LAYOUT.size :], expected_prior(["partner-0", "partner-22"]))
    assert reason in caplog.text


def test_too_few_counts_are_a_failure_that_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    made = job(minimum=3, checkpoint=path)

    def failing(message: Message) -> Sequence[Message]:
        if message.metadata.message_type == "train.transitions":
            return [Message(Error(code=2, reason="disk full"), reply_to=message)]
        return counting("partner-1")(message)

    with pytest.raises(UnavailableError, match=r"transitions: expected at least 3 valid answers, got 2 .*disk full"):
        run(made, FakeGrid(nodes() | {101: failing}))
    strategy, sent = run(made)
    assert "train.popularity" not in sent
    assert torch.equal(strategy.parameters, run(job())[0].parameters)


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_run_killed_after_any_save_asks_for_no_statistic_twice(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    made, grid = job(checkpoint=path), FakeGrid(nodes())
    kill_after(moment, made, grid, monkeypatch)
    asked = [message.metadata.message_type for message in grid.sent]
    strategy, sent = run(made)
    asked += sent
    assert [asked.count(kind) for kind in (*COUNTS, "train")] == [3, 3, 6]
    assert torch.equal(strategy.parameters, run(job())[0].parameters)


@pytest.mark.parametrize("moment", [2, 3, 4])
def test_the_item_table_begins_with_the_features_once_also_after_a_kill(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Layout(names=("item.weight",), shapes=((len(CONTENT), 3),))
    drawn = torch.randn(table.size, generator=torch.Generator().manual_seed(1))
    starting = replace(COUNTING, settings=replace(SETTINGS, item_start=2.0))
    made = replace(job(made=starting, checkpoint=tmp_path / "checkpoint"), layout=table, initial=drawn)
    answering = {100 + number: counting(name, layout=table) for number, name in enumerate(PEOPLE)}
    kill_after(moment, made, FakeGrid(answering), monkeypatch)
    resumed, _ = run(made, FakeGrid(answering))
    grid = FakeGrid(answering)
    whole, _ = run(replace(made, checkpoint=None), grid)
    assert torch.equal(resumed.parameters, whole.parameters)
    first = next(message for message in grid.sent if message.metadata.message_type == "train")
    asked = torch.from_numpy(TrainRequest.decode(first.content).parameters.copy())
    features = ItemPrior.of(asked[table.size :], PriorShape.of(SETTINGS), len(CONTENT) - 1, CONTENT.shape[1]).features
    assert torch.equal(asked[: table.size], start_items(drawn, table, features, 2.0))
    assert not torch.equal(asked[: table.size], drawn)


@pytest.mark.parametrize("trained_before", [False, True])
def test_the_item_table_of_a_trained_model_is_not_begun_anew(trained_before: bool) -> None:
    table = Layout(names=("item.weight",), shapes=((len(CONTENT), 3),))
    begun = torch.randn(table.size, generator=torch.Generator().manual_seed(1))
    starting = replace(COUNTING, settings=replace(SETTINGS, item_start=2.0))
    made = replace(job(made=starting, rounds=0), layout=table, initial=begun, trained_before=trained_before)
    strategy, _ = run(made, FakeGrid({100 + n: counting(name, layout=table) for n, name in enumerate(PEOPLE)}))
    assert torch.equal(strategy.parameters[: table.size], begun) is trained_before


def test_a_checkpoint_with_another_prior_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run(job(checkpoint=path))
    checkpoint = read_checkpoint(path)
    assert checkpoint is not None
    tensors = {**checkpoint.tensors, "statistics.prior": torch.zeros(3)}
    write_checkpoint(path, replace(checkpoint, tensors=tensors))
    with pytest.raises(IntegrityError, match="its prior has another shape"):
        run(job(checkpoint=path))
