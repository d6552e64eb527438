"""Signed integers as words modulo 2**32, in named sections with agreed bounds.

Everything a partner contributes, the update as well as counts, losses and metric sums, is one vector of words, so
nothing of it travels in clear. Each section states how far one person can move one coordinate, how many people a
partner has at most and how far its noise may reach. From that follows what a partner may encode and what the sum of
some partners can be. A value outside is refused and a sum outside voids the round: neither is ever clamped, because
a clamp after the noise would depend on the data, and one on the sum would hide that somebody broke the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.aborts import ImpossibleSumError, Step
from silhouette_shared.secagg.framing import PARTNER_LIMIT, Integer, Number, Real, Record, Text, encode_record, wire
from silhouette_shared.secagg.keys import digest
from silhouette_shared.secagg.masking import CHUNK_WORDS, WORD, Words, check_words

Integers = npt.NDArray[np.int64]

RING_BITS = 32
SECTION_LIMIT = 64
WORD_LIMIT = 1 << 28
"""No vector is longer, in words: a gigabyte."""

_HALF = 1 << (RING_BITS - 1)


@dataclass(frozen=True)
class Section(Record):
    """A stretch of the vector and what can be in it.

    Args:
        name: What it holds, unique in its layout.
        size: Coordinates.
        low: Least that one person adds to one coordinate, in steps of the grid; zero or negative.
        high: Most that one person adds to one coordinate, in steps of the grid; zero or positive.
        people: Most people that one partner counts, a public bound.
        slack: How far a partner's noise on one coordinate may reach, in steps; 0 without noise. Chosen so that noise
            goes beyond it with a probability that nobody will meet, since going beyond it is refused.
        scale: What one step of the grid is worth.

    Raises:
        UsageError: If a bound has the wrong sign or one partner alone could leave the ring.
    """

    name: str = wire(Text())
    size: int = wire(Number())
    low: int = wire(Integer())
    high: int = wire(Integer())
    people: int = wire(Number(), default=1)
    slack: int = wire(Number(), default=0)
    scale: float = wire(Real(), default=1.0)

    def __post_init__(self) -> None:
        """Refuse what no sum could be checked against."""
        if not 0 < self.size <= WORD_LIMIT:
            raise UsageError(f"section {self.name}: expected a size from 1 to {WORD_LIMIT}, got {self.size}; change it")
        if not self.low <= 0 <= self.high:
            raise UsageError(
                f"section {self.name}: expected a range around zero, got {self.low} to {self.high}; change it"
            )
        if self.people < 1 or self.slack < 0:
            raise UsageError(
                f"section {self.name}: expected people of at least 1 and slack of at least 0, "
                f"got {self.people} and {self.slack}; change them"
            )
        self.possible(1)

    def possible(self, partners: int) -> tuple[int, int]:
        """The least and the most that so many partners can add up to at one coordinate.

        Raises:
            UsageError: If that leaves the ring of 2**32, so that a sum could wrap unseen.
        """
        low = partners * (self.people * self.low - self.slack)
        high = partners * (self.people * self.high + self.slack)
        if low < -_HALF or high >= _HALF:
            raise UsageError(
                f"section {self.name}: expected sums of {partners} partners inside 32 bits with a sign, "
                f"they reach from {low} to {high}; take a coarser grid or a lower bound"
            )
        return low, high


@dataclass(frozen=True)
class Encoded:
    """What `Layout.encode` made: the only thing that is ever masked."""

    layout: Layout
    words: Words  # (layout.size,)


@dataclass(frozen=True)
class Layout:
    """The sections of a vector, in their order.

    Args:
        sections: At least one, with different names.

    Raises:
        UsageError: If there are none, too many, two of a name, or more than a gigabyte of words.

    >>> layout = Layout((Section("update", 3, -100, 100), Section("hits", 1, 0, 1, people=50)))
    >>> encoded = layout.encode({"update": np.array([1, -2, 3]), "hits": np.array([7])})
    >>> encoded.words
    array([         1, 4294967294,          3,          7], dtype=uint32)
    >>> layout.decode(encoded.words, partners=1)["update"]
    array([ 1, -2,  3])
    """

    sections: tuple[Section, ...]

    def __post_init__(self) -> None:
        """Refuse what could not be told apart or could not be held."""
        names = [section.name for section in self.sections]
        if not 1 <= len(names) <= SECTION_LIMIT or len(set(names)) != len(names):
            raise UsageError(
                f"expected 1 to {SECTION_LIMIT} sections with different names, got {len(names)}; change the layout"
            )
        if self.size > WORD_LIMIT:
            raise UsageError(f"expected at most {WORD_LIMIT} words, got {self.size}; cut the round in two")

    @property
    def size(self) -> int:
        """Words of the whole vector."""
        return sum(section.size for section in self.sections)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the sections, 32 bytes."""
        return digest(b"layout", *(encode_record(section) for section in self.sections))

    def check_ring(self, partners: int) -> None:
        """Refuse a layout in which the sum of so many partners could wrap.

        Raises:
            UsageError: As `Section.possible`.
        """
        if not 1 <= partners <= PARTNER_LIMIT:
            raise UsageError(f"expected 1 to {PARTNER_LIMIT} partners, got {partners}; change the roster")
        for section in self.sections:
            section.possible(partners)

    def encode(self, values: Mapping[str, npt.NDArray[np.integer]]) -> Encoded:
        """One partner's integers as words modulo 2**32.

        Args:
            values: For every section an integer array of shape (size,).

        Raises:
            UsageError: For a missing or unknown section, a dtype that is not integer, another shape, or a value that
                one partner cannot have. Nothing is clamped, and the message names no value.
        """
        if set(values) != {section.name for section in self.sections}:
            raise UsageError(
                f"expected the sections {[section.name for section in self.sections]}, got {sorted(values)}; give all"
            )
        words = np.empty(self.size, WORD)
        start = 0
        for section in self.sections:
            part = values[section.name]
            if not isinstance(part, np.ndarray) or part.dtype.kind not in "iu" or part.shape != (section.size,):
                got = f"{part.dtype}, shape {part.shape}" if isinstance(part, np.ndarray) else type(part).__name__
                raise UsageError(
                    f"section {section.name}: expected integers of shape ({section.size},), got {got}; "
                    "round to the grid first"
                )
            low, high = section.possible(1)
            # In pieces that stay in the cache: the vector is read once and not three times.
            for at in range(0, section.size, CHUNK_WORDS):
                piece = part[at : at + CHUNK_WORDS]
                if int(piece.min()) < low or int(piece.max()) > high:
                    raise UsageError(
                        f"section {section.name}: expected values from {low} to {high}, got others; "
                        "nothing is clamped: bound each person before adding up"
                    )
                # Casting between integers keeps the low 32 bits, which is the ring's representative.
                words[start + at : start + at + piece.size] = piece.astype(WORD, casting="unsafe")
            start += section.size
        return Encoded(self, words)

    def decode(self, words: Words, partners: int) -> dict[str, Integers]:
        """The sums of some partners, section by section, as int64.

        Args:
            words: The sum modulo 2**32, uint32, shape (size,).
            partners: How many contributed.

        Raises:
            UsageError: If the words have another form.
            ImpossibleSumError: If a sum is outside what so many partners can add up to; it names the section.
        """
        check_words(words, self.size)
        self.check_ring(partners)
        sums: dict[str, Integers] = {}
        start = 0
        for section in self.sections:
            # Read as signed: sums stay inside half the ring, as `possible` has checked.
            part = words[start : start + section.size].view(np.int32)
            low, high = section.possible(partners)
            if int(part.min()) < low or int(part.max()) > high:
                raise ImpossibleSumError(
                    Step.UNMASK,
                    f"section {section.name}: expected sums of {partners} partners from {low} to {high}, got others; "
                    "somebody sent what was not agreed, nothing of this sum may be used",
                )
            sums[section.name] = part.astype(np.int64)
            start += section.size
        return sums
