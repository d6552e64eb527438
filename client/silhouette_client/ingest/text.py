"""What people write as vectors, by a public function of each text alone.

Words are hashed into columns with a sign (Weinberger et al. 2009, https://arxiv.org/abs/0902.2206). Nothing is fitted:
weights learnt from all texts would put other people's words into a person's example.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer


def text_vectors(texts: Sequence[str | None], width: int) -> NDArray[np.float32]:
    """A vector of length one for every text with a word, zeros for every other.

    Args:
        texts: One an event, None where nothing was written.
        width: Columns, X, at least 1.

    Returns:
        Shape (E, X), float32.

    Raises:
        ValueError: If `width` is below 1.

    >>> text_vectors(["Fine boat", None], width=8).any(axis=1).tolist()
    [True, False]
    """
    if width < 1:
        raise ValueError(f"expected a width of at least 1, got {width}")
    vectors = np.zeros((len(texts), width), dtype=np.float32)
    written = [row for row, text in enumerate(texts) if text]
    if written:
        hashing = HashingVectorizer(n_features=width, dtype=np.float32)
        vectors[written] = hashing.transform([texts[row] for row in written]).toarray()
    return vectors
