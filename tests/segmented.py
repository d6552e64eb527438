"""People with profiles in two kinds, for tests of segments."""

from __future__ import annotations

import numpy as np

from silhouette_client.profiles.record import ProfileRecord, Trait
from silhouette_client.profiles.vault import Vault

NOW = 1_800_000_000
_DAY = 86_400


def person(number: int, model: str = "model-1") -> ProfileRecord:
    """Even numbers watch dramas and bought lately, odd ones comedies and have not been here for long."""
    draw = np.random.default_rng(number)
    drama = number % 2 == 0
    towards = np.array([3.0, 0.0, 1.0, 0.0] if drama else [0.0, 3.0, 0.0, 1.0])
    last = NOW - (2 if drama else 200) * _DAY - number * 60
    return ProfileRecord(
        model=model,
        vector=(towards + draw.normal(0, 0.3, 4)).astype(np.float32),
        weights={"browsing": 0.25 + number / 1000, "purchases": 0.75 - number / 1000},
        traits={"gender": Trait("F" if drama else "M", 0.6)},
        tags=("Drama", "War") if drama else ("Comedy",),
        facts={
            "events": float(10 + number),
            "count.view": float(5 + number),
            "count.purchase": float(1 + number % 7),
            "spent": float(10 * (1 + number % 7)),
            "first_event": float(NOW - 400 * _DAY),
            "last_event": float(last),
            "trait.breadth": 0.2 + (number % 10) / 20,
            "share.Drama": 0.8 if drama else 0.1,
            "share.War": 0.1 + (number % 5) / 100,
        },
        items=tuple(f"{'d' if drama else 'c'}{item}" for item in draw.choice(30, 8, replace=False)),
    )


def fill(vault: Vault, people: int = 120) -> None:
    """So many of them, named p0, p1, …"""
    vault.put_many(((f"p{number}", person(number)) for number in range(people)), "test", "build")
