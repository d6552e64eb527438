"""A catalogue numbers items from one and hashes all that it says about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silhouette_shared.catalogue import Catalogue


def shelf() -> Catalogue:
    return Catalogue(
        items=("3", "10"),
        titles=("Heat", "Brazil"),
        categories=("Crime", "Drama"),
        category_matrix=np.array([[1, 1], [0, 1]], dtype=np.float32),
        texts=("a heist", ""),
        content=np.array([[0.5], [-1.0]], dtype=np.float32),
    )


def test_items_are_numbered_from_one_in_order() -> None:
    assert dict(shelf().index) == {"3": 1, "10": 2}
    assert len(shelf()) == 2


def test_the_digest_is_the_same_everywhere() -> None:
    assert shelf().digest() == shelf().digest()
    assert shelf().digest() == "533be6b460d5daf154cd6ef82b9e370193e0eebebca5042183d6319548a98a4b"


@pytest.mark.parametrize(
    "change",
    [
        {"items": ("10", "3")},
        {"titles": ("HeatB", "razil")},
        {"categories": ("Crime", "War")},
        {"category_matrix": np.eye(2, dtype=np.float32)},
        {"texts": ("", "a heist")},
        {"content": np.array([[0.5], [1.0]], dtype=np.float32)},
        {"content": np.zeros((2, 0), dtype=np.float32)},
    ],
)
def test_every_part_changes_the_digest(change: dict[str, object]) -> None:
    assert replace(shelf(), **change).digest() != shelf().digest()  # type: ignore[arg-type]


def test_a_negative_zero_does_not_change_the_digest() -> None:
    zero = replace(shelf(), content=np.array([[0.0], [0.0]], dtype=np.float32))
    negative = replace(shelf(), content=np.array([[-0.0], [0.0]], dtype=np.float32))
    assert zero.digest() == negative.digest()


@given(st.lists(st.text(max_size=3), min_size=2, max_size=2))
def test_moving_a_letter_between_fields_changes_the_digest(words: list[str]) -> None:
    first = replace(shelf(), titles=(words[0] + "x", words[1]))
    second = replace(shelf(), titles=(words[0], "x" + words[1]))
    assert first.digest() != second.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titles": ("Heat",)}, "expected 2 titles"),
        ({"texts": ()}, "expected 2 texts"),
        ({"items": ("3", "3")}, "2 distinct, non-empty item ids"),
        ({"items": ("3", "")}, "2 distinct, non-empty item ids"),
        ({"categories": ("Drama", "Crime")}, "sorted categories"),
        ({"category_matrix": np.zeros((2, 3), np.float32)}, r"shape \(2, 2\)"),
        ({"category_matrix": np.full((2, 2), 0.5, np.float32)}, "zeros and ones"),
        ({"content": np.zeros((2, 1))}, "float32 content"),
        ({"content": np.full((2, 1), np.nan, np.float32)}, "finite content"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(shelf(), **change)  # type: ignore[arg-type]
