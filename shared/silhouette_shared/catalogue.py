"""The public list of items that all partners share.

Two sites that hold catalogues with the same digest number every item alike, describe it with the
same words and vectors, and may therefore add up updates of an item table row by row.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Public items in a fixed order, with what is publicly known of each.

    Item number 0 is padding; the item at position `p` of `items` has number `p + 1`.

    Attributes:
        items: Item ids in the publisher's order (numeric where ids are numbers), V of them.
        titles: A title per item, V of them, "" where none is known.
        categories: Names of the categories, sorted, G of them.
        category_matrix: 1.0 where an item belongs to a category, shape (V, G), float32.
        texts: The public text that describes an item, V of them, "" where there is none.
        content: Public content vectors, shape (V, C), float32; C may be 0.

    Raises:
        ValueError: If the parts do not have matching shapes, an id is empty or occurs twice,
            the categories are not sorted, or a number is not finite.

    >>> shelf = Catalogue(
    ...     items=("7",),
    ...     titles=("Heat",),
    ...     categories=("Crime",),
    ...     category_matrix=np.ones((1, 1), np.float32),
    ...     texts=("",),
    ...     content=np.zeros((1, 0), np.float32),
    ... )
    >>> shelf.index["7"]
    1
    """

    items: tuple[str, ...]
    titles: tuple[str, ...]
    categories: tuple[str, ...]
    category_matrix: NDArray[np.float32]
    texts: tuple[str, ...]
    content: NDArray[np.float32]
    index: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the shapes and number the items."""
        count = len(self.items)
        for name, values in (("titles", self.titles), ("texts", self.texts)):
            if len(values) != count:
                raise ValueError(f"expected {count} {name}, one per item, got {len(values)}")
        if tuple(sorted(set(self.categories))) != self.categories:
            raise ValueError("expected sorted categories without repeats")
        matrix, content = self.category_matrix, self.content
        if matrix.shape != (count, len(self.categories)) or matrix.dtype != np.float32:
            raise ValueError(
                f"expected a float32 category matrix of shape ({count}, {len(self.categories)}), "
                f"got {matrix.dtype} {matrix.shape}"
            )
        if content.ndim != 2 or len(content) != count or content.dtype != np.float32:
            raise ValueError(f"expected float32 content of shape ({count}, C), got {content.dtype} {content.shape}")
        if not (np.isin(matrix, (0.0, 1.0)).all() and np.isfinite(content).all()):
            raise ValueError("expected a category matrix of zeros and ones and finite content")
        index = {item: number for number, item in enumerate(self.items, start=1)}
        if len(index) != count or "" in index:
            raise ValueError(f"expected {count} distinct, non-empty item ids, got {len(index)}")
        object.__setattr__(self, "index", MappingProxyType(index))

    def __len__(self) -> int:
        """Return the number of items, V."""
        return len(self.items)

    def digest(self) -> str:
        """Return the SHA-256 over every part, as 64 hexadecimal digits.

        Every string and every array is preceded by its length, so that two different catalogues
        never hash the same bytes; floats are hashed as little-endian float32, on any machine.
        """
        hasher = hashlib.sha256(b"silhouette.catalogue.v1")
        for words in (self.items, self.titles, self.categories, self.texts):
            _hash_strings(hasher, words)
        for array in (self.category_matrix, self.content):
            hasher.update(np.asarray(array.shape, dtype="<u8").tobytes())
            # Adding zero turns -0.0 into 0.0: equal catalogues must have equal digests.
            hasher.update(np.ascontiguousarray(array + np.float32(0), dtype="<f4").tobytes())
        return hasher.hexdigest()


def _hash_strings(hasher: "hashlib._Hash", words: Iterable[str]) -> None:
    encoded = [word.encode() for word in words]
    hasher.update(np.asarray([len(encoded)], dtype="<u8").tobytes())
    hasher.update(np.asarray([len(word) for word in encoded], dtype="<u8").tobytes())
    hasher.update(b"".join(encoded))
