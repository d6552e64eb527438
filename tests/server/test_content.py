"""Content vectors are a public, repeatable function of the texts."""

from __future__ import annotations

import numpy as np
import pytest

from silhouette_server.content import brought_content, content_vectors
from silhouette_shared.errors import UsageError

TEXTS = [
    "space war with a dark lord",
    "space war and a princess",
    "a love story in Paris",
    "love and rain in Paris",
    "",
    "qwertz",
]


def test_rows_have_length_one_or_zero() -> None:
    vectors = content_vectors(TEXTS, width=3)
    assert vectors.shape == (6, 3)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.allclose(lengths[:4], 1.0, atol=1e-6)
    # No text, and a word that no other text has: nothing relates them to others.
    assert not vectors[4:].any()


def test_texts_with_common_words_are_nearer() -> None:
    vectors = content_vectors(TEXTS, width=2)
    assert vectors[0] @ vectors[1] > 0.9
    assert abs(vectors[0] @ vectors[2]) < 0.1


def test_the_same_texts_give_the_same_bits() -> None:
    assert content_vectors(TEXTS, 3).tobytes() == content_vectors(TEXTS, 3).tobytes()


def test_the_sign_does_not_depend_on_the_seed() -> None:
    # One text more about war: two equal singular values would leave the axes free to turn.
    texts = [*TEXTS, "space war space"]
    first, second = content_vectors(texts, 2, seed=0), content_vectors(texts, 2, seed=9)
    assert np.allclose(first, second, atol=1e-5)


def test_components_beyond_the_rank_are_zero() -> None:
    vectors = content_vectors(TEXTS, width=20)
    assert vectors.shape == (6, 20)
    assert np.isfinite(vectors).all()
    assert not vectors[:, 10:].any()


@pytest.mark.parametrize("texts", [[], ["", ""], ["the", "and"]])
def test_without_words_everything_is_zero(texts: list[str]) -> None:
    assert not content_vectors(texts, width=4).any()
    assert content_vectors(texts, width=4).shape == (len(texts), 4)


def test_a_negative_width_is_refused() -> None:
    with pytest.raises(ValueError, match="width of at least 0, got -1"):
        content_vectors(TEXTS, -1)


def test_vectors_of_any_modality_stand_beside_each_other_each_of_length_one() -> None:
    found = brought_content(["a", "b", "c"], {"text": {"a": [2.0]}, "image": {"b": [3.0, 4.0], "a": [0.0, 0.0]}})
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array([[0, 0, 1], [0.6, 0.8, 0], [0, 0, 0]]))
    assert brought_content(["a"], {}).shape == (1, 0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"a": [1.0], "b": [1.0, 2.0]}, "content image: expected vectors of one width, got 1 and 2; make all of them"),
        ({}, "content image: expected vectors of one width, got none"),
        ({"z": [1.0]}, "content image: expected items of the catalogue, got 1 others; add them or leave them out"),
        ({"a": [float("nan")]}, "content image: expected finite numbers, got NaN or infinity"),
    ],
)
def test_brought_vectors_that_are_no_content_are_refused(vectors: dict[str, list[float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        brought_content(["a", "b"], {"image": vectors})
