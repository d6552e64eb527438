"""A record's fields come back as they were written, or are refused before anything is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.profiles import same

from silhouette_client.profiles.record import (
    Evidence,
    ProfileRecord,
    RecentEvent,
    Recommended,
    TagEvidence,
    Trait,
    decode_field,
    encode_field,
)
from silhouette_shared.errors import UsageError

_texts = st.text(st.characters(codec="utf-8"), max_size=20)
_numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])  # which is the machine's
@given(
    vector=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8),
    weights=st.dictionaries(_texts, _numbers, max_size=3),
    traits=st.dictionaries(_texts, st.builds(Trait, _texts, _numbers), max_size=3),
    tags=st.lists(_texts, max_size=3).map(tuple),
    recommendations=st.lists(st.builds(Recommended, _texts, _texts, _numbers), max_size=3).map(tuple),
    facts=st.dictionaries(_texts, _numbers, max_size=3),
    evidence=st.builds(
        Evidence,
        st.lists(
            st.builds(TagEvidence, _texts, _numbers, _numbers, _numbers, st.lists(_texts, max_size=2).map(tuple)),
            max_size=2,
        ).map(tuple),
        st.lists(st.builds(RecentEvent, _texts, _texts, st.integers(0, 2**33), _numbers), max_size=2).map(tuple),
    ),
    items=st.lists(_texts, max_size=3),
)
def test_decoding_a_field_undoes_encoding(
    vector: list[float],
    weights: dict[str, float],
    traits: dict[str, Trait],
    tags: tuple[str, ...],
    recommendations: tuple[Recommended, ...],
    facts: dict[str, float],
    evidence: Evidence,
    items: list[str],
) -> None:
    record = ProfileRecord(
        model="m",
        vector=np.array(vector, np.float32),
        weights=weights,
        traits=traits,
        tags=tags,
        recommendations=recommendations,
        facts=facts,
        evidence=evidence,
        items=tuple(items),
    )
    back = ProfileRecord(model="m", **{name: decode_field(name, encode_field(record, name)) for name in record.present})
    assert same(back, record)


@pytest.mark.parametrize(
    "values",
    [
        {"vector": np.array([np.nan], np.float32)},
        {"vector": np.zeros(2)},
        {"vector": np.zeros((1, 2), np.float32)},
        {"weights": {"rhythm": float("inf")}},
        {"traits": {"age": Trait("secret-guess", float("nan"))}},
        {"model": ""},
        {"model": "two\nlines"},
    ],
)
def test_a_profile_that_would_not_come_back_is_refused_without_its_values(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"expected .* in a profile, got something else") as caught:
        ProfileRecord(**{"model": "m", **values})  # type: ignore[arg-type] # that is the point
    assert "secret-guess" not in str(caught.value)
