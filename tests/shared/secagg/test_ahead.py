"""Keys sent ahead: three exchanges a round under the same rules, and five steps again whenever anything is amiss."""

from __future__ import annotations

import pytest
from tests.shared.secagg.house import HEAD, House, RepeatableBytes, Wire, sums, terms, total

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import (
    COORDINATOR,
    AbortError,
    AheadKeys,
    ForgedError,
    NotAgreedError,
    Partner,
    Step,
    TooFewError,
)
from silhouette_shared.secagg.framing import spans
from silhouette_shared.secagg.messages import Advertise, Delivery, Manifest, Roll, Shares

VICTIM = "partner-01"


def steady(count: int = 3) -> tuple[House, AheadKeys]:
    house = House(count)
    _, ahead = house.ahead_round(1, None)
    assert ahead is not None
    return house, ahead


def test_a_steady_round_takes_three_exchanges() -> None:
    """The manifest and the delivery go together, the next keys ride on the agreement and the unmasking."""
    house, ahead = steady()
    wire = Wire()
    house.ahead_round(2, ahead, wire=wire)
    for name in house.names:
        asked = [step for step, sender, recipient, _ in wire.log if (sender, recipient) == (COORDINATOR, name)]
        assert sorted(asked) == sorted([Step.MANIFEST, Step.MASKED, Step.CONSISTENCY, Step.UNMASK, Step.SHARE])
    assert all(partner.ahead is not None for partner in house.partners.values())
    assert len({partner.ahead for partner in house.partners.values()}) == 1


def test_a_restarted_partner_says_so_and_five_steps_work() -> None:
    house, ahead = steady()
    gone = house.partners[VICTIM]
    back = Partner(
        VICTIM,
        house.identities[VICTIM],
        house.pins,
        house.run,
        RepeatableBytes("restarted"),
        last_round=gone.last_round,
        previous=gone.previous,
    )
    house.partners[VICTIM] = back
    assert back.ahead is None
    with pytest.raises(TooFewError):
        house.ahead_round(2, ahead)
    error = house.errors[VICTIM]
    assert isinstance(error, NotAgreedError)
    assert "there are none; take five steps" in str(error)
    house.errors.clear()
    outcome, following = house.ahead_round(3, None)
    assert sums(outcome) == total(house.values(3), house.names)
    assert following is not None


def test_keys_of_a_void_round_are_not_used() -> None:
    """The keys were dealt, the unmasking failed: whatever the coordinator says next, they are gone or refused."""
    house = House(3)
    leader = house.coordinator(1)
    parts = house.partners
    rolls = leader.advertised({n: parts[n].advertise(d, terms(), HEAD) for n, d in leader.open().items()})
    deliveries = leader.shared({n: parts[n].share(d) for n, d in rolls.items()})
    for name, data in deliveries.items():
        reply = parts[name].mask(data, house.layout.encode(house.values()[name]))
        leader.masked(name, reply.message, reply.words)
    quorum = leader.agreed({n: parts[n].agree(d) for n, d in leader.survivors().items()})
    next_rolls = leader.advertised_ahead({n: parts[n].advertise_ahead(HEAD) for n in quorum})
    for name in house.names:
        parts[name].unmask(quorum[name])
    ahead = leader.shared_ahead({n: parts[n].share_ahead(next_rolls[n]) for n in quorum})
    # No transcript: the coordinator threw the round away and would like to go on with its keys.
    second = house.coordinator(2, ahead=ahead)
    manifest, delivery = second.open()[VICTIM], second.deliveries()[VICTIM]
    with pytest.raises(NotAgreedError, match="expected the round after the completed one"):
        parts[VICTIM].mask_ahead(manifest, terms(), delivery, house.layout.encode(house.values()[VICTIM]))
    assert parts[VICTIM].ahead is None


def test_keys_sent_ahead_are_for_the_next_round_only() -> None:
    house, ahead = steady()
    with pytest.raises(UsageError, match="expected keys for round 3, got some for 2"):
        house.coordinator(3, ahead=ahead)
    # Signed all the same by a coordinator that does not ask our code.
    wrong = AheadKeys(ahead.context, ahead.threshold, 3, ahead.keys)
    leader = house.coordinator(3, ahead=wrong)
    manifest, delivery = leader.open()[VICTIM], leader.deliveries()[VICTIM]
    with pytest.raises(NotAgreedError, match="expected the round after the completed one"):
        house.partners[VICTIM].mask_ahead(manifest, terms(), delivery, house.layout.encode(house.values()[VICTIM]))


def test_keys_sent_ahead_are_used_once() -> None:
    house, ahead = steady()
    leader = house.coordinator(2, ahead=ahead)
    manifest, delivery = leader.open()[VICTIM], leader.deliveries()[VICTIM]
    partner, encoded = house.partners[VICTIM], house.layout.encode(house.values()[VICTIM])
    partner.mask_ahead(manifest, terms(), delivery, encoded)
    for call in (
        lambda: partner.mask_ahead(manifest, terms(), delivery, encoded),
        lambda: partner.mask(delivery, encoded),
        lambda: partner.advertise(manifest, terms(), HEAD),
    ):
        with pytest.raises(AbortError):
            call()


def test_two_manifests_over_the_same_keys_cannot_both_be_unmasked() -> None:
    """Keys are dealt before the manifest is known: what is masked and signed under one does not fit the other."""
    house, ahead = steady(5)
    one = house.coordinator(2, ahead=ahead)
    other_terms = terms(purpose="evaluation")
    two = house.coordinator(2, about=other_terms, ahead=ahead)
    values = house.values()
    shown = {name: (two, other_terms) if name == VICTIM else (one, terms()) for name in house.names}
    manifests = {leader: leader.open() for leader in (one, two)}
    replies = {
        name: house.partners[name].mask_ahead(
            manifests[leader][name], about, leader.deliveries()[name], house.layout.encode(values[name])
        )
        for name, (leader, about) in shown.items()
    }
    with pytest.raises(ForgedError) as caught:
        one.masked(VICTIM, replies[VICTIM].message, replies[VICTIM].words)
    assert (caught.value.step, caught.value.partner) == (Step.MASKED, VICTIM)
    # Without it the four add up, and it refuses what belongs to their manifest.
    again = house.coordinator(2, ahead=ahead)
    again.open()
    for name in house.names:
        if name != VICTIM:
            again.masked(name, replies[name].message, replies[name].words)
    survivors = again.survivors()
    with pytest.raises(ForgedError):
        house.partners[VICTIM].agree(survivors["partner-00"])
    quorum = again.agreed({name: house.partners[name].agree(data) for name, data in survivors.items()})
    outcome = again.unmasked({name: house.partners[name].unmask(data) for name, data in quorum.items()})
    assert sums(outcome) == total(values, [name for name in house.names if name != VICTIM])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Manifest, Delivery, Roll, Advertise, Shares], ids=lambda kind: kind.__name__)
def test_every_change_of_what_is_sent_ahead_costs_the_keys_or_the_round_but_never_gives_a_wrong_sum(
    kind: type[Manifest] | type[Delivery] | type[Roll] | type[Advertise] | type[Shares],
) -> None:
    house, ahead = steady()
    recording = Wire()
    house.ahead_round(2, ahead, wire=recording)
    step = {Manifest: Step.MANIFEST, Delivery: Step.MASKED, Roll: Step.SHARE}.get(
        kind, Step.ADVERTISE if kind is Advertise else Step.SHARE
    )
    down = kind in (Manifest, Delivery, Roll)
    route = (step, COORDINATOR, VICTIM) if down else (step, VICTIM, COORDINATOR)
    (data,) = [found for at, sender, to, found in recording.log if (at, sender, to) == route]
    for span in spans(kind, data):
        house, ahead = steady()
        content = data[span.start : span.stop]
        wrong = data[: span.start] + content[:-1] + bytes([content[-1] ^ 1]) + data[span.stop :]

        def change(at: Step, sender: str, to: str, found: bytes, wrong: bytes = wrong) -> bytes:
            return wrong if (at, sender, to) == route else found

        if kind in (Manifest, Delivery):
            with pytest.raises(TooFewError):
                house.ahead_round(2, ahead, wire=Wire(change))
            assert isinstance(house.errors[VICTIM], ForgedError), span.path
            assert not house.unmasked[3:]
            house.errors.clear()
            outcome, _ = house.ahead_round(3, None)
        else:  # this round's sum stands; the keys for the next one do not
            outcome, following = house.ahead_round(2, ahead, wire=Wire(change))
            assert sums(outcome) == total(house.values(2), house.names)
            assert following is None
            assert house.errors, span.path
            house.errors.clear()
            outcome, following = house.ahead_round(3, following)
            assert following is not None
        assert sums(outcome) == total(house.values(3), house.names)


def test_keys_ahead_are_given_after_the_agreement_only_and_dealt_once() -> None:
    house = House(3)
    partner = house.partners[VICTIM]
    with pytest.raises(ForgedError, match="expected a round that is open here"):
        partner.advertise_ahead(HEAD)
    with pytest.raises(ForgedError, match="expected no keys for the next round"):
        partner.share_ahead(b"")
    house, _ = steady()
    partner = house.partners[VICTIM]
    with pytest.raises(ForgedError, match="deal only once"):
        partner.share_ahead(b"")
    assert partner.ahead is None


def test_without_everybody_there_are_no_keys_ahead() -> None:
    house = House(5)
    outcome, ahead = house.ahead_round(1, None, alive=lambda step, name: name != VICTIM)
    assert ahead is None
    assert sums(outcome) == total(house.values(1), outcome.survivors)
    assert "step advertise" in str(house.errors["coordinator"])
    house.errors.clear()
    outcome, ahead = house.ahead_round(2, None)
    assert ahead is not None
    assert len(outcome.survivors) == 5


def test_a_manifest_can_be_checked_before_its_vector_is_made() -> None:
    """What `mask_ahead` would refuse, `check_ahead` refuses, and nothing is lost by asking."""
    house, ahead = steady()
    partner = house.partners[VICTIM]
    encoded = house.layout.encode(house.values()[VICTIM])
    five_steps = house.coordinator(2).open()[VICTIM]
    later = house.coordinator(3, ahead=AheadKeys(ahead.context, ahead.threshold, 3, ahead.keys)).open()[VICTIM]
    other = house.coordinator(2, about=terms(purpose="evaluation"), ahead=ahead).open()[VICTIM]
    leader = house.coordinator(2, ahead=ahead)
    manifest, delivery = leader.open()[VICTIM], leader.deliveries()[VICTIM]
    for wrong in (five_steps, later, other):
        with pytest.raises(NotAgreedError):
            partner.check_ahead(wrong, terms())
    with pytest.raises(ForgedError):
        partner.check_ahead(manifest[:-1] + bytes([manifest[-1] ^ 1]), terms())
    partner.check_ahead(manifest, terms())
    assert partner.last_round == 1
    partner.mask_ahead(manifest, terms(), delivery, encoded)
    with pytest.raises(NotAgreedError, match="expected a round after 2"):
        partner.check_ahead(manifest, terms())
    fresh = House(3)
    with pytest.raises(NotAgreedError, match="there are none; take five steps"):
        fresh.partners[VICTIM].check_ahead(
            fresh.coordinator(1, ahead=AheadKeys(b"a" * 32, 3, 1, ahead.keys)).open()[VICTIM], terms()
        )
