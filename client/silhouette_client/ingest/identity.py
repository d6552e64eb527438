"""A 64-bit name of a whole canonical row: two rows with equal columns are one record, in whatever file they come.

Among n rows the chance that two different ones share a name is n^2 / 2^65: 1 in 10 million for a million rows, 3 in
10,000 for a hundred million; what is lost then is one event. The names are stored, so the function must not change: a
test holds its values.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MISSING = np.uint64(0x5349_4C48_4F55_4554)


def identities(table: pa.Table) -> NDArray[np.uint64]:
    """The name of each row, from all columns in their order; shape (rows,).

    Args:
        table: With dictionary-encoded text, numbers and truth values, each column in one chunk.
    """
    result = np.zeros(table.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            result = _mixed(result * _STEP + _column(column))
    return result


def _column(column: pa.Array) -> NDArray[np.uint64]:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        hashes = pd.util.hash_array(column.dictionary.to_numpy(zero_copy_only=False).astype(object), categorize=False)
        places = column.indices.fill_null(len(hashes)).to_numpy(zero_copy_only=False)
        return np.asarray(np.append(hashes, _MISSING)[places], np.uint64)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(column.type):
        # Adding zero makes -0.0 and 0.0 one number.
        bits = (column.fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0).view(np.uint64)
    else:
        bits = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64)
    return np.where(missing, _MISSING, _mixed(bits))


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit depends on every other."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MULTIPLIERS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MULTIPLIERS[1]
    return bits ^ (bits >> np.uint64(31))
