"""Where the partners' ledgers stand, as their round messages say it: 40 bytes a ledger.

A ledger that fits together may still be an older copy. Every partner signs with its keys how far its own ledger has
come, and at the start of a round of five steps also how far it has seen the others' come. Who goes back is noticed by
everybody else, and told so itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from silhouette_shared.errors import UsageError

_NUMBER_BYTES = 8
_HASH_BYTES = 32
STANDING_BYTES = _NUMBER_BYTES + _HASH_BYTES


@dataclass(frozen=True)
class Standing:
    """The newest entry of a ledger.

    Args:
        entries: Its number, from 1; 0 where there is no ledger.
        head: Its hash, 32 bytes; zeros where there is no ledger.

    Raises:
        UsageError: If either cannot be one.

    >>> Standing.decode(Standing(3, bytes(range(32))).encode()).entries
    3
    """

    entries: int
    head: bytes

    def __post_init__(self) -> None:
        """Refuse what could not be written."""
        if not 0 <= self.entries < 1 << 64 or len(self.head) != _HASH_BYTES:
            raise UsageError(
                f"expected the number of an entry and its hash of {_HASH_BYTES} bytes, got {self.entries} and "
                f"{len(self.head)} bytes; take both from the ledger"
            )

    def encode(self) -> bytes:
        """Number and hash, 40 bytes."""
        return self.entries.to_bytes(_NUMBER_BYTES, "big") + self.head

    @classmethod
    def decode(cls, data: bytes) -> Standing:
        """What `encode` wrote."""
        return cls(int.from_bytes(data[:_NUMBER_BYTES], "big"), data[_NUMBER_BYTES:])


NOWHERE = Standing(0, bytes(_HASH_BYTES))
"""No ledger, or never seen."""


def encode_seen(names: Sequence[str], seen: Mapping[str, Standing]) -> bytes:
    """What somebody has seen of everybody on the roster, in its order; nothing at all if that is nothing."""
    known = [seen.get(name, NOWHERE) for name in names]
    return b"" if all(one == NOWHERE for one in known) else b"".join(one.encode() for one in known)


def seen_of(names: Sequence[str], data: bytes, name: str) -> Standing:
    """What `encode_seen` wrote of one of them; `NOWHERE` if it was never seen."""
    at = STANDING_BYTES * names.index(name)
    return Standing.decode(data[at : at + STANDING_BYTES]) if data else NOWHERE


def decode_seen(names: Sequence[str], data: bytes) -> dict[str, Standing]:
    """What `encode_seen` wrote, without whom was never seen.

    Raises:
        UsageError: If it is not one standing for each name.
    """
    if data and len(data) != STANDING_BYTES * len(names):
        raise UsageError(
            f"expected {STANDING_BYTES} bytes for each of {len(names)} partners, got {len(data)}; refuse the sender"
        )
    parts = [data[at : at + STANDING_BYTES] for at in range(0, len(data), STANDING_BYTES)]
    found = {name: Standing.decode(part) for name, part in zip(names, parts, strict=False)}
    return {name: standing for name, standing in found.items() if standing != NOWHERE}
