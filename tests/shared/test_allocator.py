"""Asking for memory to be kept is safe everywhere and says whether it worked."""

from __future__ import annotations

import ctypes
import sys

import pytest

from silhouette_shared.allocator import keep_freed_memory


class Library:
    """A C library that notes what is set."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.calls: list[tuple[int, int]] = []

    def mallopt(self, which: int, value: int) -> int:
        self.calls.append((which, value))
        return self.answer


def test_on_glibc_both_thresholds_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(1)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert keep_freed_memory() is True
    assert sorted(library.calls) == [(-3, 2**30), (-1, 2**30)]  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h


def test_a_library_that_refuses_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(0))
    assert keep_freed_memory() is False


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_where_there_is_no_glibc_nothing_happens(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise error(name)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False


def test_on_other_systems_no_library_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("opened a library"))
    assert keep_freed_memory() is False
