"""Content vectors of the catalogue, made once from public texts by the coordinator.

The vectors become part of the signed catalogue. They are made in one place because two machines
need not agree on the last bits of a decomposition.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd


def content_vectors(texts: Sequence[str], width: int, seed: int = 0) -> NDArray[np.float32]:
    """Describe every text by a vector of unit length.

    TF-IDF (sublinear term frequency, English stop words left out, a word must occur in two
    texts if there are enough of them), then a truncated singular value decomposition. The sign
    of every component is fixed so that its entry of largest magnitude is positive; the same
    texts give the same vectors on the same machine. A text without a known word gives zeros,
    and so do components beyond the rank of the texts. No texts, or no words at all, give zeros.

    Deerwester et al. 1990, latent semantic analysis.

    Args:
        texts: One public text per item, V of them; "" where there is none.
        width: Number of components, C.
        seed: Start of the randomised decomposition.

    Returns:
        Rows of length one or zero, shape (V, C), float32.

    Raises:
        ValueError: If `width` is negative.

    >>> content_vectors(["red boat", "red boat", ""], width=1).tolist()
    [[1.0], [1.0], [0.0]]
    """
    if width < 0:
        raise ValueError(f"expected a width of at least 0, got {width}")
    vectors = np.zeros((len(texts), width), dtype=np.float32)
    described = sum(1 for text in texts if text.strip())
    if width == 0 or described == 0:
        return vectors
    vectoriser = TfidfVectorizer(
        sublinear_tf=True,
        stop_words="english",
        # Names and other words of a single text cannot relate it to another one.
        min_df=2 if described > 1 else 1,
        token_pattern=r"(?u)\b\w[\w'-]+\b",
        dtype=np.float64,
    )
    try:
        weights = vectoriser.fit_transform(texts)
    except ValueError:  # no word is left: nothing to describe the items by
        return vectors
    rank = min(width, *weights.shape)
    left, scale, right = randomized_svd(weights, n_components=rank, n_iter=7, random_state=seed, flip_sign=False)
    peaks = right[np.arange(rank), np.abs(right).argmax(axis=1)]
    components = left * scale * np.where(peaks < 0, -1.0, 1.0)
    # Components that are rounding noise would otherwise be blown up to unit length.
    components[:, scale < scale.max() * 1e-10] = 0.0
    lengths = np.linalg.norm(components, axis=1, keepdims=True)
    np.divide(components, lengths, out=components, where=lengths > 1e-10)
    components[lengths[:, 0] <= 1e-10] = 0.0
    vectors[:, :rank] = components
    return vectors
