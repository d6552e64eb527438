"""A consortium in one process: partners, a coordinator, and a wire between them that tests can listen to and change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from silhouette_shared.secagg import (
    AbortError,
    AheadKeys,
    Coordinator,
    Identity,
    Layout,
    Outcome,
    Partner,
    Pins,
    Section,
    Step,
    Terms,
    genesis,
)
from silhouette_shared.secagg.encoding import Encoded
from silhouette_shared.secagg.masking import Words
from silhouette_shared.secagg.standing import Standing

RUN = "run-a"
HEAD = Standing(3, bytes([7]) * 32)
Values = Mapping[str, npt.NDArray[np.int64]]


class RepeatableBytes:
    """A `SecretBytes` that repeats: SHAKE-256 of a seed. For tests only; nothing that is installed has one."""

    def __init__(self, *seed: object) -> None:
        self._seed = repr(seed).encode()
        self._at = 0

    def bytes(self, count: int) -> bytes:
        found = hashlib.shake_256(self._seed + self._at.to_bytes(8, "big")).digest(count)
        self._at += 1
        return found


LAYOUT = Layout((Section("update", 5, -1000, 1000, slack=50), Section("hits", 1, 0, 1, people=60)))


def terms(layout: Layout = LAYOUT, purpose: str = "training") -> Terms:
    return Terms(purpose, layout, model=b"m" * 32, catalogue=b"c" * 32, privacy=b"p" * 32)


def names(count: int) -> list[str]:
    return [f"partner-{number:02d}" for number in range(count)]


@dataclass
class Wire:
    """Carries every message. `change` may replace or drop what one party sends to another; all bytes are kept."""

    change: Callable[[Step, str, str, bytes], bytes | None] = lambda step, sender, recipient, data: data
    change_words: Callable[[str, Words], Words] = lambda sender, words: words
    log: list[tuple[Step, str, str, bytes]] = field(default_factory=list)
    words: dict[str, Words] = field(default_factory=dict)

    def carry(self, step: Step, sender: str, recipient: str, data: bytes) -> bytes | None:
        self.log.append((step, sender, recipient, data))
        return self.change(step, sender, recipient, data)

    def of(self, step: Step, *, sender: str | None = None, recipient: str | None = None) -> list[bytes]:
        return [
            data
            for at, from_, to, data in self.log
            if at is step and sender in (None, from_) and recipient in (None, to)
        ]


class House:
    """Some partners and a coordinator, with all their keys from one seed."""

    def __init__(
        self, count: int = 5, *, run: str = RUN, seed: object = 0, keys: object = "keys", layout: Layout = LAYOUT
    ) -> None:
        self.run = run
        self.layout = layout
        self.identities = {name: Identity.generate(RepeatableBytes(keys, name)) for name in names(count)}
        self.authority = Identity.generate(RepeatableBytes(keys, "coordinator"))
        self.pins = Pins(self.authority.public, {name: key.public for name, key in self.identities.items()})
        self.partners = {
            name: Partner(name, key, self.pins, run, RepeatableBytes(seed, name))
            for name, key in self.identities.items()
        }
        self.previous = genesis(run)
        mark = hashlib.sha256(repr((run, seed)).encode()).digest()
        self.seen = {name: Standing(2, mark) for name in self.partners}  # of everybody's ledgers, earlier
        self.unmasked: list[str] = []  # who has opened shares
        self.errors: dict[str, AbortError] = {}  # what partners raised, by partner
        self.outcomes: list[Outcome] = []
        self.transcripts: list[bytes] = []

    @property
    def names(self) -> list[str]:
        return list(self.partners)

    def coordinator(
        self, number: int = 1, *, about: Terms | None = None, ahead: AheadKeys | None = None
    ) -> Coordinator:
        return Coordinator(
            self.authority,
            self.pins,
            self.run,
            number,
            terms(self.layout) if about is None else about,
            previous=self.previous,
            ahead=ahead,
        )

    def values(self, seed: int = 0) -> dict[str, Values]:
        """Some integers of every partner, inside every bound."""
        drawn = np.random.default_rng(seed)
        return {
            name: {
                section.name: drawn.integers(
                    section.possible(1)[0], section.possible(1)[1], section.size, endpoint=True
                )
                for section in self.layout.sections
            }
            for name in self.partners
        }

    def ask(
        self,
        wire: Wire,
        step: Step,
        messages: Mapping[str, bytes],
        answer: Callable[[Partner, bytes], bytes],
        alive: Callable[[Step, str], bool],
        answer_step: Step | None = None,
    ) -> dict[str, bytes]:
        """One exchange: a message to each, an answer from each that is there and does not refuse."""
        answers: dict[str, bytes] = {}
        for name, data in messages.items():
            got = wire.carry(step, "coordinator", name, data)
            if got is None or not alive(step, name):
                continue
            try:
                reply = answer(self.partners[name], got)
            except AbortError as error:
                self.errors[name] = error
                continue
            back = wire.carry(answer_step or step, name, "coordinator", reply)
            if back is not None:
                answers[name] = back
        return answers

    def round(
        self,
        number: int = 1,
        *,
        wire: Wire | None = None,
        values: Mapping[str, Values] | None = None,
        alive: Callable[[Step, str], bool] = lambda step, name: True,
        coordinator: Coordinator | None = None,
        about: Terms | None = None,
    ) -> Outcome:
        """A round of five steps; raises what the coordinator raises."""
        wire = wire or Wire()
        values = self.values(number) if values is None else values
        about = terms(self.layout) if about is None else about
        leader = coordinator or self.coordinator(number, about=about)
        rolls = leader.advertised(
            self.ask(
                wire,
                Step.ADVERTISE,
                leader.open(),
                lambda partner, data: partner.advertise(data, about, HEAD, self.seen),
                alive,
            )
        )
        deliveries = leader.shared(self.ask(wire, Step.SHARE, rolls, lambda partner, data: partner.share(data), alive))
        self.masks(wire, leader, deliveries, lambda partner, data: partner.mask, values, alive)
        quorum = leader.agreed(
            self.ask(wire, Step.CONSISTENCY, leader.survivors(), lambda partner, data: partner.agree(data), alive)
        )
        opened = self.ask(wire, Step.UNMASK, quorum, self.open_shares, alive)
        return self.done(leader.unmasked(opened))

    def open_shares(self, partner: Partner, data: bytes) -> bytes:
        answer = partner.unmask(data)
        self.unmasked.append(partner.name)
        return answer

    def done(self, outcome: Outcome) -> Outcome:
        self.previous = outcome.digest
        self.outcomes.append(outcome)
        self.transcripts.append(outcome.transcript)
        for partner in self.partners.values():
            partner.finish(outcome.transcript)
        return outcome

    def masks(
        self,
        wire: Wire,
        leader: Coordinator,
        deliveries: Mapping[str, bytes],
        method: Callable[[Partner, bytes], Callable[[bytes, Encoded], object]],
        values: Mapping[str, Values],
        alive: Callable[[Step, str], bool],
    ) -> None:
        def answer(partner: Partner, data: bytes) -> bytes:
            reply = method(partner, data)(data, self.layout.encode(values[partner.name]))
            wire.words[partner.name] = reply.words  # type: ignore[attr-defined]
            message: bytes = reply.message  # type: ignore[attr-defined]
            return message

        for name, message in self.ask(wire, Step.MASKED, deliveries, answer, alive).items():
            leader.masked(name, message, wire.change_words(name, wire.words[name]))

    def ahead_round(
        self,
        number: int,
        ahead: AheadKeys | None,
        *,
        wire: Wire | None = None,
        alive: Callable[[Step, str], bool] = lambda step, name: True,
    ) -> tuple[Outcome, AheadKeys | None]:
        """A round that also sends keys ahead: of three exchanges with `ahead`, of five without."""
        wire = wire or Wire()
        values, about = self.values(number), terms(self.layout)
        leader = self.coordinator(number, ahead=ahead)
        manifests = leader.open()
        if ahead is None:
            rolls = leader.advertised(
                self.ask(
                    wire,
                    Step.ADVERTISE,
                    manifests,
                    lambda one, data: one.advertise(data, about, HEAD, self.seen),
                    alive,
                )
            )
            deliveries = leader.shared(self.ask(wire, Step.SHARE, rolls, lambda one, data: one.share(data), alive))
            self.masks(wire, leader, deliveries, lambda one, data: one.mask, values, alive)
        else:
            carried = {name: wire.carry(Step.MANIFEST, "coordinator", name, data) for name, data in manifests.items()}

            def masking(partner: Partner, data: bytes) -> Callable[[bytes, Encoded], object]:
                manifest = carried[partner.name]
                assert manifest is not None
                return lambda delivery, encoded: partner.mask_ahead(manifest, about, delivery, encoded)

            self.masks(wire, leader, leader.deliveries(), masking, values, alive)
        adverts: dict[str, bytes] = {}

        def agree(partner: Partner, data: bytes) -> bytes:
            answer = partner.agree(data)
            adverts[partner.name] = partner.advertise_ahead(HEAD)
            return answer

        quorum = leader.agreed(self.ask(wire, Step.CONSISTENCY, leader.survivors(), agree, alive))
        rolls = {}
        try:
            rolls = leader.advertised_ahead(
                {
                    name: back
                    for name, data in adverts.items()
                    if (back := wire.carry(Step.ADVERTISE, name, "coordinator", data)) is not None
                }
            )
        except AbortError as error:
            self.errors["coordinator"] = error
        dealt: dict[str, bytes] = {}

        def unmask(partner: Partner, data: bytes) -> bytes:
            answer = self.open_shares(partner, data)
            if partner.name in rolls:
                roll = wire.carry(Step.SHARE, "coordinator", partner.name, rolls[partner.name])
                assert roll is not None
                try:
                    dealt[partner.name] = partner.share_ahead(roll)
                except AbortError as error:
                    self.errors[partner.name] = error
            return answer

        outcome = leader.unmasked(self.ask(wire, Step.UNMASK, quorum, unmask, alive))
        after: AheadKeys | None = None
        if rolls:
            try:
                after = leader.shared_ahead(
                    {
                        name: back
                        for name, data in dealt.items()
                        if (back := wire.carry(Step.SHARE, name, "coordinator", data)) is not None
                    }
                )
            except AbortError as error:
                self.errors["coordinator"] = error
        return self.done(outcome), after


def total(values: Mapping[str, Values], survivors: Iterable[str], layout: Layout = LAYOUT) -> dict[str, list[int]]:
    """The exact sum, in Python's integers."""
    chosen = list(survivors)
    return {
        section.name: [sum(int(values[name][section.name][at]) for name in chosen) for at in range(section.size)]
        for section in layout.sections
    }


def sums(outcome: Outcome) -> dict[str, list[int]]:
    return {name: found.tolist() for name, found in outcome.sums.items()}


__all__ = ["HEAD", "LAYOUT", "RUN", "House", "RepeatableBytes", "Wire", "names", "replace", "sums", "terms", "total"]
