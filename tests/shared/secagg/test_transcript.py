"""From a transcript anyone can check who took part and that the sum belongs to it; nothing of it can be changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.shared.secagg.house import HEAD, House, RepeatableBytes, Wire, terms

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import (
    COORDINATOR,
    AbortError,
    ForgedError,
    Identity,
    NotAgreedError,
    Partner,
    Pins,
    Step,
    TooFewError,
    genesis,
    verify_chain,
    verify_sum,
    verify_transcript,
)
from silhouette_shared.secagg.framing import FramingError, spans
from silhouette_shared.secagg.masking import vector_digest
from silhouette_shared.secagg.messages import (
    Transcript,
    manifest_signing_context,
    signed,
    survivors_context,
    transcript_context,
)


def without_one(step: Step, name: str) -> bool:
    return not (name == "partner-02" and step in (Step.MASKED, Step.CONSISTENCY, Step.UNMASK))


def test_a_transcript_says_who_took_part_and_who_dropped_out() -> None:
    house = House(5)
    outcome = house.round(alive=without_one)
    checked = verify_transcript(outcome.transcript, house.pins, run="run-a", previous=genesis("run-a"))
    assert checked.survivors == outcome.survivors == ("partner-00", "partner-01", "partner-03", "partner-04")
    assert checked.dropped == ("partner-02",)
    assert checked.sum_digest == vector_digest(outcome.total)
    assert checked.digest == outcome.digest
    assert checked.round == 1


def test_every_change_of_every_field_of_a_transcript_is_refused() -> None:
    house = House(3)
    data = house.round().transcript
    for span in spans(Transcript, data):
        content = data[span.start : span.stop]
        for wrong in (content[:-1] + bytes([content[-1] ^ 1]), b"", content + content, bytes(4)):
            changed = data[: span.start] + wrong + data[span.stop :]
            if changed != data:
                with pytest.raises(AbortError) as caught:
                    verify_transcript(changed, house.pins, run="run-a", previous=genesis("run-a"))
                assert caught.value.partner is not None or isinstance(caught.value, TooFewError), span.path


def test_a_transcript_that_the_coordinator_changes_and_signs_is_refused() -> None:
    """Its own signature is not what makes a transcript true."""
    house = House(5)
    outcome = house.round(alive=without_one)
    found = Transcript.decode(outcome.transcript)
    (manifest,) = found.manifest
    other_manifest = replace(manifest, model=b"x" * 32)
    key = house.authority
    other_manifest = replace(
        other_manifest, signature=signed(other_manifest, key, manifest_signing_context(key.public))
    )
    for changes, kind in (
        ({"manifest": (other_manifest,)}, ForgedError),
        ({"manifest": ()}, ForgedError),
        ({"adverts": found.adverts[:4]}, ForgedError),
        ({"masked": found.masked[:3]}, TooFewError),
        ({"masked": (*found.masked[:3], replace(found.masked[3], digest=b"d" * 32))}, ForgedError),
        ({"masked": found.masked[::-1]}, ForgedError),
        ({"agreements": found.agreements[:3]}, TooFewError),
        ({"agreements": (found.agreements[0],) * 4}, ForgedError),
        ({"secrets": found.secrets[:4]}, ForgedError),
        ({"secrets": (replace(found.secrets[0], value=b"s" * 32), *found.secrets[1:])}, ForgedError),
        ({"secrets": (replace(found.secrets[0], kind=2), *found.secrets[1:])}, ForgedError),
        (
            {"secrets": (*found.secrets[:2], replace(found.secrets[2], value=b"s" * 32), *found.secrets[3:])},
            ForgedError,
        ),
    ):
        wrong = replace(found, **changes)
        # Signed for the set that the honest transcript has; another set fails before that.
        checked = verify_transcript(outcome.transcript, house.pins, run="run-a", previous=genesis("run-a"))
        context = transcript_context(survivors_context(checked.context, wrong.masked))
        again = replace(wrong, signature=signed(wrong, key, context))
        with pytest.raises(kind):
            verify_transcript(again.encode(), house.pins, run="run-a", previous=genesis("run-a"))


def test_a_chain_is_checked_link_by_link() -> None:
    house = House(3)
    for number in (1, 2, 5):
        house.round(number)
    checked = verify_chain(house.transcripts, house.pins, "run-a")
    assert [one.round for one in checked] == [1, 2, 5]
    one, two, three = house.transcripts
    for wrong in ([one, three], [one, one], [one, two, two]):
        with pytest.raises(ForgedError, match="expected the transcript that follows the last one of this run"):
            verify_chain(wrong, house.pins, "run-a")
    for headless in ([two, three], [two, one]):
        with pytest.raises(ForgedError, match="expected the first transcript of this run, got a later one"):
            verify_chain(headless, house.pins, "run-a")
    with pytest.raises(ForgedError, match="of this run"):
        verify_chain(house.transcripts, house.pins, "run-b")
    stranger = Pins(Identity.generate(RepeatableBytes("x")).public, house.pins.partners)
    with pytest.raises(ForgedError):
        verify_chain(house.transcripts, stranger, "run-a")
    assert verify_chain([], house.pins, "run-a") == ()


def test_rounds_of_a_chain_go_up() -> None:
    house = House(3)
    house.round(5)
    for partner in house.partners.values():
        partner._last_round = 0  # as three partners together could lie
    house.round(4)
    with pytest.raises(ForgedError, match="expected rounds that go up"):
        verify_chain(house.transcripts, house.pins, "run-a")


def test_keys_sent_ahead_are_tied_to_the_round_that_sent_them() -> None:
    house = House(3)
    _, ahead = house.ahead_round(1, None)
    _, ahead = house.ahead_round(2, ahead)
    verify_chain(house.transcripts, house.pins, "run-a")
    first, second = (Transcript.decode(data) for data in house.transcripts)
    checked = verify_transcript(house.transcripts[0], house.pins, run="run-a", previous=genesis("run-a"))
    with pytest.raises(ForgedError, match="expected a message of this round"):
        verify_transcript(
            house.transcripts[1],
            house.pins,
            run="run-a",
            previous=checked.digest,
            last=replace(first.manifest[0], round=7),
        )
    assert second.manifest[0].ahead != bytes(32)


def test_the_sum_is_checked_from_the_masked_vectors() -> None:
    house, wire = House(5), Wire()
    outcome = house.round(wire=wire, alive=without_one)
    checked = verify_transcript(outcome.transcript, house.pins, run="run-a", previous=genesis("run-a"))
    vectors = {name: wire.words[name] for name in outcome.survivors}
    verify_sum(checked, outcome.total, vectors.items())

    other = outcome.total.copy()
    other[0] ^= np.uint32(1)
    with pytest.raises(ForgedError, match="expected the sum that the transcript names"):
        verify_sum(checked, other, vectors.items())
    with pytest.raises(ForgedError, match="expected the vector that this partner signed") as caught:
        verify_sum(checked, outcome.total, (vectors | {"partner-01": vectors["partner-00"]}).items())
    assert caught.value.partner == "partner-01"
    with pytest.raises(ForgedError, match="in the roster's order"):
        verify_sum(checked, outcome.total, list(vectors.items())[::-1])
    with pytest.raises(ForgedError, match="in the roster's order"):
        verify_sum(checked, outcome.total, [*vectors.items(), ("partner-04", vectors["partner-04"])])
    with pytest.raises(UsageError, match="expected every survivor's masked vector"):
        verify_sum(checked, outcome.total, list(vectors.items())[:3])
    with pytest.raises(UsageError, match="uint32 words"):
        verify_sum(checked, outcome.total[:-1], vectors.items())
    # A coordinator that signs another sum into its transcript is found out by whoever has the vectors.
    found = replace(checked.transcript, sum_digest=vector_digest(other))
    lied = replace(checked, sum_digest=vector_digest(other), transcript=found)
    with pytest.raises(ForgedError, match="expected the sum of the survivors' vectors") as caught:
        verify_sum(lied, other, vectors.items())
    assert caught.value.partner == COORDINATOR


def test_a_partner_that_missed_a_round_catches_up_before_it_takes_part() -> None:
    house = House(5)
    house.round(1)
    late = Partner("partner-00", house.identities["partner-00"], house.pins, "run-a", RepeatableBytes("late"))
    leader = house.coordinator(2)
    manifest = leader.open()["partner-00"]
    with pytest.raises(NotAgreedError, match="expected the previous transcript"):
        late.advertise(manifest, terms(), HEAD)
    assert late.finish(house.transcripts[0]).round == 1
    late.advertise(manifest, terms(), HEAD)
    assert (late.last_round, late.previous) == (2, house.previous)
    with pytest.raises(ForgedError, match="follows the last one"):
        late.finish(house.transcripts[0])


def test_a_transcript_is_no_other_message() -> None:
    house = House(3)
    house.round()
    with pytest.raises(FramingError, match="expected message Transcript"):
        Transcript.decode(house.coordinator(2).open()["partner-00"])
