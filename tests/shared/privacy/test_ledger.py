"""A ledger's bytes are those of one entry alone, and a chain notices every change, given its head."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledgers import ANY, KEY, NODE, START, charge, records

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.ledger import (
    Chain,
    Charge,
    Content,
    Entry,
    Head,
    Introduction,
    Limits,
    Opening,
    Record,
    decode,
    encode,
    verify,
)
from silhouette_shared.privacy.mechanism import SampledGaussian

TEXT = st.text(min_size=1, max_size=20).filter(str.isprintable)
PURPOSES = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
FRACTIONS = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
MECHANISMS = st.builds(
    SampledGaussian,
    noise_multiplier=POSITIVE,
    sampling_rate=FRACTIONS,
    steps=st.integers(min_value=1, max_value=10**9),
    clip_norm=POSITIVE,
    rounding=st.just(0.0) | POSITIVE,
    size=st.integers(min_value=0, max_value=10**9),
    batch_cap=st.integers(min_value=1, max_value=10**9),
    overflow=FRACTIONS,
)
CHARGES = st.builds(
    Charge,
    run=TEXT,
    round=st.integers(min_value=0, max_value=2**53),
    purpose=PURPOSES,
    mechanism=MECHANISMS,
    delta=FRACTIONS,
    plan_digest=DIGESTS,
    model_digest=st.one_of(st.just(""), DIGESTS),
)
LIMITS = st.builds(
    Limits,
    epsilon_per_run=st.none() | POSITIVE,
    epsilon_per_year=st.none() | POSITIVE,
    delta=FRACTIONS,
)
CONTENTS: st.SearchStrategy[Content] = st.one_of(
    CHARGES,
    LIMITS,
    st.builds(Introduction, witness=TEXT),
    st.builds(Opening, node=st.just(NODE), ledger=st.binary(min_size=16, max_size=16).map(bytes.hex)),
)
ENTRIES = st.builds(
    Entry,
    sequence=st.integers(min_value=1, max_value=2**53),
    time=st.datetimes(min_value=datetime(1000, 1, 1)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC)),  # noqa: DTZ001
    previous=st.binary(min_size=32, max_size=32),
    content=CONTENTS,
)


# The bytes of an entry


@given(ENTRIES)
def test_an_entry_reads_back_from_its_bytes(entry: Entry) -> None:
    assert decode(encode(entry)) == entry


@given(ENTRIES, ENTRIES)
def test_different_entries_have_different_bytes(one: Entry, other: Entry) -> None:
    assert (encode(one) == encode(other)) == (one == other)


FIELDS = ("run", "round", "purpose", "delta", "plan_digest", "model_digest", "mechanism")


@given(CHARGES, CHARGES, st.sampled_from(FIELDS))
def test_changing_one_field_changes_the_bytes(one: Charge, other: Charge, field: str) -> None:
    changed = replace(one, **{field: getattr(other, field)})
    first = Entry(sequence=1, time=START, previous=bytes(32), content=one)
    assert (encode(first) == encode(replace(first, content=changed))) == (one == changed)


def test_two_texts_never_run_into_each_other() -> None:
    # Framed badly, these would be the same text, or one field would swallow the next.
    runs = ['a","round":7', "a", "a,", "a\\", "ä", "a\u0308", "\U0001f600"]
    entries = [Entry(sequence=1, time=START, previous=bytes(32), content=replace(charge(1), run=run)) for run in runs]
    assert len({encode(entry) for entry in entries}) == len(runs)
    assert [decode(encode(entry)) for entry in entries] == entries


def test_text_that_is_no_unicode_is_refused() -> None:
    # As JSON with escapes, the two halves of a pair would read back as the one character they stand for.
    content = charge(1)
    object.__setattr__(content, "run", "\ud83d\ude00")
    with pytest.raises(UsageError, match="written down exactly"):
        encode(Entry(sequence=1, time=START, previous=bytes(32), content=content))
    with pytest.raises(UsageError, match="run"):
        replace(charge(1), run="\ud83d\ude00")


def test_every_field_of_the_mechanism_is_written_whatever_fields_it_has() -> None:
    document = json.loads(encode(Entry(sequence=1, time=START, previous=bytes(32), content=charge(1))))
    assert document["charge"]["mechanism"] == asdict(charge(1).mechanism)


def _with(change: dict[str, object], of: Content | None = None) -> bytes:
    entry = Entry(sequence=2, time=START, previous=bytes(32), content=charge(1) if of is None else of)
    document = json.loads(encode(entry)) | change
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        b" " + _with({}),
        _with({}) + b"\n",
        _with({}).replace(b'"round":1', b'"round":1.0'),
        _with({}).replace(b'"round":1', b'"round":01'),
        _with({}).replace(b'"delta":1e-05', b'"delta":0.00001'),
        _with({}).replace(b'"delta":1e-05', b'"delta":NaN'),
        _with({}).replace(b'"purpose"', b'"purpose":"audit","purpose"'),
        _with({"extra": 1}),
        _with({"kind": "opening"}),
        _with({"kind": "nothing"}),
        _with({"kind": []}),
        _with({"sequence": 0}),
        _with({"sequence": True}),
        _with({"sequence": "2"}),
        _with({"previous": "00" * 31}),
        _with({"previous": "00" * 31 + "0G"}),
        _with({"time": "2026-3-1T12:00:00Z"}),
        _with({"time": "2026-13-01T12:00:00Z"}),
        _with({"time": 5}),
        _with({"charge": []}),
        _with({"charge": {**asdict(charge(1)), "mechanism": 5}}),
        _with({"charge": {**asdict(charge(1)), "run": ""}}),
        _with({"charge": {**asdict(charge(1)), "plan_digest": None}}),
    ],
)
def test_bytes_that_no_entry_has_are_refused(body: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(body)


def test_an_entry_of_a_newer_version_asks_for_an_update() -> None:
    with pytest.raises(UsageError, match="update Silhouette"):
        decode(_with({"format": 2}))
    newer = asdict(charge(1))
    newer["mechanism"]["unheard_of"] = 1
    with pytest.raises(UsageError, match=r"\['unheard_of'\]; update Silhouette"):
        decode(_with({"charge": newer}))


def test_an_entry_from_before_a_field_was_added_is_read_and_keeps_its_hash() -> None:
    # The hash is over the bytes that were written, not over what this version would write.
    older = asdict(charge(1))
    for name in ("rounding", "grid_step", "size", "shares", "batch_cap", "overflow"):
        del older["mechanism"][name]
    body = _with({"charge": older})
    assert decode(body).content == charge(1)
    assert encode(decode(body)) != body
    opening, limits = records()
    sealed = Record(
        body := _with({"charge": older, "sequence": 3, "previous": limits.hash.hex(), "time": "2027-01-01T00:00:00Z"}),
        hmac.digest(KEY, b"silhouette ledger seal 1\0" + body, "sha256"),
    )
    head = Head(3, hashlib.sha256(b"silhouette ledger body 1\0" + body).digest())
    assert verify([opening, limits, sealed], KEY, head)[-1].content == charge(1)


def test_an_entry_that_lacks_a_field_is_refused_by_its_name() -> None:
    lacking = asdict(charge(1))
    del lacking["mechanism"]["clip_norm"]
    with pytest.raises(IntegrityError, match="clip_norm"):
        decode(_with({"charge": lacking}))


# The chain

CHARGED = [charge(number) for number in range(1, 7)]


def head_of(whole: list[Record]) -> Head:
    return Head(len(whole), whole[-1].hash)


def test_a_whole_ledger_verifies_and_gives_its_entries() -> None:
    whole = records(*CHARGED)
    entries = verify(whole, KEY, head_of(whole))
    assert [entry.content for entry in entries[2:]] == CHARGED
    assert [entry.sequence for entry in entries] == list(range(1, 9))
    assert [entry.kind for entry in entries[:3]] == ["opening", "limits", "charge"]


def test_the_hash_and_the_seal_are_what_they_are_said_to_be() -> None:
    first, second = records()
    assert first.hash == hashlib.sha256(b"silhouette ledger body 1\0" + first.body).digest()
    assert first.seal == hmac.new(KEY, b"silhouette ledger seal 1\0" + first.body, hashlib.sha256).digest()
    assert decode(second.body).previous == first.hash
    assert decode(first.body).previous == bytes(32)


@given(st.data())
def test_any_single_edit_is_found_where_it_is(data: st.DataObject) -> None:
    whole = records(*CHARGED)
    index = data.draw(st.integers(0, len(whole) - 1))
    record = whole[index]
    part = data.draw(st.sampled_from(["body", "seal"]))
    content: bytes = getattr(record, part)
    position = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :]
    whole[index] = replace(record, **{part: changed})
    with pytest.raises(IntegrityError, match=f"ledger entry {index + 1}: .*put back the newest copy"):
        verify(whole, KEY)


@given(st.data())
def test_any_removal_swap_repetition_or_cut_is_found_given_the_head(data: st.DataObject) -> None:
    whole = records(*CHARGED)
    head = head_of(whole)
    kind = data.draw(st.sampled_from(["remove", "swap", "repeat", "cut"]))
    index = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, len(whole) - 1).filter(lambda value: value != index))
    changed = list(whole)
    if kind == "remove":
        del changed[index]
    elif kind == "swap":
        changed[index], changed[other] = changed[other], changed[index]
    elif kind == "repeat":
        changed.insert(other, whole[index])
    else:
        changed = changed[:index]
    with pytest.raises(IntegrityError, match="entry"):
        verify(changed, KEY, head)


def test_a_cut_at_the_end_passes_without_the_head_which_is_why_there_are_witnesses() -> None:
    whole = records(*CHARGED)
    assert len(verify(whole[:-1], KEY)) == len(whole) - 1
    with pytest.raises(IntegrityError, match=r"expected a ledger with the entry 8 .* got one that ends at 7: an older"):
        verify(whole[:-1], KEY, head_of(whole))


def test_another_key_is_noticed_at_the_first_entry() -> None:
    with pytest.raises(IntegrityError, match="ledger entry 1: expected an entry sealed with this ledger's key"):
        verify(records(*CHARGED), bytes(32))


def test_somebody_with_the_key_cannot_rewrite_what_a_witness_has_seen() -> None:
    seen = head_of(records(*CHARGED))
    rewritten = records(*CHARGED[:-1], replace(CHARGED[-1], delta=1e-6))
    with pytest.raises(IntegrityError, match="have parted"):
        verify(rewritten, KEY, seen)
    longer = records(charge(99), *CHARGED)
    with pytest.raises(IntegrityError, match="have parted"):
        verify(longer, KEY, seen)


def forged(*contents: Content, times: list[datetime] | None = None) -> list[Record]:
    """What somebody with the key could write, whether or not a ledger would."""
    made: list[Record] = []
    for number, content in enumerate(contents):
        entry = Entry(
            sequence=number + 1,
            time=START if times is None else times[number],
            previous=made[-1].hash if made else bytes(32),
            content=content,
        )
        body = encode(entry)
        made.append(Record(body, hmac.digest(KEY, b"silhouette ledger seal 1\0" + body, "sha256")))
    return made


OPENING = Opening(node=NODE, ledger="00" * 16)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ((OPENING, ANY, charge(1), charge(1)), "entry 4: .*charged once"),
        ((OPENING, charge(1)), "entry 2: expected limits before"),
        ((ANY, OPENING), "entry 1: expected an opening first"),
        ((OPENING, ANY, OPENING), "entry 3: expected an opening first and only there"),
    ],
)
def test_entries_that_no_ledger_would_write_are_refused_though_sealed(
    contents: tuple[Content, ...], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        verify(forged(*contents), KEY)


def test_a_time_that_goes_back_is_refused_and_a_chain_never_writes_one() -> None:
    early = START - timedelta(days=400)
    with pytest.raises(IntegrityError, match="entry 2: expected a time not before"):
        verify(forged(OPENING, ANY, times=[START, early]), KEY)
    chain = Chain(KEY)
    chain.add(chain.seal(OPENING, START))
    assert chain.add(chain.seal(ANY, early)).time == START


def test_a_record_that_is_refused_is_not_added() -> None:
    first, second, third = records(charge(1))
    chain = Chain(KEY)
    chain.add(first)
    with pytest.raises(IntegrityError):
        chain.add(third)
    assert chain.head == Head(1, first.hash)
    chain.add(second)
    assert chain.limits == ANY
    assert not chain.holds(charge(1))
    chain.add(third)
    assert chain.holds(charge(1))
    assert not chain.holds(charge(1, purpose="metrics"))


def test_two_ledgers_share_no_hash_even_with_the_same_charges() -> None:
    one, other = records(*CHARGED), records(*CHARGED, opening="11" * 16)
    assert not {record.hash for record in one} & {record.hash for record in other}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", ""),
        ("run", "a\nb"),
        ("run", "a" * 201),
        ("run", 5),
        ("round", -1),
        ("round", True),
        ("round", 1.0),
        ("round", 2**53 + 1),
        ("purpose", "Training"),
        ("purpose", ""),
        ("mechanism", {"noise_multiplier": 1.0}),
        ("delta", 0.0),
        ("delta", 1),
        ("plan_digest", ""),
        ("plan_digest", "AB" * 32),
        ("model_digest", "ab"),
    ],
)
def test_a_charge_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"expected {field} to be"):
        replace(charge(1), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"), [("epsilon_per_run", 0.0), ("epsilon_per_year", float("inf")), ("delta", 1.0), ("delta", None)]
)
def test_limits_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"expected {field} to be"):
        replace(ANY, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("node", ["", ".hidden", "a/b", "a" * 65, "ä"])
def test_a_node_has_a_name_that_can_name_a_file(node: str) -> None:
    with pytest.raises(UsageError, match="expected node to be"):
        Opening(node=node, ledger="00" * 16)


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="expected a key of 32 bytes, got 16"):
        Chain(bytes(16))
