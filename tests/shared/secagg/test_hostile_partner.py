"""A partner that deviates is named, by the coordinator or by the partner that it deceives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.shared.secagg.house import HEAD, House, RepeatableBytes, Wire, terms

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import (
    COORDINATOR,
    Coordinator,
    ForgedError,
    Layout,
    NotAgreedError,
    Partner,
    Section,
    Step,
    TooFewError,
)
from silhouette_shared.secagg.messages import Advertise, Sealed, Shares, Unmask, commit_share, signed

LIAR = "partner-01"


def resigned(
    house: House, kind: type[Shares] | type[Unmask], change: Callable[[Shares | Unmask], Shares | Unmask]
) -> Wire:
    """A wire on which the liar's message is another, under its own valid signature."""
    step = Step.SHARE if kind is Shares else Step.UNMASK

    def on_the_way(at: Step, sender: str, to: str, data: bytes) -> bytes:
        if (at, sender) != (step, LIAR):
            return data
        new = change(kind.decode(data))
        return replace(new, signature=signed(new, house.identities[LIAR], new.context)).encode()

    return Wire(on_the_way)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda found: replace(found, shares=found.shares[1:]),
        lambda found: replace(found, shares=found.shares[::-1]),
        lambda found: replace(found, shares=(*found.shares, found.shares[0])),
        lambda found: replace(found, shares=(replace(found.shares[0], peer="partner-99"), *found.shares[1:])),
        lambda found: replace(found, shares=()),
    ],
    ids=["one missing", "another order", "one twice", "for a stranger", "none"],
)
def test_shares_for_others_than_the_roll_are_refused(wrong: Callable[[Shares | Unmask], Shares | Unmask]) -> None:
    house = House(5)
    with pytest.raises(ForgedError, match="expected a share for everybody on the roll") as caught:
        house.round(wire=resigned(house, Shares, wrong))
    assert (caught.value.step, caught.value.partner) == (Step.SHARE, LIAR)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda found: replace(found, shares=found.shares[1:]),
        lambda found: replace(found, shares=found.shares[::-1]),
        lambda found: replace(found, shares=(replace(found.shares[0], kind=2), *found.shares[1:])),
        lambda found: replace(found, shares=(replace(found.shares[0], kind=7), *found.shares[1:])),
        lambda found: replace(found, shares=()),
    ],
    ids=["one missing", "another order", "another kind", "no kind", "none"],
)
def test_opened_shares_of_others_than_the_dealers_are_refused(
    wrong: Callable[[Shares | Unmask], Shares | Unmask],
) -> None:
    house = House(5)
    with pytest.raises(ForgedError, match="expected one share of each dealer") as caught:
        house.round(wire=resigned(house, Unmask, wrong))
    assert (caught.value.step, caught.value.partner) == (Step.UNMASK, LIAR)


@pytest.mark.parametrize("field", ["self_commitment", "key_commitment"])
def test_a_dealer_that_commits_to_other_shares_than_it_encrypts_is_named_by_the_holder(field: str) -> None:
    """Otherwise an honest holder would be blamed for it when it opens what it was given."""
    house = House(5)
    liar = house.partners[LIAR]
    make = liar._new_keys

    def lying(context: bytes, dealer: str, holder: str, kind: int, share: bytes) -> bytes:
        wrong = holder == "partner-03" and kind == (1 if field == "self_commitment" else 2)
        return commit_share(context, dealer, holder, kind, share + b"x" if wrong else share)

    def new_keys(context: bytes, threshold: int, number: int):  # type: ignore[no-untyped-def]
        keys = make(context, threshold, number)
        seal = keys._seal

        def lying_seal(holder: str, of_self: tuple[bytes, ...], of_key: tuple[bytes, ...]) -> Sealed:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("silhouette_shared.secagg.partner.commit_share", lying)
                return seal(holder, of_self, of_key)

        keys._seal = lying_seal  # type: ignore[method-assign]
        return keys

    liar._new_keys = new_keys  # type: ignore[method-assign]
    outcome = house.round()
    # Four of five go on without the deceived one, who says by whom.
    assert outcome.survivors == tuple(name for name in house.names if name != "partner-03")
    error = house.errors["partner-03"]
    assert "expected the share that its dealer committed to" in str(error)
    assert (error.step, error.partner) == (Step.MASKED, LIAR)


def up_to_masked(house: House) -> tuple[Coordinator, dict[str, tuple[bytes, np.ndarray]]]:
    leader, parts = house.coordinator(), house.partners
    rolls = leader.advertised({n: parts[n].advertise(d, terms(), HEAD) for n, d in leader.open().items()})
    deliveries = leader.shared({n: parts[n].share(d) for n, d in rolls.items()})
    values = house.values()
    replies = {n: parts[n].mask(d, house.layout.encode(values[n])) for n, d in deliveries.items()}
    return leader, {name: (reply.message, reply.words) for name, reply in replies.items()}


def test_a_second_vector_of_one_partner_and_one_of_a_partner_that_dealt_nothing_are_refused() -> None:
    house = House(3)
    leader, found = up_to_masked(house)
    leader.masked(LIAR, *found[LIAR])
    with pytest.raises(ForgedError, match="expected one vector of each dealer") as caught:
        leader.masked(LIAR, *found[LIAR])
    assert (caught.value.step, caught.value.partner) == (Step.MASKED, LIAR)
    with pytest.raises(UsageError, match="the round is void"):
        leader.survivors()

    house = House(5)
    outcome = house.round(alive=lambda step, name: name != LIAR or step is Step.ADVERTISE)
    assert LIAR not in outcome.survivors


def test_shares_opened_by_a_partner_that_did_not_sign_the_set_are_refused() -> None:
    house = House(5)
    leader, found = up_to_masked(house)
    for name, (message, words) in found.items():
        leader.masked(name, message, words)
    parts = house.partners
    agreements = {n: parts[n].agree(d) for n, d in leader.survivors().items()}
    quorum = leader.agreed({n: d for n, d in agreements.items() if n != LIAR})
    (any_quorum,) = set(quorum.values())
    opened = {n: parts[n].unmask(any_quorum) for n in house.names}
    with pytest.raises(ForgedError, match="expected one share of each dealer") as caught:
        leader.unmasked(opened)
    assert caught.value.partner == LIAR


def test_an_answer_of_somebody_who_is_not_pinned_is_refused() -> None:
    house = House(3)
    leader = house.coordinator()
    adverts = {n: house.partners[n].advertise(d, terms(), HEAD) for n, d in leader.open().items()}
    with pytest.raises(ForgedError, match="expected answers of pinned partners") as caught:
        leader.advertised(adverts | {"partner-77": adverts[LIAR]})
    assert (caught.value.step, caught.value.partner) == (Step.ADVERTISE, "partner-77")


def test_a_partner_that_has_seen_the_ledgers_of_another_roster_is_named() -> None:
    house = House(3)
    leader = house.coordinator()
    adverts = {n: house.partners[n].advertise(d, terms(), HEAD, house.seen) for n, d in leader.open().items()}
    found = Advertise.decode(adverts[LIAR])
    unsigned = replace(found, seen=found.seen + bytes(40))
    adverts[LIAR] = replace(unsigned, signature=signed(unsigned, house.identities[LIAR], found.context)).encode()
    with pytest.raises(ForgedError, match="expected a ledger's standing for each partner") as caught:
        leader.advertised(adverts)
    assert (caught.value.step, caught.value.partner) == (Step.ADVERTISE, LIAR)


def test_a_partner_masks_only_a_vector_of_the_manifests_layout() -> None:
    house = House(3)
    leader, parts = house.coordinator(), house.partners
    rolls = leader.advertised({n: parts[n].advertise(d, terms(), HEAD) for n, d in leader.open().items()})
    deliveries = leader.shared({n: parts[n].share(d) for n, d in rolls.items()})
    other = Layout((Section("update", 6, -1000, 1000),))
    with pytest.raises(NotAgreedError, match="expected a vector of the manifest's layout") as caught:
        parts[LIAR].mask(deliveries[LIAR], other.encode({"update": np.zeros(6, np.int64)}))
    assert (caught.value.step, caught.value.partner) == (Step.MASKED, LIAR)
    with pytest.raises(ForgedError, match="open here"):
        parts[LIAR].mask(deliveries[LIAR], house.layout.encode(house.values()[LIAR]))


def test_a_partner_needs_its_own_pinned_key() -> None:
    house = House(3)
    for name in ("partner-00", "partner-88"):
        with pytest.raises(UsageError, match="to be pinned with its own key"):
            Partner(name, house.identities[LIAR], house.pins, house.run, RepeatableBytes(0))


def test_a_lone_partner_that_says_nothing_ends_a_round_of_three() -> None:
    house = House(3)
    with pytest.raises(TooFewError, match="expected at least 3 partners, got 2; start another round") as caught:
        house.round(alive=lambda step, name: name != LIAR)
    assert (caught.value.step, caught.value.partner) == (Step.ADVERTISE, None)
    assert caught.value.exit_code == 4
    assert COORDINATOR not in str(caught.value)
