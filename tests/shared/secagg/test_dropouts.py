"""Whoever drops out at whatever step: the survivors' exact sum or a typed end, as predicted; never a wrong sum."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pytest
from tests.shared.secagg.house import House, names, sums, total

import silhouette_shared.secagg.keys as keys
import silhouette_shared.secagg.partner as partner
from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import (
    COORDINATOR,
    Checked,
    Coordinator,
    Layout,
    Pins,
    Section,
    Step,
    TooFewError,
    verify_chain,
    verify_transcript,
)
from silhouette_shared.secagg.keys import AgreementKey
from silhouette_shared.secagg.messages import Quorum, Roll, Survivors
from silhouette_shared.thresholds import least_threshold

STEPS = (Step.ADVERTISE, Step.SHARE, Step.MASKED, Step.CONSISTENCY, Step.UNMASK)
NEVER = len(STEPS)


@pytest.fixture(autouse=True, scope="module")
def verified_once() -> Iterator[None]:
    """Fifty partners in one process check the same signatures fifty times: here the second time is remembered."""
    plain = keys.verify_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "verify_bytes", lru_cache(maxsize=1 << 12)(plain))
        yield


def play(house: House, number: int, gone: Mapping[str, int]) -> bool:
    """One round in which each partner vanishes before its step of this index; True if it came to a sum.

    Step and kind of the end are predicted from the counts alone, and so is the set of survivors.
    """

    def alive(step: Step, name: str) -> bool:
        return STEPS.index(step) < gone.get(name, NEVER)

    def left(index: int) -> list[str]:
        return [name for name in house.names if gone.get(name, NEVER) > index]

    threshold = least_threshold(len(house.names))
    values = house.values(number)
    opened = len(house.unmasked)
    ends = [step for index, step in enumerate(STEPS) if len(left(index)) < threshold]
    if ends:
        with pytest.raises(TooFewError) as caught:
            house.round(number, values=values, alive=alive)
        assert caught.value.step is ends[0]
        assert len(house.unmasked) - opened == (len(left(4)) if ends[0] is Step.UNMASK else 0)
    else:
        outcome = house.round(number, values=values, alive=alive)
        assert list(outcome.survivors) == left(2)
        assert sums(outcome) == total(values, left(2), house.layout)
    assert not house.errors
    return not ends


def ends_at(count: int, leaving: Sequence[int]) -> int:
    """Index of the first step that too few reach."""
    return next(
        index
        for index in range(NEVER + 1)
        if index == NEVER or sum(at > index for at in leaving) < least_threshold(count)
    )


def exhaust(count: int) -> tuple[int, int]:
    """Play every way of dropping out; how many there are, and how many of them come to a sum.

    Two ways are the same round, message by message, if they differ only in who would have vanished after its end:
    such rounds are played once.
    """
    house = House(count)
    results: dict[tuple[int, ...], bool] = {}
    every = completed = 0
    for leaving in itertools.product(range(NEVER + 1), repeat=count):
        end = ends_at(count, leaving)
        played = tuple(at if at <= end else NEVER for at in leaving)
        if played not in results:
            results[played] = play(house, len(results) + 1, dict(zip(house.names, played, strict=True)))
        every += 1
        completed += results[played]
    verify_chain(house.transcripts[:20], house.pins, house.run)
    return every, completed


def test_of_three_every_dropout_at_every_step_ends_as_predicted() -> None:
    """With a threshold of three of three only the round without dropouts comes to a sum."""
    assert exhaust(3) == (6**3, 1)


@pytest.mark.slow
def test_of_four_every_dropout_at_every_step_ends_as_predicted() -> None:
    """Three of four: nobody, or one partner at one of five steps."""
    assert exhaust(4) == (6**4, 1 + 4 * 5)


@pytest.mark.slow
def test_of_five_every_dropout_at_every_step_ends_as_predicted() -> None:
    """Four of five: nobody, or one partner at one of five steps."""
    assert exhaust(5) == (6**5, 1 + 5 * 5)


@pytest.fixture
def computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fifty partners find out each for itself from the same bytes is found out once.

    Decoded messages and checked transcripts are functions of their bytes, and the secret of a pair is the same from
    either side. Nothing that depends on who has dropped out is remembered.
    """
    for kind in (Roll, Survivors, Quorum):
        monkeypatch.setattr(kind, "decode", lru_cache(maxsize=4)(kind.decode))
    plain, agree = verify_transcript, AgreementKey.agree
    checked: dict[tuple[bytes, str, bytes], Checked] = {}
    secrets: dict[frozenset[bytes], bytes] = {}

    def transcript_once(data: bytes, pins: Pins, *, run: str, previous: bytes) -> Checked:
        if (data, run, previous) not in checked:
            checked.clear()
            checked[data, run, previous] = plain(data, pins, run=run, previous=previous)
        return checked[data, run, previous]

    def pair_once(own: AgreementKey, peer: bytes) -> bytes:
        pair = frozenset((own.public, peer))
        if pair not in secrets:
            if len(secrets) > 20_000:
                secrets.clear()
            secrets[pair] = agree(own, peer)
        return secrets[pair]

    monkeypatch.setattr(partner, "verify_transcript", transcript_once)
    monkeypatch.setattr(AgreementKey, "agree", pair_once)


@pytest.mark.slow
def test_two_thousand_random_rounds_of_up_to_fifty_end_as_predicted(computed_once: None) -> None:
    drawn = np.random.default_rng(5)
    sizes = np.arange(3, 51)
    weights = sizes**-3.0
    houses = {int(count): House(int(count)) for count in sizes}
    completed = largest = 0
    large = np.concatenate([[50, 49, 34], drawn.integers(30, 51, 97)])
    counts = np.concatenate([large, drawn.choice(sizes, 1900, p=weights / weights.sum())])
    assert (counts >= 30).sum() >= 100
    for number, count in enumerate(counts, start=1):
        spare = int(count) - least_threshold(int(count))
        leaving = drawn.choice(int(count), drawn.integers(0, spare + 2), replace=False)
        gone = {names(int(count))[who]: int(drawn.integers(0, NEVER)) for who in leaving}
        done = play(houses[int(count)], number, gone)
        completed += done
        largest = max(largest, int(count) if done else 0)
    assert 800 < completed < 1900, completed
    assert largest >= 40


def test_ten_partners_lose_one_at_every_step_but_the_last_and_still_add_up() -> None:
    house = House(10)
    assert play(house, 1, {"partner-00": 0, "partner-04": 2, "partner-09": 4})
    assert not play(house, 2, {"partner-00": 0, "partner-03": 1, "partner-04": 2, "partner-09": 3})


def test_a_round_may_hold_vectors_longer_than_one_chunk_of_mask() -> None:
    layout = Layout((Section("update", 3 * (1 << 16) + 17, -(1 << 20), 1 << 20), Section("hits", 2, 0, 9)))
    house = House(5, layout=layout)
    values = house.values()

    def alive(step: Step, name: str) -> bool:
        return not (name == "partner-02" and step in STEPS[2:])

    outcome = house.round(values=values, alive=alive)
    expected = sum(values[name]["update"] for name in outcome.survivors)
    np.testing.assert_array_equal(outcome.sums["update"], expected)
    assert len(outcome.survivors) == 4


@pytest.mark.parametrize("count", [3, 5])
def test_three_exchanges_a_round_add_up_as_five_steps_do(count: int) -> None:
    house = House(count)
    _, ahead = house.ahead_round(1, None)
    for number in range(2, 6):
        outcome, ahead = house.ahead_round(number, ahead)
        assert ahead is not None
        assert sums(outcome) == total(house.values(number), house.names)
    assert not house.errors
    checked = verify_chain(house.transcripts, house.pins, house.run)
    assert [one.manifest.ahead == bytes(32) for one in checked] == [True, False, False, False, False]


def ahead_exhaust(count: int) -> int:
    """Everybody vanishes at every exchange of a steady round; then the next round takes the five steps."""
    completed = 0
    exchanges: Sequence[Step] = STEPS[2:]
    for leaving in itertools.product(range(len(exchanges) + 1), repeat=count):
        house = House(count)
        _, ahead = house.ahead_round(1, None)
        gone = dict(zip(house.names, leaving, strict=True))

        def alive(step: Step, name: str, gone: Mapping[str, int] = gone) -> bool:
            return step not in exchanges or exchanges.index(step) < gone[name]

        left = [[name for name in house.names if gone[name] > index] for index in range(len(exchanges))]
        ends = [step for step, there in zip(exchanges, left, strict=True) if len(there) < least_threshold(count)]
        following = None
        if ends:
            with pytest.raises(TooFewError) as caught:
                house.ahead_round(2, ahead, alive=alive)
            assert caught.value.step is ends[0]
        else:
            outcome, following = house.ahead_round(2, ahead, alive=alive)
            assert sums(outcome) == total(house.values(2), left[0])
            # Keys ahead only if nobody is missing: who came back takes part in all five steps.
            assert (following is None) == any(len(there) < count for there in left)
            completed += 1
        house.errors.clear()
        outcome, _ = house.ahead_round(3, following)
        assert sums(outcome) == total(house.values(3), house.names)
        assert not house.errors
    return completed


def test_of_three_every_dropout_of_a_steady_round_ends_as_predicted() -> None:
    assert ahead_exhaust(3) == 1


@pytest.mark.slow
def test_of_four_every_dropout_of_a_steady_round_ends_as_predicted() -> None:
    assert ahead_exhaust(4) == 1 + 4 * 3


def test_a_coordinator_takes_no_step_twice_and_none_out_of_order() -> None:
    house = House(3)
    leader: Coordinator = house.coordinator()
    leader.open()
    with pytest.raises(UsageError, match="expected step advertise next, got manifest"):
        leader.open()
    with pytest.raises(UsageError, match="expected no further step of this round, got advertise"):
        leader.advertised({})
    assert COORDINATOR not in house.pins.partners
