"""Masks are AES-256-CTR, cancel exactly, and leave nothing behind that a biased generator would."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from tests.shared.secagg.house import House, RepeatableBytes, Wire

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import Layout, Section
from silhouette_shared.secagg.masking import CHUNK_WORDS, add_masks, check_words, vector_digest

Words = npt.NDArray[np.uint32]


def test_a_mask_is_the_key_stream_of_aes_256_from_counter_zero() -> None:
    """AES-256 of the blocks 0, 1 under the zero key: test cases 13 and 14 of GCM give the first."""
    vector = np.zeros(4, np.uint32)
    add_masks(vector, [bytes(32)], [])
    assert vector.tobytes().hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize("size", [1, 3, CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1, 3 * CHUNK_WORDS + 5])
def test_chunks_join_to_one_key_stream(size: int) -> None:
    key = RepeatableBytes(size).bytes(32)
    vector = np.zeros(size, np.uint32)
    add_masks(vector, [key], [])
    whole = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * size))
    assert vector.tobytes() == whole
    add_masks(vector, [], [key])
    assert not vector.any()


@given(st.lists(st.booleans(), max_size=6), st.integers(0, 20))
def test_masks_that_are_added_and_subtracted_cancel(signs: list[bool], size: int) -> None:
    source = RepeatableBytes(tuple(signs), size)
    before = np.frombuffer(source.bytes(4 * size), np.uint32).copy()
    vector = before.copy()
    plus = [source.bytes(32) for sign in signs if sign]
    minus = [source.bytes(32) for sign in signs if not sign]
    add_masks(vector, plus, minus)
    if signs and size > 4:
        assert (vector != before).any()
    add_masks(vector, minus, plus)
    np.testing.assert_array_equal(vector, before)


def test_masking_allocates_one_chunk_however_many_masks_there_are() -> None:
    vector = np.zeros(8 * CHUNK_WORDS, np.uint32)
    keys = [RepeatableBytes(n).bytes(32) for n in range(50)]
    add_masks(vector, keys[:1], [])
    tracemalloc.start()
    add_masks(vector, keys, keys[:25])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * CHUNK_WORDS + 100_000


def test_the_coordinators_sum_takes_no_more_memory_for_more_partners() -> None:
    """From the first vector to the sum, beside the vector that is being added: one sum, whoever many there are."""
    peaks = {}
    size = 200_000
    layout = Layout((Section("update", size, -5, 5),))
    for count in (3, 12):
        house, wire = House(count, layout=layout), Wire()
        zeros = {name: {"update": np.zeros(size, np.int64)} for name in house.names}
        tracked: list[int] = []

        def watch(sender: str, words: Words, tracked: list[int] = tracked) -> Words:
            if not tracked:
                tracemalloc.reset_peak()
                tracked.append(tracemalloc.get_traced_memory()[0])
            return words

        wire.change_words = watch
        tracemalloc.start()
        outcome = house.round(wire=wire, values=zeros)
        peaks[count] = tracemalloc.get_traced_memory()[1] - tracked[0]
        tracemalloc.stop()
        assert not outcome.total.any()
    # The sum itself and its decoded form, 4 and 8 bytes a word.
    assert peaks[3] < 14 * size
    assert peaks[12] < peaks[3] + 2 * size


def chi_squared(words: Words) -> float:
    """Of the 256 byte values: 255 expected, with a standard deviation of 22.6."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = words.size * 4 / 256
    return float(((counts - expected) ** 2 / expected).sum())


def correlations(words: Words) -> float:
    """The largest correlation of a bit with its successor and with the word after, in standard deviations."""
    bits = np.unpackbits(words.view(np.uint8)).astype(np.float64) * 2 - 1
    return float(max(abs(float((bits[lag:] * bits[:-lag]).sum())) / (bits.size - lag) ** 0.5 for lag in (1, 8, 32, 64)))


def uniform(words: Words) -> bool:
    """Whether words pass as uniform: a fair generator fails once in ten billion."""
    monobit = abs(int(np.unpackbits(words.view(np.uint8)).sum()) - 16 * words.size) / (8 * words.size) ** 0.5
    return abs(chi_squared(words) - 255) < 7 * 22.6 and monobit < 6.5 and correlations(words) < 6.5


def masked_zeros(count: int = 1 << 18) -> Words:
    layout = Layout((Section("update", count, -5, 5),))
    house, wire = House(3, layout=layout), Wire()
    zeros = {name: {"update": np.zeros(count, np.int64)} for name in house.names}
    house.round(wire=wire, values=zeros)
    assert not house.outcomes[0].total.any()
    return wire.words["partner-01"]


def biased_bytes(words: Words) -> Words:
    """A generator that never gives one of the 256 byte values."""
    found = words.view(np.uint8).copy()
    found[found == 17] = 18
    return found.view(np.uint32)


def modulo(words: Words) -> Words:
    """Flower's mask is drawn below 2**32 - 1 of a modulus of 2**32; here a modulus of 2**32 - 2**24."""
    return words % np.uint32(2**32 - 2**24)


def clear_bit(words: Words) -> Words:
    """One bit of each word is zero one time in sixteen too often."""
    found = words.copy()
    found[::16] &= np.uint32(0xFFFFFFFE)
    return found


def repeated(words: Words) -> Words:
    """Every second word is the one before."""
    return np.repeat(words[::2], 2)


def short_period(words: Words) -> Words:
    """A seed of few bits: blocks come again."""
    return np.tile(words[:64], words.size // 64)


@pytest.mark.parametrize(
    "bias", [biased_bytes, modulo, clear_bit, repeated, short_period], ids=lambda bias: bias.__name__
)
def test_a_biased_generator_fails_the_test_for_uniformity(bias: Callable[[Words], Words]) -> None:
    drawn = np.frombuffer(RepeatableBytes("fair").bytes(4 << 18), np.uint32)
    assert uniform(drawn)
    assert not uniform(bias(drawn))


def test_masked_zeros_are_uniform() -> None:
    assert uniform(masked_zeros())


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [1, 2, 3],
        np.zeros(3),
        np.full(3, np.nan, np.float32),
        np.zeros(3, np.int32),
        np.zeros(4, np.uint32),
        np.zeros((3, 1), np.uint32),
        np.zeros(6, np.uint32)[::2],
        np.zeros(3, ">u4"),
        np.array([None] * 3),
        np.broadcast_to(np.uint32(1), (1 << 29,)),
    ],
    ids=lambda wrong: f"{type(wrong).__name__} {getattr(wrong, 'dtype', '')} {getattr(wrong, 'shape', '')}",
)
def test_what_is_no_vector_of_words_is_refused_without_a_copy(wrong: Any) -> None:
    tracemalloc.start()
    with pytest.raises(UsageError, match="uint32 words"):
        check_words(wrong, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


def test_a_digest_is_of_the_words_and_their_number() -> None:
    assert len({vector_digest(np.zeros(n, np.uint32)) for n in range(4)}) == 4
    assert vector_digest(np.array([1, 2], np.uint32)) != vector_digest(np.array([2, 1], np.uint32))
