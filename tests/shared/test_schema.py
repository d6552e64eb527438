"""The canonical tables say the same thing to everybody."""

from __future__ import annotations

import pytest

from silhouette_shared.schema import BEHAVIOURS, CONSENT, EDGES, EVENTS, TABLES, TAGS, USERS, Kind


def test_behaviours_keep_their_numbers() -> None:
    # A behaviour's position is its row in an embedding: a changed order breaks saved models.
    assert BEHAVIOURS == (
        "view",
        "click",
        "search",
        "cart",
        "favourite",
        "purchase",
        "rate",
        "review",
        "share",
        "return",
    )


def test_every_table_has_distinct_columns_and_is_found_by_name() -> None:
    assert list(TABLES) == ["events", "users", "edges", "tags", "consent"]
    for name, table in TABLES.items():
        assert table.name == name
        assert len(set(table.names)) == len(table.names)


def test_events_have_the_agreed_columns() -> None:
    assert EVENTS.names == ("user", "item", "behaviour", "timestamp", "value", "text")
    assert EVENTS.column("timestamp").kind is Kind.INTEGER
    assert EVENTS.column("timestamp").unit == "UTC seconds"
    assert EVENTS.column("behaviour").classes == BEHAVIOURS
    assert [column.name for column in EVENTS.columns if column.nullable] == ["value", "text"]


def test_only_users_may_have_further_columns() -> None:
    assert [table.name for table in TABLES.values() if table.open] == ["users"]
    assert USERS.names == ("user",)
    assert EDGES.names == ("user", "other", "weight")
    assert TAGS.names == ("user", "tag", "weight", "time")
    assert CONSENT.names == ("user", "purpose", "granted", "time")


def test_a_time_in_milliseconds_is_out_of_range() -> None:
    high = EVENTS.column("timestamp").high
    assert high is not None
    assert 1_600_000_000 < high < 1_600_000_000 * 1000


def test_an_unknown_column_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="expected one of user, item"):
        EVENTS.column("when")
