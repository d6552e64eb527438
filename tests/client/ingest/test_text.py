"""A text's vector is a function of that text alone."""

from __future__ import annotations

import numpy as np
import pytest

from silhouette_client.ingest.text import text_vectors


def test_a_vector_depends_on_its_own_text_alone_and_has_length_one() -> None:
    together = text_vectors(["a fine boat", None, "", "dull and slow", "a fine boat"], 16)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1).tolist() == pytest.approx([1, 0, 0, 1, 1])
    assert (together[0] == together[4]).all()
    assert (text_vectors(["dull and slow"], 16)[0] == together[3]).all()
    assert not (together[0] == together[3]).all()


def test_a_text_without_a_word_is_nothing_and_no_column_is_refused() -> None:
    assert not text_vectors(["!!!"], 4).any()
    assert text_vectors([], 4).shape == (0, 4)
    with pytest.raises(ValueError, match="expected a width of at least 1, got 0"):
        text_vectors(["a"], 0)
