"""What a node keeps of one segment, and its bytes. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from silhouette_shared.errors import IntegrityError, RefusedError, UsageError

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")

LEAST = 20
"""People of the smallest segment, unless a command says otherwise; k."""

LEAST_OF_ALL = 5
"""No command may go below."""

PERSON_BYTES = 32


class SmallSegmentError(RefusedError):
    """A segment below k would show single people. Exit code 3."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A named group of people.

    Args:
        name: Small letters, digits and `-`, at most 64.
        made_by: rule, preset, cluster or lookalike.
        rule: The rule's text; of the others what they were made from, in words.
        model: Which made the profiles that it was made from.
        created: UTC seconds.
        least: k: below it the segment is no more.
        centre: Mean of the members' unit vectors, (H,), float32; empty where there were none.
        members: HMACs, sorted.

    Raises:
        UsageError: If the name is none or k is below 5.
        SmallSegmentError: If there are fewer members than k.
    """

    name: str
    made_by: str
    rule: str
    model: str
    created: int
    least: int
    centre: npt.NDArray[np.float32]
    members: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Refuse what would show single people."""
        check_name(self.name)
        check_least(self.least)
        if len(self.members) < self.least:
            raise SmallSegmentError(
                f"expected a segment of at least {self.least} people, got fewer (how many is not said); widen it, or "
                f"ask for fewer with --least, never below {LEAST_OF_ALL}"
            )

    @property
    def size(self) -> int:
        """How many people."""
        return len(self.members)

    def without(self, people: Collection[bytes]) -> Segment | None:
        """The segment without some people; None if fewer than k are left. Its centre stays: a mean over many."""
        left = tuple(person for person in self.members if person not in people)
        return None if len(left) < self.least else replace(self, members=left)


def check_name(name: str) -> None:
    """Raise UsageError if it is no name of a segment."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"expected a name of small letters, digits and -, at most 64, got {name[:70]!r}; choose another"
        )


def check_least(least: int) -> None:
    """Raise UsageError if k is too small to hide a person."""
    if least < LEAST_OF_ALL:
        raise UsageError(f"expected at least {LEAST_OF_ALL} people as the smallest segment, got {least}; raise it")


def encode_segment(segment: Segment) -> bytes:
    """A line of JSON, then 32 bytes a member."""
    head = {
        "name": segment.name,
        "made_by": segment.made_by,
        "rule": segment.rule,
        "model": segment.model,
        "created": segment.created,
        "least": segment.least,
        "centre": segment.centre.astype("<f4").tobytes().hex(),
    }
    return json.dumps(head, sort_keys=True).encode("ascii") + b"\n" + b"".join(segment.members)


def decode_segment(content: bytes) -> Segment:
    """Undo `encode_segment`.

    Raises:
        IntegrityError: If these are not the bytes of a segment; they were authentic, so another version wrote them.
    """
    try:
        line, _, rest = content.partition(b"\n")
        head = json.loads(line)
        if len(rest) % PERSON_BYTES:
            raise ValueError("not whole people")
        return Segment(
            name=str(head["name"]),
            made_by=str(head["made_by"]),
            rule=str(head["rule"]),
            model=str(head["model"]),
            created=int(head["created"]),
            least=int(head["least"]),
            centre=np.frombuffer(bytes.fromhex(head["centre"]), "<f4").astype(np.float32),
            members=tuple(rest[place : place + PERSON_BYTES] for place in range(0, len(rest), PERSON_BYTES)),
        )
    except (ValueError, KeyError, TypeError, UsageError, RefusedError):
        raise IntegrityError(
            "expected the bytes of a segment, got others; another version wrote it: make the segment again"
        ) from None
