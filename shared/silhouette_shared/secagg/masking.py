"""Masks over the ring of integers modulo 2**32: AES-256 in counter mode, added and subtracted in place.

A mask is the key stream of one key from counter zero, read as little-endian words; a key serves one vector. Only one
chunk of it exists at a time, so masking takes the vector and a quarter of a megabyte, however many masks there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from silhouette_shared.errors import UsageError

Words = npt.NDArray[np.uint32]

WORD = np.dtype("<u4")
CHUNK_WORDS = 1 << 16
_ZEROS = bytes(4 * CHUNK_WORDS)


def add_masks(vector: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add the masks of some keys to a vector and subtract those of others, modulo 2**32, in place.

    All masks pass over a chunk of the vector while it is in the cache; only one chunk of mask exists.

    Args:
        vector: uint32, shape (D,), contiguous and writeable.
        plus: Keys of 32 bytes whose masks are added.
        minus: Keys of 32 bytes whose masks are subtracted.

    Raises:
        UsageError: If the vector has another form.
    """
    check_words(vector, vector.size)
    streams = [(_stream(key), True) for key in plus] + [(_stream(key), False) for key in minus]
    # OpenSSL may use the room of one more block behind the last.
    buffer = bytearray(4 * CHUNK_WORDS + 15)
    mask = np.frombuffer(buffer, WORD, CHUNK_WORDS)
    for start in range(0, vector.size, CHUNK_WORDS):
        piece = vector[start : start + CHUNK_WORDS]
        zeros = _ZEROS if piece.size == CHUNK_WORDS else _ZEROS[: 4 * piece.size]
        for stream, added in streams:
            stream.update_into(zeros, buffer)
            if added:
                np.add(piece, mask[: piece.size], out=piece)
            else:
                np.subtract(piece, mask[: piece.size], out=piece)


def vector_digest(vector: Words) -> bytes:
    """SHA-256 of the vector's words, little-endian: 32 bytes."""
    return hashlib.sha256(vector.data).digest()


def check_words(vector: object, size: int) -> Words:
    """Refuse what is not a uint32 vector of shape (size,), without copying it.

    Raises:
        UsageError: For another type, dtype, shape or memory layout.
    """
    if not isinstance(vector, np.ndarray):
        raise UsageError(f"expected an array of {size} uint32 words, got {type(vector).__name__}; encode it first")
    if vector.dtype != WORD or vector.shape != (size,) or not vector.flags.c_contiguous:
        raise UsageError(
            f"expected a contiguous array of uint32 words, shape ({size},), "
            f"got {vector.dtype}, shape {vector.shape}; encode it first"
        )
    return vector


def _stream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
