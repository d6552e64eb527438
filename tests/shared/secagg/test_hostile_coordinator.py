"""A coordinator that lies, and up to a third of the partners that help it: every attack ends at the honest partners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.shared.secagg.house import HEAD, House, RepeatableBytes, Wire, sums, terms, total

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import (
    COORDINATOR,
    AbortError,
    Coordinator,
    ForgedError,
    Identity,
    Layout,
    NotAgreedError,
    Partner,
    Pins,
    Section,
    Step,
    Terms,
    TooFewError,
    genesis,
)
from silhouette_shared.secagg.framing import Message
from silhouette_shared.secagg.keys import AgreementKey
from silhouette_shared.secagg.messages import (
    Advertise,
    Agreement,
    Delivery,
    Manifest,
    Masked,
    Member,
    Opened,
    Quorum,
    Roll,
    Survivors,
    Unmask,
    manifest_signing_context,
    signed,
)
from silhouette_shared.thresholds import colluders, least_threshold


class Attacker:
    """A coordinator that has all its keys and follows the steps only as far as it likes."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.key = house.authority

    def manifest(self, number: int = 1, **changes: object) -> bytes:
        honest = replace(self.house.coordinator(number).manifest, **changes)  # type: ignore[arg-type]
        return self.sign(honest, manifest_signing_context(self.key.public))

    def sign(self, message: Message, context: bytes) -> bytes:
        return replace(message, signature=signed(message, self.key, context)).encode()  # type: ignore[type-var]

    def advertised(self, manifests: dict[str, bytes] | bytes) -> tuple[Advertise, ...]:
        return tuple(
            Advertise.decode(
                partner.advertise(manifests if isinstance(manifests, bytes) else manifests[name], terms(), HEAD)
            )
            for name, partner in self.house.partners.items()
        )

    def masked(self) -> tuple[Coordinator, list[Masked]]:
        """An honest round up to the masked vectors."""
        house, leader = self.house, self.house.coordinator()
        rolls = leader.advertised(
            {name: house.partners[name].advertise(data, terms(), HEAD) for name, data in leader.open().items()}
        )
        deliveries = leader.shared({name: house.partners[name].share(data) for name, data in rolls.items()})
        values = house.values()
        found = []
        for name, data in deliveries.items():
            reply = house.partners[name].mask(data, house.layout.encode(values[name]))
            leader.masked(name, reply.message, reply.words)
            found.append(Masked.decode(reply.message))
        return leader, found

    def survivors(self, masked: list[Masked]) -> bytes:
        return self.sign(Survivors(context=masked[0].context, masked=tuple(masked)), masked[0].context)

    def quorum(self, agreements: list[Agreement]) -> bytes:
        return self.sign(Quorum(context=agreements[0].context, agreements=tuple(agreements)), agreements[0].context)


def ends(
    step: Step, partner: str | None, kind: type[AbortError], call: Callable[..., object], *arguments: object
) -> AbortError:
    with pytest.raises(kind) as caught:
        call(*arguments)
    assert (caught.value.step, caught.value.partner) == (step, partner)
    assert f"step {step}" in str(caught.value)
    assert partner is None or partner in str(caught.value)
    return caught.value


def closed(partner: Partner, data: bytes) -> None:
    """Nothing can be had from this partner any more."""
    for call in (partner.share, partner.agree, partner.unmask):
        with pytest.raises(ForgedError, match="expected a round that is open here"):
            call(data)


def test_a_partner_that_is_named_alive_and_dead_at_once_stays_masked() -> None:
    """What broke Flower's: one list with the victim, one without, and both its secrets are there to be joined.

    The victim and half of the others are shown all five, the rest are shown four. No set comes to four signatures, and
    a signature of the one set is none of the other.
    """
    attacker = Attacker(house := House(5))
    _, masked = attacker.masked()
    alive, dead = attacker.survivors(masked), attacker.survivors(masked[1:])
    split = {name: alive if index < 3 else dead for index, name in enumerate(house.names)}
    agreements = {name: Agreement.decode(house.partners[name].agree(data)) for name, data in split.items()}
    both = list(agreements.values())
    for name in house.names:
        mine = [one for one in both if one.context == agreements[name].context]
        if name in house.names[:2]:  # only those who agree with it
            ends(Step.CONSISTENCY, None, TooFewError, house.partners[name].unmask, attacker.quorum(mine))
        else:  # all five, with a context that is the receiver's own on the outside
            data = attacker.sign(Quorum(context=mine[0].context, agreements=tuple(both)), mine[0].context)
            with pytest.raises(ForgedError) as caught:
                house.partners[name].unmask(data)
            assert caught.value.step is Step.CONSISTENCY
        closed(house.partners[name], alive)


def test_two_sets_cannot_both_come_to_a_quorum_even_with_the_colluders_signing_both() -> None:
    """With f colluders signing whatever is asked: n - f honest ones, each once, do not suffice for two sets of t."""
    for count in range(3, 51):
        threshold, bad = least_threshold(count), colluders(count)
        assert 2 * (threshold - bad) > count - bad
        assert 2 * threshold > count + bad
        assert threshold <= count
        # One less would not do: the rule is the least that holds.
        assert 2 * (threshold - 1) <= count + bad


@pytest.mark.parametrize("wrong", ["its share of a survivor's key", "its share of a dropped partner's self-mask"])
def test_a_partner_opens_only_the_kind_that_belongs_to_the_set_it_signed(wrong: str) -> None:
    """A share of the wrong kind is never in the answer, and a colluder's own is refused and named."""
    house = House(5)
    opened: list[Unmask] = []

    def listen(step: Step, sender: str, recipient: str, data: bytes) -> bytes:
        if step is Step.UNMASK and recipient == COORDINATOR:
            opened.append(Unmask.decode(data))
        return data

    house.round(wire=Wire(listen), alive=lambda step, name: not (name == "partner-03" and step is Step.MASKED))
    for one in opened:
        assert [(share.dealer, share.kind) for share in one.shares] == [
            (name, 2 if name == "partner-03" else 1) for name in house.names
        ]
    at = 0 if wrong == "its share of a survivor's key" else 3

    def swap(step: Step, sender: str, recipient: str, data: bytes) -> bytes:
        if step is not Step.UNMASK or sender != "partner-02":
            return data
        found = Unmask.decode(data)
        shares = list(found.shares)
        shares[at] = replace(shares[at], kind=3 - shares[at].kind)
        new = replace(found, shares=tuple(shares))
        return replace(new, signature=signed(new, house2.identities[sender], new.context)).encode()

    house2 = House(5)
    ends(
        Step.UNMASK,
        "partner-02",
        ForgedError,
        lambda: house2.round(
            wire=Wire(swap), alive=lambda step, name: not (name == "partner-03" and step is Step.MASKED)
        ),
    )


@pytest.mark.parametrize("field", ["cipher_key", "mask_key", "commitment"])
def test_keys_that_the_coordinator_swaps_are_refused(field: str) -> None:
    """The man in the middle: the coordinator's own key in place of a partner's, to read its shares or its mask."""
    attacker = Attacker(house := House(5))
    adverts = list(attacker.advertised(attacker.manifest()))
    changed = {field: AgreementKey(b"k" * 32).public}
    adverts[0] = replace(adverts[0], **changed)  # type: ignore[arg-type]
    data = attacker.sign(Roll(context=adverts[0].context, adverts=tuple(adverts)), adverts[0].context)
    for name, partner in house.partners.items():
        ends(Step.ADVERTISE, "partner-00", ForgedError, partner.share, data)
        closed(house.partners[name], data)


def test_keys_that_one_partner_takes_from_another_or_that_are_of_low_order_are_refused() -> None:
    for wrong in ("copied", "low order", "twice"):
        attacker = Attacker(house := House(5))
        adverts = list(attacker.advertised(attacker.manifest()))
        key = {"copied": adverts[0].mask_key, "low order": bytes(32), "twice": adverts[1].cipher_key}[wrong]
        new = replace(adverts[1], mask_key=key)
        adverts[1] = replace(new, signature=signed(new, house.identities["partner-01"], new.context))
        data = attacker.sign(Roll(context=new.context, adverts=tuple(adverts)), new.context)
        ends(Step.ADVERTISE, "partner-01", ForgedError, house.partners["partner-03"].share, data)
        leader = house.coordinator()
        leader.open()
        ends(
            Step.ADVERTISE,
            "partner-01",
            ForgedError,
            leader.advertised,
            {one.sender: one.encode() for one in adverts},
        )


def test_a_threshold_that_is_lowered_is_refused() -> None:
    for count in (3, 5, 10):
        attacker = Attacker(house := House(count))
        for wrong in (0, 1, 2, least_threshold(count) - 1, count + 1, 1 << 40):
            data = attacker.manifest(threshold=wrong)
            ends(
                Step.MANIFEST,
                COORDINATOR,
                NotAgreedError,
                house.partners["partner-00"].advertise,
                data,
                terms(),
                HEAD,
            )
        # A higher one only makes fewer dropouts bearable.
        house.partners["partner-00"].advertise(attacker.manifest(threshold=count), terms(), HEAD)
    house = House(5)
    with pytest.raises(UsageError, match="expected a threshold from 4 to 5, got 3"):
        Coordinator(house.authority, house.pins, "run-a", 1, terms(), previous=genesis("run-a"), threshold=3)


def test_the_same_round_asked_twice_is_refused_at_every_step() -> None:
    """A void round is never masked again: between the two asks somebody could be said to have gone."""
    for stop in (Step.SHARE, Step.MASKED, Step.CONSISTENCY, Step.UNMASK, Step.TRANSCRIPT):
        house = House(3)
        order = list(Step)

        def alive(step: Step, name: str, stop: Step = stop, order: list[Step] = order) -> bool:
            return order.index(step) < order.index(stop)

        if stop is Step.TRANSCRIPT:
            house.round(1)
        else:
            with pytest.raises(TooFewError):
                house.round(1, alive=alive)
        for number in (1, 0):
            manifest = Attacker(house).manifest(number)
            error = ends(
                Step.MANIFEST,
                COORDINATOR,
                NotAgreedError,
                house.partners["partner-00"].advertise,
                manifest,
                terms(),
                HEAD,
            )
            assert "expected a round after 1" in str(error)
        outcome = house.round(2)
        assert sums(outcome) == total(house.values(2), house.names)


def test_a_restarted_partner_refuses_the_rounds_that_it_had_accepted() -> None:
    house = House(3)
    house.round(4)
    again = Partner(
        "partner-00",
        house.identities["partner-00"],
        house.pins,
        house.run,
        RepeatableBytes("after"),
        last_round=house.partners["partner-00"].last_round,
        previous=house.partners["partner-00"].previous,
    )
    for number in (3, 4):
        with pytest.raises(NotAgreedError, match="expected a round after 4"):
            again.advertise(Attacker(house).manifest(number), terms(), HEAD)
    again.advertise(Attacker(house).manifest(5), terms(), HEAD)


def test_a_second_survivor_set_in_one_round_is_not_signed() -> None:
    attacker = Attacker(house := House(5))
    _, masked = attacker.masked()
    first, second = attacker.survivors(masked), attacker.survivors(masked[:4])
    for partner in list(house.partners.values())[:4]:
        partner.agree(first)
        ends(Step.CONSISTENCY, COORDINATOR, ForgedError, partner.agree, second)
        closed(partner, second)


def test_a_difference_of_two_sets_shows_nobody() -> None:
    """All five, and then all but one: neither in one round, nor by asking again for the same vectors."""
    attacker = Attacker(house := House(5))
    leader, masked = attacker.masked()
    quorum = leader.agreed({name: house.partners[name].agree(data) for name, data in leader.survivors().items()})
    opened = {name: house.partners[name].unmask(data) for name, data in quorum.items()}
    for name, partner in house.partners.items():
        with pytest.raises(ForgedError):
            partner.agree(attacker.survivors(masked[1:]))
        with pytest.raises(ForgedError):
            partner.unmask(quorum[name])
        with pytest.raises(NotAgreedError, match="expected a round after 1, got 1"):
            partner.advertise(attacker.manifest(1), terms(), HEAD)
    house.done(leader.unmasked(opened))
    # The next round masks anew: what two rounds have in common does not cancel.
    values, wires = house.values(1), (Wire(), Wire())
    for number, wire in enumerate(wires, start=2):
        house.round(number, wire=wire, values=values)
    assert not np.array_equal(wires[0].words["partner-00"], wires[1].words["partner-00"])


def test_another_model_for_one_partner_is_refused_by_it_and_by_the_others() -> None:
    house = House(5)
    attacker = Attacker(house)
    for field in ("model", "catalogue", "privacy"):
        other = attacker.manifest(1, **{field: b"x" * 32})
        ends(
            Step.MANIFEST,
            COORDINATOR,
            NotAgreedError,
            House(5).partners["partner-02"].advertise,
            other,
            terms(),
            HEAD,
        )
    # If the partner was even sent the other model's bytes, so that it knows that digest, the views still differ.
    other_terms = Terms("training", house.layout, b"x" * 32, b"c" * 32, b"p" * 32)
    honest, other = attacker.manifest(), attacker.manifest(model=b"x" * 32)
    adverts = [
        Advertise.decode(
            house.partners[name].advertise(other, other_terms, HEAD)
            if name == "partner-02"
            else house.partners[name].advertise(honest, terms(), HEAD)
        )
        for name in house.names
    ]
    for name in house.names:
        context = next(one.context for one in adverts if one.sender == name)
        data = attacker.sign(Roll(context=context, adverts=tuple(adverts)), context)
        with pytest.raises(ForgedError) as caught:
            house.partners[name].share(data)
        assert caught.value.partner == ("partner-00" if name == "partner-02" else "partner-02")


def test_other_terms_are_refused() -> None:
    house = House(3)
    attacker = Attacker(house)
    for changes, what in (
        ({"run": "run-b"}, "the run"),
        ({"purpose": "evaluation"}, "the purpose"),
        ({"sections": (Section("update", 5, -1000, 1000),)}, "the sections"),
        ({"previous": b"z" * 32}, "the previous transcript"),
        ({"round": 0}, "a round after 0"),
        ({"ahead": b"z" * 32}, "a round that starts with keys"),
    ):
        data = attacker.manifest(**changes)
        error = ends(
            Step.MANIFEST,
            COORDINATOR,
            NotAgreedError,
            House(3).partners["partner-00"].advertise,
            data,
            terms(),
            HEAD,
        )
        assert what in str(error)
    # A scale that differs in the last bit is another scale.
    sections = tuple(replace(one, scale=1.0000000000000002) for one in house.layout.sections)
    with pytest.raises(NotAgreedError, match="the sections"):
        House(3).partners["partner-00"].advertise(attacker.manifest(sections=sections), terms(), HEAD)


def test_an_invented_partner_and_a_smaller_roster_are_refused() -> None:
    house = House(5)
    attacker = Attacker(house)
    roster = house.coordinator().manifest.roster
    invented = Identity.generate(RepeatableBytes("invented")).public
    for wrong in (
        (*roster, Member("partner-99", invented)),
        (*roster[:4], Member("partner-99", invented)),
        (*roster[:4], Member("partner-04", invented)),
        roster[:4],
        roster[:3],
        (*roster, roster[0]),
        (roster[1], roster[0], *roster[2:]),
        (),
    ):
        data = attacker.manifest(roster=wrong)
        error = ends(
            Step.MANIFEST,
            COORDINATOR,
            NotAgreedError,
            House(5).partners["partner-00"].advertise,
            data,
            terms(),
            HEAD,
        )
        assert "expected the 5 pinned partners" in str(error)


def test_an_invented_partner_on_the_roll_among_the_survivors_or_the_signers_is_refused() -> None:
    attacker = Attacker(house := House(5))
    adverts = attacker.advertised(attacker.manifest())
    fake = replace(adverts[4], sender="partner-99")
    data = attacker.sign(Roll(context=fake.context, adverts=(*adverts, fake)), fake.context)
    ends(Step.ADVERTISE, COORDINATOR, ForgedError, house.partners["partner-00"].share, data)

    attacker = Attacker(house := House(5))
    _, masked = attacker.masked()
    data = attacker.survivors([*masked, replace(masked[0], sender="partner-99")])
    ends(Step.MASKED, COORDINATOR, ForgedError, house.partners["partner-00"].agree, data)
    # A partner whose vector never came is not made a survivor by the coordinator.
    forged = replace(masked[1], digest=b"d" * 32)
    data = attacker.survivors([masked[0], forged, *masked[2:]])
    ends(Step.MASKED, "partner-01", ForgedError, house.partners["partner-02"].agree, data)
    data = attacker.survivors([masked[0], *masked[2:]])
    ends(Step.CONSISTENCY, COORDINATOR, ForgedError, house.partners["partner-01"].agree, data)
    agreements = [Agreement.decode(house.partners[f"partner-0{n}"].agree(attacker.survivors(masked))) for n in (3, 4)]
    repeated = attacker.quorum([agreements[0]] * 4)
    ends(Step.CONSISTENCY, COORDINATOR, ForgedError, house.partners["partner-03"].unmask, repeated)


def test_too_few_for_the_sum_are_refused_by_the_partners_themselves() -> None:
    """A coordinator that goes on below the threshold."""
    attacker = Attacker(house := House(5))
    adverts = attacker.advertised(attacker.manifest())
    data = attacker.sign(Roll(context=adverts[0].context, adverts=adverts[:3]), adverts[0].context)
    ends(Step.ADVERTISE, None, TooFewError, house.partners["partner-00"].share, data)
    attacker = Attacker(house := House(5))
    _, masked = attacker.masked()
    few = attacker.survivors(masked[:3])
    ends(Step.MASKED, None, TooFewError, house.partners["partner-00"].agree, few)


def test_deliveries_with_other_dealers_for_one_partner_give_no_sum() -> None:
    """Who has dealt is a part of what masks are derived under."""
    house = House(5)

    def fewer(step: Step, sender: str, recipient: str, data: bytes) -> bytes:
        if step is Step.MASKED and recipient == "partner-02":
            found = Delivery.decode(data)
            new = replace(found, shares=found.shares[:4])
            return replace(new, signature=signed(new, house.authority, new.context)).encode()
        return data

    ends(Step.MASKED, "partner-02", ForgedError, lambda: house.round(wire=Wire(fewer)))
    assert not house.unmasked


def test_shares_that_a_partner_deals_or_opens_falsely_end_the_round_by_its_name() -> None:
    """A partner that deals what does not belong together, or opens another share than it was dealt."""
    house = House(5)

    def opens(step: Step, sender: str, recipient: str, data: bytes) -> bytes:
        if step is not Step.UNMASK or sender != "partner-03":
            return data
        found = Unmask.decode(data)
        wrong = Opened(found.shares[1].dealer, found.shares[1].kind, bytes(65) + b"\x01")
        new = replace(found, shares=(found.shares[0], wrong, *found.shares[2:]))
        return replace(new, signature=signed(new, house.identities[sender], new.context)).encode()

    ends(Step.UNMASK, "partner-03", ForgedError, lambda: house.round(wire=Wire(opens)))

    dealing = House(5)
    liar = dealing.partners["partner-01"]
    plain = liar._new_keys

    def other_secret(context: bytes, threshold: int, number: int):  # type: ignore[no-untyped-def]
        keys = plain(context, threshold, number)
        advertise = keys.advertise

        def then_changes(head: bytes) -> bytes:
            answer = advertise(head)
            keys._self_secret = b"s" * 32
            return answer

        keys.advertise = then_changes  # type: ignore[method-assign,assignment]
        return keys

    liar._new_keys = other_secret  # type: ignore[method-assign]
    ends(Step.UNMASK, "partner-01", ForgedError, dealing.round)


def test_no_other_key_than_the_pinned_one_signs_for_the_coordinator() -> None:
    house, other = House(3), House(3, keys="others")
    data = Attacker(other).manifest(roster=house.coordinator().manifest.roster)
    ends(
        Step.MANIFEST,
        COORDINATOR,
        ForgedError,
        house.partners["partner-00"].advertise,
        data,
        terms(),
        HEAD,
    )
    # Not a partner's either.
    unsigned = house.coordinator().manifest
    key = house.identities["partner-01"]
    data = replace(unsigned, signature=signed(unsigned, key, manifest_signing_context(key.public))).encode()
    ends(
        Step.MANIFEST,
        COORDINATOR,
        ForgedError,
        house.partners["partner-00"].advertise,
        data,
        terms(),
        HEAD,
    )
    assert Manifest.decode(data).names == tuple(house.names)


def test_fewer_than_three_partners_are_refused() -> None:
    key = Identity.generate(RepeatableBytes("c")).public
    two = {name: Identity.generate(RepeatableBytes(name)).public for name in ("a", "b")}
    for partners in ({}, {"a": two["a"]}, two):
        with pytest.raises(UsageError, match="expected 3 to 50 partners"):
            Pins(key, partners)
    with pytest.raises(UsageError, match="expected 3 to 50 partners, got 51"):
        Pins(key, {f"p{n}": bytes([n]) * 32 for n in range(51)})
    with pytest.raises(UsageError, match="a different key for every partner"):
        Pins(key, two | {"c": two["a"]})
    with pytest.raises(UsageError, match="not named 'coordinator'"):
        Pins(key, two | {COORDINATOR: bytes(32)})


MARKERS = {
    "update": np.array([0x5EC4E7, -0x5EC4E7, 0x0DDBA11, 0x7ABCDE1, -0x7ABCDE1]),
    "weight": np.array([0x1234567]),
    "people": np.array([0xC0FFEE]),
    "metric": np.array([0xBADCAFE & 0x7FFFFFF]),
}


def test_no_count_weight_or_metric_of_a_partner_is_on_the_wire_in_clear() -> None:
    """Planted numbers, looked for in all bytes that travel, as words and as text, at every offset."""
    layout = Layout(tuple(Section(name, values.size, -(1 << 28), 1 << 28) for name, values in MARKERS.items()))
    house, wire = House(5, layout=layout), Wire()
    values = house.values(1) | {"partner-02": MARKERS}
    house.round(wire=wire, values=values)
    traffic = b"".join(data for _, _, _, data in wire.log)
    traffic += b"".join(words.tobytes() for words in wire.words.values())
    assert len(wire.words) == 5

    def forms(number: int) -> list[bytes]:
        signless = number % (1 << 32)
        return [
            *(signless.to_bytes(4, order) for order in ("little", "big")),
            *(number.to_bytes(8, order, signed=True) for order in ("little", "big")),
            np.float32(number).tobytes(),
            np.float64(number).tobytes(),
            str(number).encode(),
            f"{signless:x}".encode(),
        ]

    planted = [form for section in MARKERS.values() for number in section for form in forms(int(number))]
    assert not [form for form in planted if form in traffic]
    # The search finds them where they are: in the vector before it is masked.
    clear = layout.encode(values["partner-02"]).words.tobytes()
    assert all(forms(int(number))[0] in clear for section in MARKERS.values() for number in section)
    # Nor does the message that goes with the vector say anything of its own size but the agreed one.
    sizes = {len(data) for data in wire.of(Step.MASKED, recipient=COORDINATOR)}
    assert len(sizes) == 1


def test_secrets_are_gone_after_their_use() -> None:
    """What is not there any more cannot be asked for: looked up in the whole state of a partner."""
    house = House(3)
    partner = house.partners["partner-00"]
    leader = house.coordinator()
    others = [house.partners[name] for name in house.names[1:]]

    def secrets() -> set[bytes]:
        found: set[bytes] = set()
        stack: list[object] = [partner._round, partner._ahead]
        while stack:
            item = stack.pop()
            if isinstance(item, bytes):
                found.add(item)
            elif isinstance(item, dict):
                stack += item.values()
            elif isinstance(item, tuple | list):
                stack += item
            elif item is not None and type(item).__module__.endswith("secagg.partner"):
                stack += vars(item).values()
        return found

    manifests = leader.open()
    adverts = {p.name: p.advertise(manifests[p.name], terms(), HEAD) for p in house.partners.values()}
    keys = partner._round.keys  # type: ignore[union-attr]
    cipher, mask, own = keys._cipher_secret, keys._mask_secret, keys._self_secret
    assert {cipher, mask, own} <= secrets()
    rolls = leader.advertised(adverts)
    shares = {p.name: p.share(rolls[p.name]) for p in house.partners.values()}
    assert not {cipher, mask} & secrets()
    assert own in secrets()
    deliveries = leader.shared(shares)
    raw = set(keys._mask_raw.values()) | set(keys._cipher_raw.values())
    values = house.values()
    for p in house.partners.values():
        reply = p.mask(deliveries[p.name], house.layout.encode(values[p.name]))
        leader.masked(p.name, reply.message, reply.words)
    assert not ({cipher, mask, own} | raw) & secrets()
    quorum = leader.agreed({name: house.partners[name].agree(data) for name, data in leader.survivors().items()})
    held = {share for pair in partner._round.shares.values() for share in pair}  # type: ignore[union-attr]
    assert held <= secrets()
    leader.unmasked({p.name: p.unmask(quorum[p.name]) for p in house.partners.values()})
    assert partner._round is None
    assert not secrets()
    assert others


def test_an_error_of_any_kind_drops_every_secret() -> None:
    house = House(3)
    partner = house.partners["partner-00"]

    class Broken:
        def bytes(self, count: int) -> bytes:
            raise OSError("no bytes")

    manifest = Attacker(house).manifest()
    partner._source = Broken()
    with pytest.raises(OSError, match="no bytes"):
        partner.advertise(manifest, terms(), HEAD)
    closed(partner, manifest)
    with pytest.raises(NotAgreedError, match="expected a round after 1"):
        partner.advertise(manifest, terms(), HEAD)


def test_giving_up_a_round_closes_it() -> None:
    house = House(3)
    partner = house.partners["partner-00"]
    partner.advertise(Attacker(house).manifest(), terms(), HEAD)
    partner.give_up()
    closed(partner, b"")
    assert "partner-00" in repr(partner)
    assert partner.last_round == 1


def test_every_partner_sees_where_the_ledgers_of_all_stand() -> None:
    house = House(3)
    heads = {name: bytes([index]) * 32 for index, name in enumerate(house.names)}
    leader = house.coordinator()
    rolls = leader.advertised(
        {name: house.partners[name].advertise(data, terms(), heads[name]) for name, data in leader.open().items()}
    )
    for name, data in rolls.items():
        house.partners[name].share(data)
        assert dict(house.partners[name].heads) == heads
