"""Records that are not as expected, each with its stated answer: taken, or refused whole with a count and no content.

Content vectors of several widths: `tests/server/test_content.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tests.people import encoder, generator, histories, vocabulary

from silhouette_client.ingest.packing import pack
from silhouette_client.profiles.build import build_profiles
from silhouette_client.profiles.continuation import continue_histories
from silhouette_client.profiles.explain import explain_profile
from silhouette_client.profiles.traits import trait_scores
from silhouette_client.profiles.update import NewEvents, with_events
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import person_losses


def vocabulary_without_attributes() -> Vocabulary:
    """For people who declare nothing."""
    return replace(vocabulary(), attributes=())


ITEMS = {f"i{number}": number for number in range(1, 21)}


def events(items: list[str], behaviours: list[str]) -> pd.DataFrame:
    count = len(items)
    return pd.DataFrame(
        {
            "user": ["secret-name"] * count,
            "item": items,
            "behaviour": behaviours,
            "timestamp": np.arange(count),
            "value": np.full(count, np.nan),
            "text": [None] * count,
        }
    )


def packed(frame: pd.DataFrame) -> Histories:
    users = pd.DataFrame({"user": ["secret-name"]})
    return pack(frame, users, items=ITEMS, attributes={}, has_times=True)


@pytest.mark.parametrize(
    ("items", "behaviours", "expected"),
    [
        (["i1", "secret-item", "i2"], ["view"] * 3, "expected items of the catalogue, got 1 events of others"),
        (["i1", "i2"], ["view", "secret-deed"], "expected behaviours out of view, click"),
    ],
)
def test_an_unknown_item_or_behaviour_is_refused_and_not_named(
    items: list[str], behaviours: list[str], expected: str
) -> None:
    with pytest.raises(UsageError, match=expected) as refused:
        packed(events(items, behaviours))
    assert "secret" not in str(refused.value)


def test_a_time_in_the_future_is_refused_with_the_count_and_nothing_changes() -> None:
    own = histories()
    before = own.items.clone()
    now = int(own.timestamps.max())
    times = torch.tensor([now, now + 10 * 86_400])
    both, nothing = torch.tensor([1, 2]), torch.tensor([0, 0])
    new = NewEvents(people=nothing, items=both, behaviours=both, values=nothing, timestamps=times)
    with pytest.raises(UsageError, match="expected times up to now, got 1 events more than a day ahead"):
        with_events(own, new, items=20, now=now)
    assert torch.equal(own.items, before)


def test_a_person_with_one_event_has_a_profile_a_continuation_and_no_loss() -> None:
    model, one = encoder(scale=5.0), histories([1])
    (profile,) = build_profiles(model, one)
    assert profile.vectors.isfinite().all()
    assert profile.recommended.shape == (1, 10)
    assert continue_histories(model, one, 3).shape == (1, 3)
    assert all(event.change is None for event in explain_profile(model, one, 0).events)
    batch = one.training_batch(torch.tensor([0]), 8, None)
    loss = person_losses(model, batch, attribute_weight=0.0, attribute_masking=0.0, generator=generator("loss"))
    assert float(loss.detach()[0]) == 0.0


def test_a_million_events_of_one_person_are_taken_and_the_latest_are_read() -> None:
    count = 1_000_000
    frame = events([f"i{1 + place % 5}" for place in range(1000)] * 1000, ["view"] * count)
    made = packed(frame)
    model = encoder(vocabulary_without_attributes(), scale=5.0)
    (profile,) = build_profiles(model, made)
    # With the event before the first one read, which says how long the first gap is.
    latest = made.of_events(torch.arange(count - model.history_length - 1, count), torch.tensor([0]), torch.tensor([9]))
    (short,) = build_profiles(model, latest)
    assert made.lengths.tolist() == [count]
    assert torch.equal(profile.vectors, short.vectors)
    assert trait_scores(made, torch.zeros(21, 0)).shape == (1, 9)
