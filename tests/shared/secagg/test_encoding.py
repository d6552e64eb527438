"""Integers to words and back; what is out of bounds is refused or voids the round, and nothing is ever clamped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shared.secagg.house import HEAD, House, terms

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import ImpossibleSumError, Layout, Section, Step

LAYOUT = Layout(
    (
        Section("update", 3, -100, 100, slack=7, scale=2**-16),
        Section("hits", 2, 0, 1, people=40),
        Section("loss", 1, 0, 1000, people=40, slack=3),
    )
)


def values(**changes: Any) -> dict[str, Any]:
    honest: dict[str, Any] = {"update": np.array([1, -107, 107]), "hits": np.array([0, 40]), "loss": np.array([-3])}
    return honest | changes


@given(
    st.integers(1, 50), st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 40), st.integers(0, 500), st.data()
)
def test_the_decoded_sum_of_encoded_vectors_is_the_sum(
    partners: int, low: int, high: int, people: int, slack: int, data: st.DataObject
) -> None:
    section = Section("x", 2, -low, high, people=people, slack=slack)
    layout = Layout((section,))
    possible = st.integers(*section.possible(1))
    drawn = [[data.draw(possible), data.draw(possible)] for _ in range(partners)]
    words = np.zeros(2, np.uint32)
    for pair in drawn:
        words += layout.encode({"x": np.array(pair)}).words
    assert layout.decode(words, partners)["x"].tolist() == [sum(column) for column in zip(*drawn, strict=True)]


def test_the_ends_of_the_ring_come_back() -> None:
    layout = Layout((Section("x", 2, -(1 << 31), (1 << 31) - 1),))
    encoded = layout.encode({"x": np.array([-(1 << 31), (1 << 31) - 1])})
    assert layout.decode(encoded.words, 1)["x"].tolist() == [-(1 << 31), (1 << 31) - 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"update": np.array([1, -108, 0])},
        {"update": np.array([1, 108, 0])},
        {"update": np.array([1, 1 << 40, 0])},
        {"update": np.array([1, (1 << 32) + 1, 0])},
        {"hits": np.array([0, 41])},
        {"hits": np.array([-1, 0])},
        {"hits": np.array([1 << 63, 0], np.uint64)},
        {"loss": np.array([-4])},
        {"loss": np.array([40_004])},
    ],
    ids=str,
)
def test_a_value_that_one_partner_cannot_have_is_refused_and_not_clamped(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="nothing is clamped: bound each person") as caught:
        LAYOUT.encode(values(**changes))
    (name,) = changes
    assert f"section {name}: expected values from" in str(caught.value)
    # The message says what is allowed and not what came.
    assert not any(str(abs(int(value))) in str(caught.value) for value in changes[name] if abs(int(value)) > 1000)


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([1.0, 2.0, 3.0]),
        np.array([np.nan, 0, 0]),
        np.array([np.inf, 0, 0], np.float32),
        np.array([True, False, True]),
        np.array([1, 2, 3], object),
        np.array(["1", "2", "3"]),
        np.array([1, 2]),
        np.array([[1, 2, 3]]),
        [1, 2, 3],
        None,
    ],
    ids=str,
)
def test_what_is_no_vector_of_integers_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"section update: expected integers of shape \(3,\)"):
        LAYOUT.encode(values(update=wrong))


def test_a_missing_or_an_unknown_section_is_refused() -> None:
    honest = values()
    for wrong in ({}, {"update": honest["update"]}, honest | {"age": np.array([3])}):
        with pytest.raises(UsageError, match="expected the sections"):
            LAYOUT.encode(wrong)


@pytest.mark.parametrize(
    ("section", "at", "value"), [("update", 0, 322), ("hits", 3, -1), ("hits", 4, 121), ("loss", 5, -10)]
)
def test_a_sum_that_cannot_be_voids_the_round_and_names_the_section(section: str, at: int, value: int) -> None:
    words = np.zeros(LAYOUT.size, np.uint32)
    words[at] = np.array(value, np.int64).astype(np.uint32)
    with pytest.raises(ImpossibleSumError, match=f"section {section}: expected sums of 3 partners from") as caught:
        LAYOUT.decode(words, 3)
    assert caught.value.step is Step.UNMASK
    # One step closer it is possible.
    words[at] = np.array(value + (1 if value < 0 else -1), np.int64).astype(np.uint32)
    assert sum(int(part.sum()) for part in LAYOUT.decode(words, 3).values()) == value + (1 if value < 0 else -1)


def test_the_bounds_of_a_sum_follow_the_number_of_survivors() -> None:
    words = np.zeros(LAYOUT.size, np.uint32)
    words[4] = 100
    with pytest.raises(ImpossibleSumError):
        LAYOUT.decode(words, 2)
    assert LAYOUT.decode(words, 3)["hits"][1] == 100


def test_a_partner_that_breaks_the_bounds_unseen_voids_the_round_with_the_reason() -> None:
    """Poisoning within the bounds cannot be seen; outside of them it can, in the sum, and nobody can be named."""
    house = House(3)
    honest = house.values()
    cheating = house.layout.encode(honest["partner-01"])
    cheating.words[:1] += np.uint32(500_000)  # past `encode`, as a partner's own code could
    leader = house.coordinator()
    parts = house.partners
    rolls = leader.advertised({n: parts[n].advertise(d, terms(), HEAD) for n, d in leader.open().items()})
    deliveries = leader.shared({n: parts[n].share(d) for n, d in rolls.items()})
    for name, data in deliveries.items():
        reply = parts[name].mask(data, cheating if name == "partner-01" else house.layout.encode(honest[name]))
        leader.masked(name, reply.message, reply.words)
    quorum = leader.agreed({n: parts[n].agree(d) for n, d in leader.survivors().items()})
    opened = {n: parts[n].unmask(d) for n, d in quorum.items()}
    with pytest.raises(ImpossibleSumError, match="section update: expected sums of 3 partners") as caught:
        leader.unmasked(opened)
    assert caught.value.partner is None
    with pytest.raises(UsageError, match="the round is void"):
        leader.unmasked(opened)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"size": (1 << 28) + 1},
        {"low": 1},
        {"high": -1},
        {"people": 0},
        {"slack": -1},
        {"high": 1 << 31},
        {"low": -(1 << 31) - 1},
        {"people": 1 << 31},
        {"slack": 1 << 31},
    ],
    ids=str,
)
def test_a_section_that_no_sum_could_be_checked_against_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="section x: expected"):
        replace(Section("x", 1, -1, 1), **changes)  # type: ignore[arg-type]


def test_a_layout_in_which_a_sum_could_wrap_is_refused_for_that_many_partners() -> None:
    layout = Layout((Section("x", 1, -(1 << 26), 1 << 26),))
    layout.check_ring(31)
    with pytest.raises(UsageError, match="expected sums of 32 partners inside 32 bits"):
        layout.check_ring(32)
    with pytest.raises(UsageError, match="inside 32 bits"):
        House(32, layout=layout).coordinator()
    for wrong in (0, 51):
        with pytest.raises(UsageError, match="expected 1 to 50 partners"):
            layout.check_ring(wrong)


def test_a_layout_needs_sections_that_can_be_told_apart() -> None:
    one = Section("x", 1, 0, 1)
    for sections in ((), (one, one), tuple(replace(one, name=f"x{n}") for n in range(65))):
        with pytest.raises(UsageError, match="expected 1 to 64 sections"):
            Layout(sections)
    big = replace(one, size=1 << 28)
    with pytest.raises(UsageError, match="expected at most 268435456 words"):
        Layout((big, replace(big, name="y")))
    assert Layout((one,)).digest != Layout((replace(one, scale=2.0),)).digest
