"""Content vectors of the catalogue, made once from public texts by the coordinator or brought by its publisher.

The vectors become part of the signed catalogue. They are made in one place because two machines
need not agree on the last bits of a decomposition.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from silhouette_shared.errors import UsageError


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


def brought_content(
    items: Sequence[str], modalities: Mapping[str, Mapping[str, Sequence[float]]]
) -> NDArray[np.float32]:
    """Content from vectors that the publisher brings for any modality: text, image, audio or another.

    Each modality's vectors get length one, so that none outweighs another by its units, and stand beside each other in
    the order of the modalities' names. An item without a vector has zeros there.

    Args:
        items: Ids of the catalogue, V of them.
        modalities: By name, the vector of each item that has one.

    Returns:
        Shape (V, C), C the widths of all modalities together, float32.

    Raises:
        UsageError: If a modality has no vectors, vectors of several widths, a number that is not finite, or an item
            that is not in the catalogue.

    >>> brought_content(["a", "b"], {"image": {"b": [3.0, 4.0]}}).round(1).tolist()
    [[0.0, 0.0], [0.6000000238418579, 0.800000011920929]]
    """
    row_of = {item: row for row, item in enumerate(items)}
    parts = [np.zeros((len(items), 0), dtype=np.float32)]
    for name, vectors in sorted(modalities.items()):
        widths = sorted({len(vector) for vector in vectors.values()})
        if len(widths) != 1 or widths == [0]:
            raise UsageError(
                f"content {name}: expected vectors of one width, got "
                f"{' and '.join(map(str, widths)) if widths else 'none'}; make all of them with the same model"
            )
        if unknown := sum(item not in row_of for item in vectors):
            raise UsageError(
                f"content {name}: expected items of the catalogue, got {unknown} others; add them or leave them out"
            )
        values = np.asarray(list(vectors.values()), dtype=np.float64)
        if not np.isfinite(values).all():
            raise UsageError(f"content {name}: expected finite numbers, got NaN or infinity; make the vectors again")
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        part = np.zeros((len(items), widths[0]), dtype=np.float32)
        part[[row_of[item] for item in vectors]] = values / np.where(lengths > 0, lengths, 1.0)
        parts.append(part)
    return np.concatenate(parts, axis=1)
