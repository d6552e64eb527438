"""Packing keeps every event of the right person in an order that nothing but time and the table decides."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silhouette_client.ingest.packing import pack
from silhouette_shared.errors import UsageError
from silhouette_shared.model.histories import Histories, value_buckets
from silhouette_shared.schema import BEHAVIOURS

ITEMS = {"apple": 1, "bread": 2, "cheese": 3}
ATTRIBUTES = {"gender": ("F", "M"), "age": ("young", "old")}
USERS = pd.DataFrame({"user": ["u2", "u1"], "gender": ["M", None], "age": ["old", "young"]})
EVENTS = pd.DataFrame(
    {
        "user": ["u1", "u2", "u1", "u9", "u2", "u1"],
        "item": ["bread", "apple", "apple", "apple", "cheese", "cheese"],
        "behaviour": ["view", "rate", "purchase", "view", "view", "click"],
        "timestamp": [50, 7, 20, 1, 7, 20],
        "value": [float("nan"), 4.0, 1.0, 2.0, float("nan"), 5.0],
    }
)


def packed(events: pd.DataFrame = EVENTS, users: pd.DataFrame = USERS, **changes: Any) -> Histories:
    settings: dict[str, Any] = {"items": ITEMS, "attributes": ATTRIBUTES, "has_times": True} | changes
    return pack(events, users, **settings)


def test_a_small_table_packs_as_written_out_by_hand() -> None:
    people = packed()
    assert people.offsets.tolist() == [0, 2, 5]  # u2, then u1, as in the users; u9 is nobody's
    assert people.items.tolist() == [1, 3, 1, 3, 2]
    assert people.timestamps.tolist() == [7, 7, 20, 20, 50]
    assert [BEHAVIOURS[number - 1] for number in people.behaviours.tolist()] == [
        "rate", "view", "purchase", "click", "view",
    ]  # fmt: skip
    import torch

    expected = torch.tensor([4.0, float("nan"), 1.0, 5.0, float("nan")])
    assert torch.equal(people.values, value_buckets(expected))
    assert people.attributes.tolist() == [[2, 2], [0, 1]]
    assert people.has_times


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30))
def test_events_of_one_second_keep_the_order_of_the_table(rows: list[tuple[int, int]]) -> None:
    rows = [(0, 9), (1, 9), (2, 9), *rows]
    items = {str(number): number + 1 for number in range(len(rows))}
    events = pd.DataFrame(
        {
            "user": [f"u{user}" for user, _ in rows],
            "item": list(items),
            "behaviour": "view",
            "timestamp": [time for _, time in rows],
            "value": float("nan"),
        }
    )
    users = pd.DataFrame({"user": ["u0", "u1", "u2"]})
    people = pack(events, users, items=items, attributes={}, has_times=True)
    for person in range(3):
        own = [(time, number + 1) for number, (user, time) in enumerate(rows) if user == person]
        expected = [number for _, number in sorted(own, key=lambda pair: pair[0])]
        assert people.items[people.offsets[person] : people.offsets[person + 1]].tolist() == expected
    assert people.attributes.shape == (3, 0)


def test_the_index_of_the_table_does_not_matter() -> None:
    import torch

    shuffled = EVENTS.set_axis([9, 9, 4, 1, 0, 0])
    assert torch.equal(packed(shuffled).items, packed().items)
    assert torch.equal(packed(users=USERS.set_axis([5, 5])).attributes, packed().attributes)


def change(column: str, row: int, value: Any, frame: pd.DataFrame = EVENTS) -> pd.DataFrame:
    changed = frame.copy()
    changed.loc[row, column] = value
    return changed


def test_a_person_without_events_is_refused() -> None:
    users = pd.concat([USERS, pd.DataFrame({"user": ["u5"]})], ignore_index=True)
    with pytest.raises(UsageError, match="expected events of every person, got 1 people without any; remove them"):
        packed(users=users)


def test_an_unknown_item_is_refused() -> None:
    with pytest.raises(UsageError, match="expected items of the catalogue, got 1 events of others; add the items"):
        packed(change("item", 0, "durian"))


def test_an_unknown_item_of_somebody_elses_does_not_matter() -> None:
    assert len(packed(change("item", 3, "durian"))) == 2


def test_an_unknown_behaviour_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected behaviours out of view, click, .*return, got others"):
        packed(change("behaviour", 0, "stare"))


def test_an_attribute_without_a_column_or_of_another_class_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a column income in the users, got none"):
        packed(attributes={"income": ("low", "high")})
    with pytest.raises(UsageError, match="expected gender out of 2 classes, got 1 people with another"):
        packed(users=change("gender", 0, "X", USERS))


def test_a_refusal_names_no_person_and_no_item() -> None:
    for frame in (change("item", 0, "durian"), change("behaviour", 0, "stare")):
        with pytest.raises(UsageError) as caught:
            packed(frame)
        assert not any(word in str(caught.value) for word in ("u1", "durian", "stare"))
