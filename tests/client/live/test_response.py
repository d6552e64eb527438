"""Response rate and coverage by model: known answers."""

from __future__ import annotations

import pandas as pd
import pytest

from silhouette_client.ingest.pushed import Shown
from silhouette_client.live.response import responses

DAY = 86_400
EVENTS = pd.DataFrame(
    [
        ("ann", "a", "purchase", 100),  # after it was shown, and before it was shown again
        ("ann", "b", "view", 10),  # before it was shown
        ("ann", "c", "view", 50 + 8 * DAY),  # too late
        ("ben", "a", "view", 60),
        ("cem", "a", "purchase", 70),  # to whom nothing was shown
    ],
    columns=["user", "item", "behaviour", "timestamp"],
)
SHOWN = [
    Shown("ann", "old", 50, ("a", "b", "c")),
    Shown("ann", "old", 200, ("a", "d")),
    Shown("ben", "old", 50, ("a", "b")),
    Shown("ben", "new", 61, ("a",)),
]


def test_an_item_counts_once_a_person_and_is_taken_by_an_event_within_the_window() -> None:
    new, old = responses(SHOWN, EVENTS, catalogue=["a", "b", "c", "d", "e", "f", "g", "h"])
    assert (old.model, old.answers, old.people, old.responded, old.offered, old.taken) == ("old", 3, 2, 2, 6, 2)
    assert old.rate == pytest.approx(2 / 6)
    assert (old.items, old.coverage) == (4, 0.5)
    assert (new.model, new.answers, new.taken, new.rate, new.coverage) == ("new", 1, 0, 0.0, 0.125)


def test_what_counts_as_taking_and_for_how_long_can_be_said() -> None:
    _, old = responses(SHOWN, EVENTS, behaviours=["purchase"])
    assert (old.taken, old.responded, old.coverage) == (1, 1, None)
    _, longer = responses(SHOWN, EVENTS, window_days=9)
    assert longer.taken == 3


def test_nothing_shown_gives_no_models() -> None:
    assert responses([], EVENTS) == []
