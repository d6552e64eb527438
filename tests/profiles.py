"""Profiles, keys and stores for tests."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from silhouette_client.profiles.keys import Keyring
from silhouette_client.profiles.record import Evidence, ProfileRecord, RecentEvent, Recommended, TagEvidence, Trait
from silhouette_client.profiles.store import ProfileStore

KEYRING = Keyring(
    store=bytes(range(16)),
    active=1,
    wrapping={1: b"k" * 32},
    person=b"p" * 32,
    audit=b"a" * 32,
)


def profile(number: int = 0, model: str = "model-1", width: int = 8) -> ProfileRecord:
    """A whole profile whose every value tells `number`."""
    return ProfileRecord(
        model=model,
        vector=np.arange(width, dtype=np.float32) + number,
        weights={"browsing": 0.75, "rhythm": 0.25},
        traits={"gender": Trait("F", 0.5 + 1 / (4 + number))},
        tags=("Drama", f"Tag {number}"),
        recommendations=tuple(
            Recommended(f"item-{number}-{place}", f"Title {place}", 1.0 - place / 10) for place in range(10)
        ),
        facts={"events": 5.0 + number, "count.purchase": 2.0, "trait.breadth": 0.5},
        evidence=Evidence(
            tags=(TagEvidence("Drama", 0.5, 0.25, 0.9, (f"Seen {number}",)),),
            events=(RecentEvent(f"Seen {number}", "view", 1_700_000_000, 1.0),),
        ),
        user=f"user {number}",
        items=(f"item-{number}", "item-x"),
        tastes=np.linspace(-1, 1, 6, dtype=np.float32) * number,
    )


class Clock:
    """Seconds since 1970 that a test moves."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def store_at(path: Path, keyring: Keyring = KEYRING, clock: Clock | None = None) -> ProfileStore:
    return ProfileStore.open(path, keyring, clock=clock or Clock())


def same(one: ProfileRecord | None, other: ProfileRecord | None) -> bool:
    """Whether two records hold the same; vectors bit by bit."""
    if one is None or other is None:
        return one is other
    vectors = [[None if v is None else v.tobytes() for v in (r.vector, r.tastes)] for r in (one, other)]
    return vectors[0] == vectors[1] and all(
        getattr(one, name) == getattr(other, name)
        for name in ("model", "weights", "traits", "tags", "recommendations", "facts", "evidence", "items")
    )


def rows(path: Path, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
    """What a statement finds in the file itself, past the store."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement, arguments).fetchall()
    finally:
        connection.close()


def change(path: Path, statement: str, *arguments: object) -> None:
    """Do to the file itself what the store would not."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(statement, arguments)
    finally:
        connection.close()
