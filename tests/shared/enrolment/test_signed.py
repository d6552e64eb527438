"""Every content has one encoding, a signature is worth nothing for another kind, and nothing else is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silhouette_shared.enrolment.refusals import (
    CodedRefusalError,
    ExpiredError,
    ForgedDocumentError,
    MalformedError,
    code_of,
)
from silhouette_shared.enrolment.signed import (
    DOCUMENT_LIMIT,
    canonical,
    is_name,
    open_sealed,
    parse,
    seal,
    unverified,
)
from silhouette_shared.secagg.keys import Identity

IDENTITY, OTHER = Identity(bytes(32)), Identity(bytes([1]) * 32)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_what_was_encoded_is_read_back_and_has_one_encoding(content: dict[str, object]) -> None:
    data = canonical(content)
    assert parse(data, "it") == content
    assert canonical(parse(data, "it")) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"a": 1}',  # a space
        b'{"b":1,"a":2}',  # not sorted
        b'{"a":1,"a":1}',  # twice
        b'{"a":1.50}',  # another spelling
        b'{"a":NaN}',
        '{"a":"é"}'.encode(),
        b'{"a":1}\n',
        b"\xff",
        b"[" * 200_000,
        b'{"a":"' + b"x" * DOCUMENT_LIMIT + b'"}',
    ],
    ids=range(13),
)
def test_every_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(data, "it")


def test_a_signature_opens_its_kind_under_its_key_alone() -> None:
    data = seal("roster", {"a": 1}, IDENTITY)
    assert open_sealed("roster", data, IDENTITY.public) == {"a": 1}
    with pytest.raises(ForgedDocumentError, match="expected the signature of the key that is known here"):
        open_sealed("roster", data, OTHER.public)
    with pytest.raises(MalformedError, match="expected a kit, got 'roster'"):
        open_sealed("kit", data, IDENTITY.public)
    renamed = canonical({**json.loads(data), "kind": "kit"})
    with pytest.raises(ForgedDocumentError):
        open_sealed("kit", renamed, IDENTITY.public)


def test_every_changed_byte_of_a_signed_document_is_noticed() -> None:
    data = seal("roster", {"members": {"a": 1}, "version": 7}, IDENTITY)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((MalformedError, ForgedDocumentError)):
            open_sealed("roster", changed, IDENTITY.public)


def test_another_form_says_that_the_releases_differ() -> None:
    document = json.loads(seal("roster", {}, IDENTITY))
    for form in (2, True):
        with pytest.raises(MalformedError, match="install the same release"):
            unverified("roster", canonical({**document, "form": form}))


@pytest.mark.parametrize("name", ["north", "a", "North_2-x", "0" * 40])
def test_a_name_may_be_letters_digits_hyphens_and_underscores(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.b", "-a", "a b", "é", "coordinator", "Authority", "a" * 41])
def test_a_name_that_could_be_a_path_or_another_party_is_none(name: str) -> None:
    assert not is_name(name)


def test_an_error_has_a_code_that_a_program_reads() -> None:
    assert code_of(ExpiredError("x")) == "expired"
    assert code_of(ForgedDocumentError("x")) == "forged_document"
    refusal = CodedRefusalError("hours", "expected a time", {"now": "12:00"})
    assert (code_of(refusal), str(refusal), refusal.figures) == ("hours", "hours: expected a time", {"now": "12:00"})
