"""The notice of a promoted model crosses whole, and another form is refused."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from silhouette_shared.wire import WireError
from silhouette_shared.wire.promoted import ModelHeld, ModelNotice


def settings(records: RecordDict) -> ConfigRecord:
    found = records["silhouette"]
    assert isinstance(found, ConfigRecord)
    return found


@given(st.binary(max_size=40), st.binary(max_size=9), st.binary(max_size=9))
def test_what_was_sent_arrives_whatever_its_length(model: bytes, alias: bytes, card: bytes) -> None:
    notice = ModelNotice(alias, card, model)
    assert ModelNotice.decode(notice.encode()) == notice


@pytest.mark.parametrize("size", [-1, 0, 4, 9, 2**40])
def test_a_model_of_another_length_than_announced_is_refused(size: int) -> None:
    records = ModelNotice(b"alias", b"card", b"12345678").encode()
    settings(records)["size"] = size
    with pytest.raises(WireError, match="expected a model of"):
        ModelNotice.decode(records)


def test_bytes_after_the_announced_ones_are_refused() -> None:
    records = ModelNotice(b"alias", b"card", b"1234567").encode()
    settings(records)["size"] = 6
    with pytest.raises(WireError, match="expected a model of 6 bytes"):
        ModelNotice.decode(records)


def test_an_answer_arrives_and_one_with_anything_more_is_refused() -> None:
    for held in (ModelHeld("north", 3, wanted=True), ModelHeld("north", 0, refusal="older_alias: expected number 4")):
        assert ModelHeld.decode(held.encode()) == held
    records = ModelHeld("north", 3).encode()
    settings(records)["wanted"] = 2
    with pytest.raises(WireError, match="expected 0 or 1 for wanted"):
        ModelHeld.decode(records)
    settings(records)["wanted"] = 1
    settings(records)["people"] = 17
    with pytest.raises(WireError, match="expected the fields"):
        ModelHeld.decode(records)
