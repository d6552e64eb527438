"""A partner answers a round once, for what was signed, and whatever fails leaves nothing to go on with."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from tests.shared.secagg.house import RepeatableBytes

from silhouette_client.secure import Asked, Enrolment, RoundMemory, SecureMember
from silhouette_shared.errors import IntegrityError, RefusedError
from silhouette_shared.secagg import (
    AbortError,
    AheadKeys,
    Coordinator,
    Encoded,
    Identity,
    Layout,
    Outcome,
    Pins,
    Section,
    Terms,
    genesis,
)
from silhouette_shared.wire.exchange import Answer, Exchange, ExchangeStep
from silhouette_shared.wire.rounds import inputs_digest

RUN = "run-a"
LAYOUT = Layout((Section("update", 4, -100, 100),))
KEYS = {name: Identity(bytes([number + 1]) * 32) for number, name in enumerate(("a", "b", "c"))}
COORDINATOR = Identity(bytes([9]) * 32)
PINS = Pins(COORDINATOR.public, {name: key.public for name, key in KEYS.items()})
MODEL = {"parameters": np.arange(3, dtype=np.float32)}


def terms_of(asked: Asked) -> Terms:
    return Terms(f"{asked.purpose}/{asked.round}", LAYOUT, inputs_digest(asked.inputs), b"c" * 32, b"p" * 32)


@dataclass
class Fake:
    """Contributes the sum of the model and notes what it was asked for."""

    asked: list[Asked] = field(default_factory=list)
    seconds: float = 0.0

    def terms(self, asked: Asked) -> Terms:
        if asked.purpose != "training":
            raise RefusedError("not in the plan")
        return terms_of(asked)

    def contribute(self, asked: Asked, terms: Terms) -> Encoded:
        self.asked.append(asked)
        time.sleep(self.seconds)
        return terms.layout.encode({"update": np.full(4, int(asked.inputs["parameters"].sum()))})


def member(name: str, fake: Fake, memory: RoundMemory | None = None) -> SecureMember:
    enrolment = Enrolment(KEYS[name], PINS, memory or RoundMemory())
    return SecureMember(name, enrolment, RepeatableBytes(name), fake, None)


class Office:
    """A coordinator that does its work, one exchange at a time, so that a test can stop anywhere."""

    def __init__(self, members: dict[str, SecureMember]) -> None:
        self.members = members
        self.previous = genesis(RUN)
        self.transcripts: list[bytes] = []
        self.ahead: AheadKeys | None = None
        self.sent: list[tuple[str, Exchange]] = []

    def ask(self, name: str, number: int, step: ExchangeStep, parts: dict[str, bytes], **more: object) -> Answer:
        asked = Exchange(RUN, "training", number, step, parts, **more)  # type: ignore[arg-type]
        self.sent.append((name, asked))
        return self.members[name].answer(Exchange.decode(asked.encode()))

    def masked(self, number: int, *, until: ExchangeStep = "mask") -> Coordinator:
        """A round up to a step, not including what comes after it."""
        found = terms_of(Asked(RUN, "training", number, MODEL))
        ahead, self.ahead = self.ahead, None
        one = Coordinator(COORDINATOR, PINS, RUN, number, found, previous=self.previous, ahead=ahead)
        manifests = one.open()
        begin = {"missed": tuple(self.transcripts), "inputs": MODEL}
        if ahead is None:
            adverts = {n: self.ask(n, number, "advertise", {"manifest": m}, **begin) for n, m in manifests.items()}
            rolls = one.advertised({n: a.parts["advertise"] for n, a in adverts.items()})
            if until == "advertise":
                return one
            shares = {n: self.ask(n, number, "share", {"roll": roll}) for n, roll in rolls.items()}
            parts = {
                n: {"delivery": d} for n, d in one.shared({n: a.parts["shares"] for n, a in shares.items()}).items()
            }
            begin = {}
        else:
            parts = {n: {"manifest": manifests[n], "delivery": d} for n, d in one.deliveries().items()}
        self.parts = parts
        if until == "share":
            return one
        for n, p in parts.items():
            answer = self.ask(n, number, "mask", p, **begin)
            assert answer.words is not None
            one.masked(n, answer.parts["masked"], answer.words)
        return one

    def finish(self, one: Coordinator, number: int, *, spoil: bool = False) -> Outcome:
        agreed = {n: self.ask(n, number, "agree", {"survivors": s}) for n, s in one.survivors().items()}
        quorum = one.agreed({n: a.parts["agreement"] for n, a in agreed.items()})
        rolls = one.advertised_ahead({n: a.parts["advertise"] for n, a in agreed.items()})
        if spoil:
            rolls["a"] = rolls["a"][:-1] + bytes([rolls["a"][-1] ^ 1])
        opened = {n: self.ask(n, number, "unmask", {"quorum": q, "roll": rolls[n]}) for n, q in quorum.items()}
        outcome = one.unmasked({n: a.parts["unmask"] for n, a in opened.items()})
        self.transcripts.append(outcome.transcript)
        self.previous = outcome.digest
        if all("shares" in a.parts for a in opened.values()):
            self.ahead = one.shared_ahead({n: a.parts["shares"] for n, a in opened.items()})
        return outcome


def office(**fakes: Fake) -> Office:
    return Office({name: member(name, fakes.get(name, Fake())) for name in KEYS})


def test_a_round_gives_the_sum_and_the_next_one_begins_with_the_mask() -> None:
    desk = office()
    for number in (1, 2, 3):
        outcome = desk.finish(desk.masked(number), number)
        assert outcome.sums["update"].tolist() == [9, 9, 9, 9]
    assert [one.step for name, one in desk.sent if name == "a"][5:] == ["mask", "agree", "unmask"] * 2


def test_false_keys_for_the_next_round_cost_the_three_exchanges_and_not_this_round() -> None:
    desk = office()
    outcome = desk.finish(desk.masked(1), 1, spoil=True)
    assert outcome.survivors == ("a", "b", "c")
    assert desk.ahead is None
    assert desk.finish(desk.masked(2), 2).survivors == ("a", "b", "c")


@pytest.mark.parametrize("slipped", ["manifest of this round", "bytes"])
def test_a_refused_manifest_with_another_model_ends_the_round_and_no_vector_is_made(slipped: str) -> None:
    fake = Fake()
    desk = office(a=fake)
    desk.masked(1, until="share")
    manifest = next(one.parts["manifest"] for _, one in desk.sent if "manifest" in one.parts)
    other = {"parameters": MODEL["parameters"] * 2}
    bad = manifest if slipped != "bytes" else b"?"
    with pytest.raises(AbortError):
        desk.ask("a", 1, "mask", {"manifest": bad, **desk.parts["a"]}, inputs=other)
    with pytest.raises(RefusedError, match="expected a step of the round that is open here"):
        desk.ask("a", 1, "mask", desk.parts["a"])
    assert fake.asked == []


def test_a_vector_is_made_for_the_model_that_was_signed_whatever_comes_with_a_later_step() -> None:
    fake = Fake()
    desk = office(a=fake)
    desk.masked(1, until="share")
    smuggling = Exchange(RUN, "training", 1, "mask", desk.parts["a"], inputs={"parameters": MODEL["parameters"] * 2})
    desk.members["a"].answer(smuggling)  # past the codec, which refuses it
    (asked,) = fake.asked
    assert np.array_equal(asked.inputs["parameters"], MODEL["parameters"])


def test_a_mask_is_asked_for_once() -> None:
    fake = Fake()
    desk = office(a=fake)
    desk.masked(1)
    with pytest.raises(AbortError, match="no step is taken twice"):
        desk.ask("a", 1, "mask", desk.parts["a"])
    with pytest.raises(RefusedError):
        desk.ask("a", 1, "agree", {"survivors": b"x"})


def test_another_purpose_number_or_step_than_the_open_one_ends_the_round() -> None:
    for change in ({"purpose": "popularity"}, {"round": 2}):
        desk = office()
        desk.masked(1, until="share")
        asked = replace(Exchange(RUN, "training", 1, "mask", desk.parts["a"]), **change)
        with pytest.raises(RefusedError, match="expected a step of the round that is open here"):
            desk.members["a"].answer(asked)
        with pytest.raises(RefusedError):
            desk.ask("a", 1, "mask", desk.parts["a"])


@pytest.mark.parametrize("restarted", [False, True])
def test_a_round_is_not_answered_again_after_a_restart_or_a_round_of_another_run(
    tmp_path: Path, restarted: bool
) -> None:
    path = tmp_path / "secure-rounds.json"
    desk = office()
    desk.members["a"] = member("a", Fake(), RoundMemory(path))
    desk.masked(3)  # and never finished
    first = next(one for name, one in desk.sent if name == "a")
    if restarted:
        desk.members["a"] = member("a", Fake(), RoundMemory(path))
    else:
        with pytest.raises(AbortError):
            desk.members["a"].answer(replace(first, run="run-b"))
    with pytest.raises(AbortError, match="expected a round after 3, got 3; a round is never answered twice"):
        desk.members["a"].answer(first)


def test_without_a_memory_on_disk_a_restart_would_forget_the_round() -> None:
    desk = office()
    desk.masked(3)
    first = next(one for name, one in desk.sent if name == "a")
    assert member("a", Fake()).answer(first).step == "advertise"


def test_the_memory_is_kept_by_run_and_only_goes_up(tmp_path: Path) -> None:
    path = tmp_path / "secure-rounds.json"
    memory = RoundMemory(path)
    memory.keep("r", 4)
    memory.keep("s", 2)
    memory.keep("r", 3)
    assert [RoundMemory(path).last(run) for run in ("r", "s", "t")] == [4, 2, 0]
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"r": "4"}', b'{"r": -1}', b'{"r": true}', b'{"r": 4', b"\xff\xfe"])
def test_a_damaged_memory_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "secure-rounds.json"
    path.write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"secure-rounds\.json: expected the last secure round of every run"):
        RoundMemory(path)


def test_a_vector_that_is_late_does_not_disturb_the_next_round() -> None:
    slow = Fake(seconds=0.3)
    desk = office(a=slow)
    one = desk.masked(1, until="share")
    late: list[Answer] = []
    thread = threading.Thread(target=lambda: late.append(desk.ask("a", 1, "mask", desk.parts["a"])))
    thread.start()
    until = time.monotonic() + 120
    while not slow.asked and time.monotonic() < until:
        time.sleep(0.01)
    # The vector is being made; the coordinator has gone on.
    outcome = desk.finish(desk.masked(2), 2)
    thread.join()
    assert outcome.survivors == ("a", "b", "c")
    assert late[0].round == 1
    assert one.manifest.round == 1
