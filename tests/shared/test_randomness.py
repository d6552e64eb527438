"""Reproducible streams repeat and do not meet; the secure one does neither."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silhouette_shared.randomness import ReproducibleSource, SecureSource

names = st.lists(st.one_of(st.text(max_size=4), st.integers(-5, 5)), max_size=4).map(tuple)
Path = tuple[str | int, ...]


def first_words(source: ReproducibleSource) -> tuple[int, ...]:
    """Draw from both generators, enough for two streams never to agree by chance."""
    drawn = torch.randint(2**31, (4,), generator=source.torch_generator()).tolist()
    return (*drawn, *source.numpy_generator().integers(2**62, size=2).tolist())


@given(st.integers(0, 3), names, st.integers(0, 3), names)
def test_draws_are_equal_exactly_when_seed_and_path_are_equal(
    seed: int, path: Path, other_seed: int, other_path: Path
) -> None:
    one = ReproducibleSource(seed).child(*path)
    other = ReproducibleSource(other_seed).child(*other_path)
    # Python holds 1 == 1.0 and the like apart here: names are text or integers only.
    same = (seed, path) == (other_seed, other_path)
    assert (first_words(one) == first_words(other)) == same


@given(names, names)
def test_the_way_to_a_child_does_not_matter(path: Path, rest: Path) -> None:
    source = ReproducibleSource(1)
    assert source.child(*path).child(*rest) == source.child(*path, *rest)


def test_names_are_framed_so_that_joining_them_differently_gives_another_stream() -> None:
    source = ReproducibleSource(0)
    paths: list[Path] = [("a", "b"), ("ab",), ("ab", ""), ("", "ab"), (1,), ("1",), (11,), (1, 1)]
    assert len({first_words(source.child(*path)) for path in paths}) == len(paths)


def test_a_stream_is_the_one_its_definition_gives() -> None:
    """The derivation written out a second time: SHA-256 of framed parts, then SHAKE-256."""
    framed = b"silhouette reproducible source 1"
    framed += b"i" + (1).to_bytes(8, "big") + b"7"
    framed += b"s" + (9).to_bytes(8, "big") + b"partner-0"
    framed += b"i" + (1).to_bytes(8, "big") + b"3"
    key = hashlib.sha256(framed).digest()
    source = ReproducibleSource(7).child("partner-0", 3)

    entropy = int.from_bytes(hashlib.shake_256(key).digest(32), "little")
    expected = np.random.Generator(np.random.PCG64(entropy)).random(5)
    np.testing.assert_array_equal(source.numpy_generator().random(5), expected)


def test_the_torch_stream_is_the_mersenne_twister_with_all_624_words_of_the_key() -> None:
    """NumPy's own MT19937, given the same words, draws the same numbers."""
    source = ReproducibleSource(5).child("dropout")
    words = np.frombuffer(source._expand(4 * 624), dtype="<u4")
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    # A 64-bit draw takes two words and keeps the second as its low half.
    expected = twister.random_raw(4000)[1::2] % 2**31
    drawn = torch.randint(2**31, (2000,), generator=source.torch_generator())
    np.testing.assert_array_equal(drawn.numpy(), expected.astype(np.int64))


def test_streams_stay_apart_where_a_32_bit_seed_would_make_them_meet() -> None:
    """torch keeps 32 bits of `manual_seed`: the reason for filling the whole state."""
    low, high = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1 + 2**32)
    assert torch.equal(torch.rand(4, generator=low), torch.rand(4, generator=high))


def test_sibling_streams_are_uncorrelated_and_normal() -> None:
    source = ReproducibleSource(0)
    draws = torch.stack([torch.randn(20_000, generator=source.child("partner", n).torch_generator()) for n in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    assert correlation.abs().max() < 5 / 20_000**0.5
    assert (draws.mean(1).abs() < 5 / 20_000**0.5).all()
    assert (draws.std(1) - 1).abs().max() < 0.03


def test_a_generator_is_made_anew_each_time_and_shares_no_state() -> None:
    source = ReproducibleSource(3)
    first = source.torch_generator()
    torch.rand(100, generator=first)
    assert torch.equal(
        torch.rand(3, generator=source.torch_generator()),
        torch.rand(3, generator=source.torch_generator()),
    )


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - to see that it stays as it was
    first_words(ReproducibleSource(1).child("x"))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_equal(np.random.get_state(legacy=False), state)  # noqa: NPY002


@pytest.mark.parametrize("seed", [-1, 1.0, True, "1", None])
def test_a_seed_that_is_not_a_non_negative_integer_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="expected a non-negative integer as seed"):
        ReproducibleSource(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [1.5, None, True, b"x"])
def test_a_name_that_is_neither_text_nor_integer_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="expected text or an integer as name"):
        ReproducibleSource(1).child(name)  # type: ignore[arg-type]


def test_neither_source_can_be_taken_for_the_other() -> None:
    assert not issubclass(ReproducibleSource, SecureSource)
    assert not issubclass(SecureSource, ReproducibleSource)
    assert not hasattr(ReproducibleSource, "bytes")
    for drawing in ("child", "torch_generator", "numpy_generator"):
        assert not hasattr(SecureSource, drawing)


def test_a_secure_source_takes_no_seed() -> None:
    with pytest.raises(TypeError):
        SecureSource(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        SecureSource(seed=1)  # type: ignore[call-arg]


def test_two_secure_sources_never_agree_and_one_never_repeats() -> None:
    source = SecureSource()
    assert len({source.bytes(16), source.bytes(16), SecureSource().bytes(16)}) == 3


@given(st.lists(st.integers(0, 100), max_size=8))
def test_a_secure_source_gives_as_many_bytes_as_were_asked_for(counts: list[int]) -> None:
    source = SecureSource()
    assert [len(source.bytes(count)) for count in counts] == counts


def test_the_secure_stream_is_aes_256_in_counter_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """AES-256 of the zero block under the zero key: H of test case 13, McGrew and Viega, GCM."""
    monkeypatch.setattr("os.urandom", bytes)
    source = SecureSource()
    known = bytes.fromhex("dc95c078a2408989ad48a21492842087")
    # Cut in two: the stream goes on where the last draw ended.
    assert source.bytes(5) + source.bytes(11) == known


def test_what_is_written_into_memory_is_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", bytes)
    one, other = SecureSource(), SecureSource()
    place = np.full(3_000_000, 77, dtype=np.uint8)
    for count in (5, 0, 16, 2**19, 2**20 + 3):
        one.write(count, place)
        assert place[:count].tobytes() == other.bytes(count)
    assert place[-1] == 77
    with pytest.raises(ValueError, match="expected room for 100 bytes, zero or more, got 99"):
        one.write(100, place[:99])
    assert one.bytes(8) == other.bytes(8)


def test_the_key_of_a_secure_source_comes_from_the_operating_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    monkeypatch.setattr("os.urandom", urandom)
    SecureSource()
    assert asked == [32]


def test_secure_bytes_are_uniform() -> None:
    drawn = np.frombuffer(SecureSource().bytes(256_000), dtype=np.uint8)
    counts = np.bincount(drawn, minlength=256)
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    # 255 degrees of freedom, eight standard deviations either way: one run in 10**13 fails.
    assert abs(chi_squared - 255) < 8 * (2 * 255) ** 0.5


def test_a_negative_count_of_secure_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a count of zero or more, got -1"):
        SecureSource().bytes(-1)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_secure_source_cannot_be_copied(duplicate: object) -> None:
    assert callable(duplicate)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        duplicate(SecureSource())


def test_a_forked_child_does_not_repeat_its_parent() -> None:
    source = SecureSource()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, source.bytes(32))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 32) != source.bytes(32)
    os.close(reader)
    os.close(writer)
