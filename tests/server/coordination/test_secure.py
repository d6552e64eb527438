"""Secure rounds over Flower with real agents: the exact sum of those who stay, or a void round that says why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from tests.consortium import LOCAL, PEOPLE, Consortium, Passed, Trouble, failing, secure_plan
from tests.people import MECHANISM, histories

from silhouette_server.coordination.federation import CheckedStrategy
from silhouette_server.coordination.secure import VoidRoundError
from silhouette_shared.config import Statistics
from silhouette_shared.errors import IntegrityError, RefusedError, UnavailableError
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg import Encoded, verify_chain
from silhouette_shared.wire import Description, StatisticRequest, TrainRequest
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.exchange import STEPS, Answer, Exchange
from silhouette_shared.wire.rounds import training_layout

FIVE = ["advertise", "share", "mask", "agree", "unmask"]
THREE = ["mask", "agree", "unmask"]
COUNTED = Statistics(popularity_share=0.2, transition_share=0.3, active_items=10, rank=4)


def once(noise: float, **changes: object) -> SampledGaussian:
    return SampledGaussian(noise_multiplier=noise, sampling_rate=1.0, steps=1, clip_norm=1.0, **changes)  # type: ignore[arg-type]


STATISTICS = Budget(popularity=once(0.8), transitions=once(1.5), training=None)  # epsilon 8 pays for each once


def contributions(house: Consortium) -> dict[tuple[str, str], Encoded]:
    """What every partner puts into a round, by round and partner; filled while it runs."""
    found: dict[tuple[str, str], Encoded] = {}
    for name in house.names:
        agent = house.agent(name)
        inner = agent.contribute

        def contribute(asked, terms, name=name, inner=inner):  # type: ignore[no-untyped-def]
            found[f"{asked.purpose}/{asked.round}", name] = encoded = inner(asked, terms)
            return encoded

        agent.contribute = contribute  # type: ignore[method-assign]
    return found


def transcripts(house: Consortium) -> list[bytes]:
    return [path.read_bytes() for path in sorted((house.folder / "secure").glob("*.transcript"))]


def survivors(house: Consortium) -> dict[str, tuple[str, ...]]:
    """By purpose, as the signed records have it."""
    checked = verify_chain(transcripts(house), house.pins, run=house.job.run)
    return {one.manifest.purpose: one.survivors for one in checked}


def exact_mean(found: dict[tuple[str, str], Encoded], purpose: str, names: tuple[str, ...]) -> torch.Tensor:
    layout = found[purpose, names[0]].layout
    words = np.zeros(layout.size, np.uint32)
    for name in names:
        words += found[purpose, name].words
    sums = layout.decode(words, len(names))
    return torch.from_numpy(
        (sums["update"].astype(np.float64) * layout.sections[0].scale / float(sums["weight"][0])).astype(np.float32)
    )


def charges(house: Consortium, name: str) -> list[tuple[str, int]]:
    ledger = house.agent(name)._ledger
    assert ledger is not None
    contents = [entry.content for entry in ledger.entries]
    return [(one.purpose, one.round) for one in contents if isinstance(one, Charge)]


def in_round(number: int, step: str, *partners: str, answer: bool = True, purpose: str = "training") -> object:
    def matches(passed: Passed) -> bool:
        return (
            passed.partner in partners
            and passed.group == f"{purpose} {number}"
            and passed.kind == f"train.{step}"
            and passed.answer == answer
        )

    return matches


def trouble(matches: object, change: Callable[[Message], Message | None]) -> Trouble:
    return lambda passed, message: change(message) if matches(passed) else message  # type: ignore[operator]


def lost(message: Message) -> Message | None:
    return None


# --- the model is the one without secure aggregation ---


@pytest.mark.parametrize("budget", [None, LOCAL], ids=["none", "local"])
def test_the_model_is_the_one_without_secure_aggregation_to_the_precision_of_the_grid(
    tmp_path: Path, budget: Budget | None
) -> None:
    in_the_open = Consortium(tmp_path / "open", secure_plan("none"), budget)
    securely = Consortium(tmp_path / "secure", secure_plan(), budget)
    one, other = in_the_open.run(), securely.run()
    secure = securely.job.secure
    assert secure is not None
    layout = training_layout(secure.plan, len(one.parameters), secure.training, partners=5, people=40)
    # Each of the 5 partners rounds by half a step at most; the sum is divided by the people, with privacy the declared.
    weight = sum(PEOPLE.values()) if budget is None else 40 + 10 + 20 + 10 + 30
    bound = 5 * 0.5 * layout.sections[0].scale / weight
    moved = (one.parameters - in_the_open.job.initial).abs().max()
    apart = (one.parameters.double() - other.parameters.double()).abs().max()
    assert moved > 1000 * bound
    assert apart <= bound + 2**-24 * float(one.parameters.abs().max())  # and of float32
    assert apart > 0 or budget is None
    assert other.records[0].replies == 5
    assert {step["step"] for step in other.records[0].steps} == set(STEPS)


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_statistics_are_those_without_secure_aggregation(tmp_path: Path, mode: str) -> None:
    shares = 3 if mode == "distributed" else 1
    budget = Budget(popularity=once(2.0, shares=shares), transitions=once(2.0, shares=shares), training=None)
    plans = [
        replace(secure_plan(protocol, rounds=1), statistics=COUNTED, privacy=replace(secure_plan().privacy, rounds=0))
        for protocol in ("none", "sa-1")
    ]
    if mode == "distributed":
        plans[1] = replace(plans[1], privacy=replace(plans[1].privacy, mode="distributed"))
    one = Consortium(tmp_path / "open", plans[0], budget).run()
    house = Consortium(tmp_path / "secure", plans[1], budget)
    other = house.run()
    for name in ("statistics.popularity", "statistics.transitions"):
        openly, securely = (strategy._released.state() for strategy in (one, other))
        largest = float(openly[name].abs().max())
        assert torch.allclose(openly[name], securely[name], rtol=0, atol=5 * 2**-24 * largest)
        assert int(securely[f"{name}.answers"]) == 5
    assert other._released.state()["statistics.popularity"].std() > 1
    assert list(survivors(house)) == ["popularity/0", "transitions/0"]
    assert house.wire.steps() == [("popularity 0", step) for step in FIVE] + [("transitions 0", step) for step in THREE]


def test_in_mode_distributed_the_sum_has_the_calibrated_noise_and_is_exact(tmp_path: Path) -> None:
    noisy = replace(MECHANISM, noise_multiplier=200.0, shares=3)
    house = Consortium(
        tmp_path / "a", secure_plan(mode="distributed"), Budget(popularity=None, transitions=None, training=noisy)
    )
    found = contributions(house)
    strategy = house.run()
    layout = found["training/1", "partner-0"].layout
    scale = layout.sections[0].scale

    def total(names: list[str]) -> np.ndarray:
        words = np.zeros(layout.size, np.uint32)
        for name in names:
            words += found["training/1", name].words
        return layout.decode(words, len(names))["sum"] * scale

    calibrated = noisy.noise_multiplier * house.job.secure.training.sensitivity  # type: ignore[union-attr]
    # 77 people clipped to 0.5 add less than 0.7 a coordinate to noise of 100: what is seen is noise.
    error = 5 / math.sqrt(2 * layout.size)
    everybody, three = total(house.names), total(house.names[1:4])
    assert np.std(everybody) / calibrated == pytest.approx(math.sqrt(5 / 3), rel=error)
    assert np.std(three) / calibrated == pytest.approx(1.0, rel=error), "with h honest partners it is all there"
    assert np.std(total(["partner-0"])) / calibrated == pytest.approx(math.sqrt(1 / 3), rel=error)
    expected = everybody * (-1.0 / (0.5 * 110))  # rate 1, half of the 40 + 10 + 20 + 10 + 30 declared people
    assert torch.equal(strategy.parameters, house.job.initial + torch.from_numpy(expected.astype(np.float32)))


# --- five steps and three ---


def test_from_the_second_round_on_there_are_three_exchanges_and_nothing_is_told_twice(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=5))
    house.run()
    steps = house.wire.steps()
    assert steps == [("training 1", step) for step in FIVE] + [
        (f"training {number}", step) for number in (2, 3, 4, 5) for step in THREE
    ]
    first = [Exchange.decode(one.content) for one in house.wire.passed if one.kind == "train.mask" and not one.answer]
    assert {len(one.missed) for one in first if "manifest" in one.parts} == {1}, "each transcript travels once"


def test_after_a_drop_out_the_next_round_takes_five_steps(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=4))
    house.wire.trouble = trouble(in_round(2, "mask", "partner-3"), lost)
    house.run()
    by_round = {number: [s for g, s in house.wire.steps() if g == f"training {number}"] for number in (1, 2, 3, 4)}
    assert by_round == {1: FIVE, 2: THREE, 3: FIVE, 4: THREE}
    assert "partner-3" not in survivors(house)["training/2"]
    assert len(survivors(house)["training/3"]) == 5


def test_a_restarted_partner_is_told_what_it_missed_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=4))

    def restarting(passed: Passed, message: Message) -> Message:
        if in_round(3, "mask", "partner-1", answer=False)(passed):  # type: ignore[operator]
            house.restart("partner-1")
        return message

    house.wire.trouble = restarting
    house.run()
    found = survivors(house)
    assert [len(found[f"training/{number}"]) for number in (1, 2, 3, 4)] == [5, 5, 4, 5]
    assert [step for group, step in house.wire.steps() if group == "training 4"] == FIVE
    assert "a partner that was started again has seen none, and is told all of them when the next" in caplog.text


@pytest.mark.parametrize("step", ["agree", "unmask"])
def test_a_partner_restarted_late_in_a_round_is_in_the_next_sum(tmp_path: Path, step: str) -> None:
    """It had been told of the rounds before, and has forgotten all of them."""
    house = Consortium(tmp_path / "a", secure_plan(rounds=3))

    def restarting(passed: Passed, message: Message) -> Message:
        if in_round(2, step, "partner-1", answer=False)(passed):  # type: ignore[operator]
            house.restart("partner-1")
        return message

    house.wire.trouble = restarting
    house.run()
    assert [len(survivors(house)[f"training/{number}"]) for number in (1, 2, 3)] == [5, 5, 5]
    assert [name for group, name in house.wire.steps() if group == "training 3"] == FIVE


def test_after_a_void_round_the_next_one_takes_five_steps_and_the_number_is_used_up(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=3))
    house.wire.trouble = trouble(in_round(2, "mask", "partner-0", "partner-1"), lost)
    strategy = house.run()
    assert [record.replies for record in strategy.records] == [5, 0, 5]
    assert torch.equal(house.models[0], house.models[1]), "a void round leaves the model as it is"
    assert not torch.equal(house.models[1], house.models[2])
    assert [step for group, step in house.wire.steps() if group == "training 3"] == FIVE
    checked = verify_chain(transcripts(house), house.pins, run=house.job.run)
    assert [one.round for one in checked] == [1, 3]


# --- who fails or is silent ---


@pytest.mark.parametrize("how", ["answer lost", "message lost", "fails"])
@pytest.mark.parametrize("step", STEPS)
def test_without_one_partner_the_sum_is_exactly_that_of_those_whose_vector_is_there(
    tmp_path: Path, step: str, how: str
) -> None:
    house = Consortium(tmp_path / "a", secure_plan())
    found = contributions(house)
    matches = in_round(1, step, "partner-2", answer=how != "message lost")
    house.wire.trouble = trouble(matches, failing if how == "fails" else lost)
    strategy = house.run()
    there = survivors(house)["training/1"]
    gone = step in ("advertise", "share", "mask")
    assert there == tuple(name for name in house.names if not gone or name != "partner-2")
    assert torch.equal(strategy.parameters, house.job.initial + exact_mean(found, "training/1", there))
    assert strategy.records[0].replies == len(there)


@pytest.mark.parametrize("step", STEPS)
def test_without_two_partners_the_round_is_void_and_every_reason_is_named(
    tmp_path: Path, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    house = Consortium(tmp_path / "a", secure_plan())
    house.wire.trouble = trouble(in_round(1, step, "partner-1", "partner-4"), failing)
    strategy = house.run()
    assert strategy.records[0].replies == 0
    assert torch.equal(strategy.parameters, house.job.initial)
    assert not transcripts(house)
    for part in ("round 1 is void", "expected at least 4 partners, got 3", f"partner-1, {step}", f"partner-4, {step}"):
        assert part in caplog.text


def test_a_partner_that_is_too_slow_has_dropped_out(tmp_path: Path) -> None:
    slow = secure_plan()
    house = Consortium(tmp_path / "a", replace(slow, replies=replace(slow.replies, timeout_seconds=3.0)))
    inner = house.agent("partner-4").contribute

    def contribute(asked, terms):  # type: ignore[no-untyped-def]
        time.sleep(3.5)
        return inner(asked, terms)

    house.agent("partner-4").contribute = contribute  # type: ignore[method-assign]
    house.run()
    assert survivors(house)["training/1"] == tuple(house.names[:4])


def test_a_sum_over_fewer_than_the_plan_wants_stops_the_run_and_moves_nothing(tmp_path: Path) -> None:
    plan = secure_plan(rounds=2)
    house = Consortium(tmp_path / "a", replace(plan, replies=replace(plan.replies, minimum=5)))
    house.wire.trouble = trouble(in_round(2, "mask", "partner-2"), lost)
    with pytest.raises(UnavailableError, match=r"expected at least 5 partners in the sum, got 4.*partner-2, mask"):
        house.run()
    assert [record.round for record in house.records] == [1]
    house.wire.trouble = trouble(lambda passed: False, lost)
    assert [record.replies for record in house.run().records] == [5, 5]


def test_three_void_rounds_in_a_row_stop_the_run_and_it_can_be_resumed(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=5))
    down = {2, 3, 4}

    def two_down(passed: Passed, message: Message) -> Message | None:
        number = int(passed.group.split()[1]) if passed.group.startswith("training") else 0
        return None if number in down and passed.partner in ("partner-0", "partner-1") else message

    house.wire.trouble = two_down
    with pytest.raises(UnavailableError, match="3 rounds in a row are void") as caught:
        house.run()
    assert caught.value.exit_code == 4
    house.wire.trouble = trouble(lambda passed: False, lost)
    assert [record.replies for record in house.run().records] == [5, 0, 0, 5, 5]


# --- who answers wrongly ---


def rewritten(change: Callable[[Answer], Answer]) -> Callable[[Message], Message]:
    def apply(message: Message) -> Message:
        message.content = change(Answer.decode(message.content)).encode()
        return message

    return apply


def flipped(words: Vector | None) -> Vector:
    assert words is not None
    words[7] ^= 1
    return words


def with_last_bit_flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


WRONG: dict[str, tuple[str, Callable[[Answer], Answer]]] = {
    "a flipped word": ("mask", lambda one: replace(one, words=flipped(one.words))),
    "fewer words": ("mask", lambda one: replace(one, words=None if one.words is None else one.words[:-1])),
    "another round": ("mask", lambda one: replace(one, round=one.round + 1)),
    "another purpose": ("agree", lambda one: replace(one, purpose="popularity")),
    "another run": ("share", lambda one: replace(one, run="other")),
    "another step": ("agree", lambda one: replace(one, step="unmask", parts={"unmask": b"x"})),
    "no message": ("unmask", lambda one: replace(one, parts={**one.parts, "unmask": b""})),
    "a flipped bit": (
        "agree",
        lambda one: replace(one, parts={**one.parts, "agreement": with_last_bit_flipped(one.parts["agreement"])}),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_answer_makes_the_round_void_and_names_the_partner(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    step, change = WRONG[what]
    house = Consortium(tmp_path / "a", secure_plan())
    house.wire.trouble = trouble(in_round(1, step, "partner-3"), rewritten(change))
    strategy = house.run()
    assert strategy.records[0].replies == 0
    assert torch.equal(strategy.parameters, house.job.initial)
    assert "partner-3: " in caplog.text
    steps = [step for _, step in house.wire.steps()]
    assert step == "unmask" or "unmask" not in steps, "nothing was unmasked"


@pytest.mark.parametrize("step", STEPS)
def test_another_partners_answer_is_no_answer(tmp_path: Path, step: str, caplog: pytest.LogCaptureFixture) -> None:
    house = Consortium(tmp_path / "a", secure_plan())
    kept: list[Message] = []

    def copying(passed: Passed, message: Message) -> Message:
        if in_round(1, step, "partner-1")(passed):  # type: ignore[operator]
            kept.append(message)
        if in_round(1, step, "partner-3")(passed):  # type: ignore[operator]
            message.content = kept[0].content
        return message

    house.wire.trouble = copying
    strategy = house.run()
    assert strategy.records[0].replies == 0
    assert "partner-3: expected this partner's own answer, got another's" in caplog.text


# --- what a partner refuses ---


def test_an_enrolled_partner_answers_in_no_other_way(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(), LOCAL)
    agent, digest = house.agent("partner-0"), house.plan.digest
    plain = TrainRequest(run="r", round=1, plan_digest=digest, parameters=house.job.initial.numpy())
    with pytest.raises(RefusedError, match="without masks; this partner is enrolled for secure aggregation"):
        agent.train(plain)
    statistic = StatisticRequest(run="r", statistic="popularity", plan_digest=digest, active=np.empty(0, np.int64))
    with pytest.raises(RefusedError, match="without masks; this partner is enrolled for secure aggregation"):
        agent.count("popularity", statistic)


def test_a_partner_that_is_not_enrolled_refuses_a_secure_round(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan("none"))
    asked = Exchange(run="r", purpose="training", round=1, step="advertise", parts={"manifest": b""})
    with pytest.raises(RefusedError, match="expected a run without secure aggregation"):
        house.agent("partner-0").exchange(asked)


OTHERS: dict[str, Callable[[Consortium], Consortium]] = {
    "the privacy terms": lambda one: Consortium(
        one.folder,
        one.plan,
        Budget(popularity=None, transitions=None, training=replace(MECHANISM, noise_multiplier=0.01)),
    ),
    "the sections": lambda one: Consortium(
        one.folder, one.plan, one.budget, people={"partner-0": histories([4] * 999)}
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_coordinator_with_other_terms_is_refused_by_everybody(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    house = Consortium(tmp_path / "a", secure_plan(), LOCAL)
    for name in house.names:
        house.agent(name)  # these hold the terms as they were
    job = OTHERS[what](house).job
    strategy = CheckedStrategy(job)
    strategy.start(house.wire)
    assert strategy.records[0].replies == 0
    for name in house.names:
        refusal = f"NotAgreedError: secure aggregation, step manifest, coordinator: expected {what} that this partner"
        assert f"{name}, advertise: error 2: {refusal} knows" in caplog.text
        assert not charges(house, name)


# --- a coordinator that is killed, and its files ---


class Killed(BaseException):
    """As a signal that ends the process."""


def test_a_killed_coordinator_goes_on_and_its_chain_verifies(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=4), LOCAL)

    def kill(passed: Passed, message: Message) -> Message:
        if in_round(3, "agree", "partner-2")(passed):  # type: ignore[operator]
            raise Killed
        return message

    house.wire.trouble = kill
    with pytest.raises(Killed):
        house.run()
    assert (house.folder / "secure" / "last-round").read_text() == "3\n"
    assert len(transcripts(house)) == 2
    house.wire.trouble = trouble(lambda passed: False, lost)
    house.restart_partners()  # a simulation's ledger ends with its process
    strategy = house.run()
    assert [record.replies for record in strategy.records] == [5, 5, 5, 5]
    checked = verify_chain(transcripts(house), house.pins, run=house.job.run)
    assert [(one.round, one.manifest.purpose) for one in checked] == [
        (1, "training/1"),
        (2, "training/2"),
        (4, "training/3"),
        (5, "training/4"),
    ]
    undisturbed = Consortium(tmp_path / "b", secure_plan(rounds=4), LOCAL).run()
    assert torch.equal(strategy.parameters, undisturbed.parameters)


def test_a_round_that_was_charged_before_the_kill_is_refused_and_the_next_number_follows(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=3), LOCAL)

    def kill(passed: Passed, message: Message) -> Message:
        if in_round(2, "unmask", "partner-2")(passed):  # type: ignore[operator]
            raise Killed
        return message

    house.wire.trouble = kill
    with pytest.raises(Killed):
        house.run()
    house.wire.trouble = trouble(lambda passed: False, lost)
    assert [record.replies for record in house.run().records] == [5, 0, 5]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("last-round", lambda path: path.write_bytes(b"seven")),
        ("last-round", lambda path: path.write_bytes(b"")),
        ("last-round", lambda path: path.write_bytes(b"1")),  # cut off: was 12
        ("000002.transcript", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x00")),
        ("000002.transcript", lambda path: path.write_bytes(path.read_bytes()[:40])),
        ("000002.transcript", lambda path: path.unlink()),
        ("000001.transcript", lambda path: path.unlink()),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=3, partners=3), partners=3)
    house.run()
    (house.folder / "checkpoint.safetensors").unlink()
    damage(house.folder / "secure" / name)
    with pytest.raises(IntegrityError, match=name):
        house.run()


# --- statistics that become void ---


def statistics_house(folder: Path, budget: Budget = STATISTICS) -> Consortium:
    plan = secure_plan()
    return Consortium(folder, replace(plan, statistics=COUNTED, privacy=replace(plan.privacy, rounds=0)), budget)


def test_a_void_statistic_is_asked_for_again_under_the_next_number(tmp_path: Path) -> None:
    house = statistics_house(tmp_path / "a")
    house.wire.trouble = trouble(in_round(0, "unmask", "partner-0", "partner-1", purpose="popularity"), lost)
    with pytest.raises(VoidRoundError, match="as far as each partner's budget allows"):
        house.run()
    # epsilon 8 does not pay the popularity twice: everybody says so, with the figures
    with pytest.raises(VoidRoundError, match=r"partner-2, mask: error 2: BudgetRefusedError.*epsilon"):
        house.run()
    house.restart_partners()  # a simulation's ledger ends with its process, so the budget is whole again
    house.run()
    assert list(survivors(house)) == ["popularity/2", "transitions/0"]


def test_with_budget_left_a_statistic_is_charged_a_second_time(tmp_path: Path) -> None:
    house = statistics_house(tmp_path / "a", Budget(popularity=once(9.0), transitions=once(9.0), training=None))
    house.wire.trouble = trouble(in_round(0, "unmask", "partner-0", "partner-1", purpose="popularity"), lost)
    with pytest.raises(VoidRoundError):
        house.run()
    house.wire.trouble = trouble(lambda passed: False, lost)
    house.run()
    assert list(survivors(house)) == ["popularity/1", "transitions/0"]
    assert charges(house, "partner-3") == [("popularity", 0), ("popularity", 1), ("transitions", 0)]


# --- nothing of one partner in clear ---


def test_nothing_of_one_partner_is_on_the_wire_in_clear(tmp_path: Path) -> None:
    counts = {"partner-0": 4_657, "partner-3": 3_571}
    house = Consortium(
        tmp_path / "a",
        secure_plan(),
        people={name: histories([1] * count, seed=9) for name, count in counts.items()},
    )
    updates: dict[str, bytes] = {}
    for name in counts:
        agent = house.agent(name)
        inner = agent._trained

        def trained(request, name=name, inner=inner):  # type: ignore[no-untyped-def]
            update = inner(request)
            updates[name] = update.vector.numpy().tobytes()
            return update

        agent._trained = trained  # type: ignore[method-assign]
    found = contributions(house)
    house.run()
    passed = b"".join(_bytes_of(one) for one in house.wire.passed)
    assert house.job.initial.numpy().tobytes()[:64] in passed, "the search finds what is there"
    assert len(updates) == 2
    for name, count in counts.items():
        answers = [one for one in house.wire.passed if one.partner == name and one.answer]
        assert [one.kind.removeprefix("train.") for one in answers] == ["query.describe", *FIVE]
        for form in (count.to_bytes(4, "little"), count.to_bytes(8, "big"), f"{count}".encode()):
            assert form not in b"".join(map(_bytes_of, answers))
        assert Description.decode(answers[0].content).people == {4_657: 4_700, 3_571: 3_600}[count]
        searched = 0
        for secret in (updates[name], found["training/1", name].words.tobytes()):
            for start in range(0, len(secret), 64):
                piece = secret[start : start + 64]
                if len(set(piece)) > 16:  # the update of an item that nobody touched is zero, which says nothing
                    assert piece not in passed
                    searched += 1
        assert searched > 100


def _bytes_of(one: Passed) -> bytes:
    parts: list[bytes] = []
    for record in one.content.values():
        for value in record.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, bytes):
                    parts.append(part)
                elif hasattr(part, "data"):
                    parts.append(part.data)
                else:
                    parts.append(str(part).encode())
    return b"\n".join(parts)


# --- a hostile coordinator over Flower's messages ---


def test_the_same_round_is_not_answered_twice_also_after_a_restart_or_another_run(tmp_path: Path) -> None:
    house = Consortium(tmp_path / "a", secure_plan(), partners=5)
    house.run()
    again = next(
        Exchange.decode(one.content)
        for one in house.wire.passed
        if one.partner == "partner-0" and one.kind == "train.advertise" and not one.answer
    )
    elsewhere = replace(again, run="another run")
    for restart in (False, True):
        if restart:
            house.restart("partner-0")
        with pytest.raises(RefusedError, match="expected the run that this partner knows"):
            house.agent("partner-0").exchange(elsewhere)
        with pytest.raises(RefusedError, match=r"a round is never answered twice|previous transcript"):
            house.agent("partner-0").exchange(again)


def test_another_model_to_one_partner_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    house = Consortium(tmp_path / "a", secure_plan(rounds=2))
    found = contributions(house)

    def chosen(passed: Passed, message: Message) -> Message:
        if passed.partner == "partner-4" and not passed.answer and passed.kind in ("train.advertise", "train.mask"):
            asked = Exchange.decode(message.content)
            if asked.inputs:
                inputs = {"parameters": asked.inputs["parameters"] * 2}
                message.content = replace(asked, inputs=inputs).encode()
        return message

    house.wire.trouble = chosen
    house.run()
    assert survivors(house) == {f"training/{number}": tuple(house.names[:4]) for number in (1, 2)}
    assert "partner-4, advertise: error 2: NotAgreedError" in caplog.text
    assert "expected the model that this partner knows, got another" in caplog.text
    assert not [name for _, name in found if name == "partner-4"]


def test_another_model_slipped_in_after_the_keys_gives_no_vector(tmp_path: Path) -> None:
    """A manifest that is refused must not leave its model behind in the round that was open."""
    house = Consortium(tmp_path / "a", secure_plan())
    found = contributions(house)
    slipped: list[str] = []

    def slip(passed: Passed, message: Message) -> Message:
        if in_round(1, "mask", "partner-4", answer=False)(passed):  # type: ignore[operator]
            asked = Exchange.decode(message.content)
            model = {"parameters": house.job.initial.numpy() * 2}
            for parts in ({"manifest": b"none", **asked.parts}, {"manifest": manifest[0], **asked.parts}):
                with pytest.raises((IntegrityError, RefusedError)):
                    house.agent("partner-4").exchange(replace(asked, parts=parts, inputs=model))
                slipped.append("refused")
        if in_round(1, "advertise", "partner-4", answer=False)(passed):  # type: ignore[operator]
            manifest.append(Exchange.decode(message.content).parts["manifest"])
        return message

    manifest: list[bytes] = []
    house.wire.trouble = slip
    house.run()
    assert slipped == ["refused", "refused"]
    assert ("training/1", "partner-4") not in found, "the round is over there"
    assert survivors(house)["training/1"] == tuple(house.names[:4])
