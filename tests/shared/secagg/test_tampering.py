"""Every field of every message, changed on the way: an end that names step and party, and nobody opens a share.

The fields come from the wire format. Each is flipped, emptied, cut out, repeated, taken from another partner's message
of the step, from another round and from another run; each entry of a sequence is exchanged with its neighbour. Whole
messages are lost, sent twice, replayed and exchanged. A second pass lets the coordinator itself sign what was changed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import pytest
from tests.shared.secagg.house import House, Wire, sums, terms, total

import silhouette_shared.secagg.keys as keys
from silhouette_shared.secagg import COORDINATOR, AbortError, ForgedError, NotAgreedError, Step, TooFewError
from silhouette_shared.secagg.framing import Beside, FramingError, Many, Message, Record, Span, spans, wire_fields
from silhouette_shared.secagg.messages import (
    MESSAGES,
    Advertise,
    Agreement,
    Delivery,
    Manifest,
    Masked,
    Quorum,
    Roll,
    Shares,
    Survivors,
    Transcript,
    Unmask,
    check_signature,
    manifest_signing_context,
    signed,
)
from silhouette_shared.secagg.standing import NOWHERE

VICTIM = "partner-01"
DOWN: dict[type[Message], Step] = {
    Manifest: Step.ADVERTISE,
    Roll: Step.SHARE,
    Delivery: Step.MASKED,
    Survivors: Step.CONSISTENCY,
    Quorum: Step.UNMASK,
}
UP: dict[type[Message], Step] = {
    Advertise: Step.ADVERTISE,
    Shares: Step.SHARE,
    Masked: Step.MASKED,
    Agreement: Step.CONSISTENCY,
    Unmask: Step.UNMASK,
}
ROUTES: dict[type[Message], tuple[Step, str, str]] = {
    **{kind: (step, COORDINATOR, VICTIM) for kind, step in DOWN.items()},
    **{kind: (step, VICTIM, COORDINATOR) for kind, step in UP.items()},
}


@pytest.fixture(autouse=True, scope="module")
def verified_once() -> Iterator[None]:
    """The same honest messages are checked in every case: here the second time is remembered."""
    plain = keys.verify_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "verify_bytes", lru_cache(maxsize=1 << 14)(plain))
        yield


@cache
def recorded(run: str, number: int, seed: int) -> dict[type[Message], bytes]:
    """One honest round's messages to and from the victim."""
    return record(run, number, seed, VICTIM)


def record(run: str, number: int, seed: int, who: str) -> dict[type[Message], bytes]:
    house, wire = House(3, run=run, seed=seed), Wire()
    house.round(number, wire=wire)
    found: dict[type[Message], bytes] = {}
    for kind, step in DOWN.items():
        (found[kind],) = wire.of(step, sender=COORDINATOR, recipient=who)
    for kind, step in UP.items():
        (found[kind],) = wire.of(step, sender=who, recipient=COORDINATOR)
    return found


def paths(record_: type[Record]) -> Iterator[str]:
    """Every field of a record and of the records in it, as the wire format declares them."""
    for name, kind in wire_fields(record_, beside=True).items():
        yield name
        if isinstance(kind, Many):
            yield from (f"{name}[].{inner}" for inner in paths(kind.record))


def test_the_fields_that_are_tampered_with_are_all_there_are() -> None:
    """The spans of encoded messages cover every declared field; the only one beside them is the vector."""
    honest = recorded("run-a", 1, 0)
    assert set(ROUTES) | {Transcript} == set(MESSAGES)
    for kind, data in honest.items():
        covered = {name_of(span).removeprefix(f"{kind.__name__}.") for span in spans(kind, data)}
        declared = set(paths(kind))
        # An entry of a sequence is a span of its own; a Masked inside another message has no words beside it.
        beside = {path for path in declared if path.split(".")[-1] == "vector"}
        assert {path for path in covered if not path.endswith("[]")} == declared - beside
        assert beside <= {"vector", "masked[].vector"}
        # Nothing but the header lies outside them.
        top = [span for span in spans(kind, data) if span.path.count(".") == 1 and "[" not in span.path]
        assert top[0].start == 4
        assert [one.stop for one in top] == [one.start for one in top[1:]] + [len(data)]
    assert isinstance(wire_fields(Masked, beside=True)["vector"], Beside)


def name_of(span: Span) -> str:
    """The span's path with every index left out."""
    return re.sub(r"\[\d+\]", "[]", span.path)


def changes(kind: type[Message], data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every way of changing one field, by name."""
    others = {
        "of another partner": record("run-a", 1, 0, "partner-02")[kind],
        "of another round": recorded("run-a", 2, 0)[kind],
        "of another run": recorded("run-b", 1, 0)[kind],
        "of other keys": recorded("run-a", 1, 1)[kind],
    }
    places = {whose: {span.path: span for span in spans(kind, other)} for whose, other in others.items()}
    found = list(spans(kind, data))
    for span in found:
        before, content, after = data[: span.start], data[span.start : span.stop], data[span.stop :]
        if len(content) > 4:
            yield (
                f"{span.path} flipped in its first bit",
                before + content[:4] + bytes([content[4] ^ 128]) + content[5:] + after,
            )
            yield f"{span.path} flipped in its last bit", before + content[:-1] + bytes([content[-1] ^ 1]) + after
            yield f"{span.path} emptied", before + bytes(4) + after
        yield f"{span.path} announced longer", before + b"\x7f\xff\xff\xff" + content[4:] + after
        yield f"{span.path} dropped", before + after
        yield f"{span.path} duplicated", before + content + content + after
        for whose, other in others.items():
            place = places[whose].get(span.path)
            if place is not None and other[place.start : place.stop] != content:
                yield f"{span.path} {whose}", before + other[place.start : place.stop] + after
    entries = [span for span in found if span.path.endswith("]")]
    for one, two in itertools.pairwise(entries):
        if one.stop == two.start and data[one.start : one.stop] != data[two.start : two.stop]:
            swapped = data[two.start : two.stop] + data[one.start : one.stop]
            yield f"{one.path} exchanged with the next", data[: one.start] + swapped + data[two.stop :]
    for at in range(4):
        yield f"header byte {at} flipped", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    yield "nothing at all", b""
    yield "half of it", data[: len(data) // 2]
    yield "one byte more", data + b"\0"
    for whose, other in others.items():
        if other != data:  # what goes to everybody is the same for another partner
            yield f"the whole {whose}", other
    for other_kind, other in recorded("run-a", 1, 0).items():
        if other_kind is not kind:
            yield f"the {other_kind.__name__} of this round", other


def tampered(kind: type[Message], wrong: bytes) -> tuple[House, AbortError]:
    """A round of three in which one message to or from the victim is changed. Threshold three: it cannot go on."""
    step, sender, recipient = ROUTES[kind]
    house = House(3)

    def on_the_way(at: Step, from_: str, to: str, data: bytes) -> bytes:
        if (at, from_, to) != (step, sender, recipient):
            return data
        assert data == recorded("run-a", 1, 0)[kind]
        return wrong

    with pytest.raises(AbortError) as caught:
        house.round(1, wire=Wire(on_the_way))
    return house, caught.value


def named(kind: type[Message], house: House, error: AbortError, what: str) -> AbortError:
    """The error of whoever found the change, where it can only be the receiver."""
    # Genuine messages of the same sender that were never meant for this round are found one step on, by the other side.
    if (kind, what) == (Manifest, "the whole of another round"):
        assert (error.step, error.partner) == (Step.ADVERTISE, VICTIM)
        error.step = Step.MANIFEST
        return error
    if (kind, what) == (Advertise, "the whole of other keys"):
        found = house.errors[VICTIM]
        assert (found.step, found.partner) == (Step.SHARE, COORDINATOR)
        found.step, found.partner = Step.ADVERTISE, VICTIM
        return found
    if kind in UP:
        assert not house.errors
        return error
    assert set(house.errors) == {VICTIM}
    assert isinstance(error, TooFewError)
    return house.errors[VICTIM]


# What a message is refused for, one step on: at which step its receiver stands.
STANDS_AT = {
    Manifest: {Step.MANIFEST},
    Roll: {Step.SHARE, Step.ADVERTISE},
    Delivery: {Step.MASKED},
    Survivors: {Step.CONSISTENCY, Step.MASKED},
    Quorum: {Step.UNMASK, Step.CONSISTENCY},
    **{kind: {step} for kind, step in UP.items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROUTES, ids=lambda kind: kind.__name__)
def test_every_change_of_every_field_on_the_way_is_refused_by_name(kind: type[Message]) -> None:
    data = recorded("run-a", 1, 0)[kind]
    seen = 0
    for what, wrong in changes(kind, data):
        assert wrong != data, what
        house, error = tampered(kind, wrong)
        refusal = named(kind, house, error, what)
        # The genuine manifest of another run is not forged, only nothing that this partner takes part in.
        kinds = NotAgreedError if (kind, what) == (Manifest, "the whole of another run") else ForgedError
        assert isinstance(refusal, kinds), what
        assert refusal.step in STANDS_AT[kind], what
        assert refusal.partner in {COORDINATOR, *house.names}, what
        if kind in UP:
            assert refusal.partner == VICTIM, what
        # In the last step the others have opened theirs before; the victim never does, and no sum comes out.
        assert kind is Unmask or VICTIM not in house.unmasked, what
        assert kind in (Quorum, Unmask) or not house.unmasked, what
        assert not house.outcomes, what
        seen += 1
    assert seen >= 12 * len(list(paths(kind))) - 12


def test_a_few_changes_are_refused_in_the_quick_run_too() -> None:
    for kind in ROUTES:
        data = recorded("run-a", 1, 0)[kind]
        for wrong in (data[:-1] + bytes([data[-1] ^ 1]), data[:10] + bytes([data[10] ^ 1]) + data[11:]):
            house, error = tampered(kind, wrong)
            assert isinstance(named(kind, house, error, ""), ForgedError)
            assert not house.outcomes


def test_every_word_of_a_masked_vector_is_covered_by_its_signature() -> None:
    size = House(3).layout.size
    for at in range(size):
        for bit in (0, 31):

            def flip(sender: str, words: np.ndarray, at: int = at, bit: int = bit) -> np.ndarray:
                if sender == VICTIM:
                    words = words.copy()
                    words[at] ^= np.uint32(1 << bit)
                return words

            house = House(3)
            with pytest.raises(ForgedError, match="expected the vector that was signed") as caught:
                house.round(wire=Wire(change_words=flip))
            assert (caught.value.step, caught.value.partner) == (Step.MASKED, VICTIM)
            assert not house.unmasked


@pytest.mark.parametrize(
    "wrong",
    [
        lambda words: words[:-1],
        lambda words: np.append(words, np.uint32(0)),
        lambda words: words.astype(np.int64),
        lambda words: words.astype(np.float32) * np.nan,
        lambda words: words.reshape(1, -1),
        lambda words: np.repeat(words, 2)[::2],
        lambda words: words.astype(">u4"),
        lambda words: words.tobytes(),
        lambda words: None,
        lambda words: np.broadcast_to(np.uint32(0), (1 << 40,)),
    ],
    ids=["short", "long", "int64", "nan", "2d", "strided", "big-endian", "bytes", "none", "announces 4 TB"],
)
def test_a_masked_vector_of_another_form_is_refused_by_name(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    house = House(3)
    with pytest.raises(ForgedError, match=r"expected an? .*array of .*uint32 words") as caught:
        house.round(wire=Wire(change_words=lambda sender, words: wrong(words) if sender == VICTIM else words))
    assert (caught.value.step, caught.value.partner) == (Step.MASKED, VICTIM)
    assert not house.unmasked


@pytest.mark.parametrize("kind", ROUTES, ids=lambda kind: kind.__name__)
def test_a_message_that_is_lost_is_a_dropout_and_the_others_add_up(kind: type[Message]) -> None:
    step, sender, recipient = ROUTES[kind]
    house = House(5)
    values = house.values(1)
    wire = Wire(lambda at, from_, to, data: None if (at, from_, to) == (step, sender, recipient) else data)
    outcome = house.round(1, wire=wire, values=values)
    assert sums(outcome) == total(values, outcome.survivors)
    in_sum = step in (Step.CONSISTENCY, Step.UNMASK)
    assert (VICTIM in outcome.survivors) == in_sum


@pytest.mark.parametrize("kind", DOWN, ids=lambda kind: kind.__name__)
def test_a_message_that_comes_twice_ends_the_round_at_the_partner(kind: type[Message]) -> None:
    """The second of each is refused, and what the first one opened is closed again."""
    house = House(3)
    partner = house.partners[VICTIM]
    calls: dict[type[Message], Callable[[bytes], object]] = {
        Manifest: lambda data: partner.advertise(data, terms(), NOWHERE),
        Roll: partner.share,
        Delivery: lambda data: partner.mask(data, house.layout.encode(house.values(1)[VICTIM])),
        Survivors: partner.agree,
        Quorum: partner.unmask,
    }
    step = DOWN[kind]
    again: list[AbortError] = []

    def twice(at: Step, from_: str, to: str, data: bytes) -> bytes:
        # The answer to the first copy is on its way when the second comes.
        if (at, from_, to) == (step, VICTIM, COORDINATOR):
            (first,) = wire.of(step, sender=COORDINATOR, recipient=VICTIM)
            with pytest.raises(AbortError) as caught:
                calls[kind](first)
            again.append(caught.value)
        return data

    wire = Wire(twice)
    if kind is Quorum:
        house.round(1, wire=wire)  # the answer was made; nothing is left that a second one could open
    else:
        with pytest.raises(TooFewError):
            house.round(1, wire=wire)
        assert VICTIM not in house.unmasked
    assert len(again) == 1
    assert again[0].partner == COORDINATOR


@pytest.mark.parametrize("kind", UP, ids=lambda kind: kind.__name__)
def test_two_answers_that_are_exchanged_are_refused_by_name(kind: type[Message]) -> None:
    step = UP[kind]
    house = House(3)
    kept: list[bytes] = []

    def exchange(at: Step, from_: str, to: str, data: bytes) -> bytes:
        """The second partner's answer is the first one's."""
        if at is step and to == COORDINATOR:
            kept.append(data)
            return kept[0]
        return data

    with pytest.raises(ForgedError, match="expected this partner's own answer") as caught:
        house.round(1, wire=Wire(exchange))
    assert (caught.value.step, caught.value.partner) == (step, VICTIM)
    assert not house.outcomes


def signs_again(kind: type[Message], house: House, wrong: bytes) -> bytes | None:
    """What was changed, under a new and valid signature of the coordinator; None where it cannot be read any more."""
    try:
        found = kind.decode(wrong)
    except FramingError:
        return None
    public = house.authority.public
    context: bytes = manifest_signing_context(public) if kind is Manifest else getattr(found, "context")  # noqa: B009
    new: Message = replace(found, signature=signed(found, house.authority, context))  # type: ignore[type-var]
    check_signature(new, public, context)
    return new.encode()


@pytest.mark.slow
@pytest.mark.parametrize("kind", DOWN, ids=lambda kind: kind.__name__)
def test_what_the_coordinator_changes_for_one_partner_and_signs_is_refused_too(kind: type[Message]) -> None:
    """A coordinator that shows one of three something else gets no sum, and no share of that partner.

    Some changes are found by the partner and some, like another threshold that would be allowed, only when its
    next message does not fit those of the others.
    """
    data = recorded("run-a", 1, 0)[kind]
    played = 0
    signer = House(3)
    for what, wrong in changes(kind, data):
        again = signs_again(kind, signer, wrong)
        if again is None or again == data:
            continue
        house, error = tampered(kind, again)
        found = house.errors.get(VICTIM, error)
        assert isinstance(found, ForgedError | NotAgreedError | TooFewError), what
        assert found.step in Step
        assert VICTIM not in house.unmasked, what
        assert kind is Quorum or not house.unmasked, what
        assert not house.outcomes, what
        played += 1
    assert played >= 8, played
