"""A mapping says what is meant or is refused with everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silhouette_client.ingest.mapping import parse_mapping, read_mapping
from silhouette_client.ingest.suggest import suggest
from silhouette_shared.errors import UsageError

COLUMNS: dict[str, Any] = {
    "user": {"column": "u"},
    "item": {"column": "i"},
    "behaviour": {"constant": "view"},
    "timestamp": {"column": "t", "unit": "ms"},
}


def source(**changes: Any) -> dict[str, Any]:
    return {"source": [{"table": "events", "columns": COLUMNS} | changes]}


def column(name: str, **rule: Any) -> dict[str, Any]:
    return source(columns=COLUMNS | {name: {"column": "x"} | rule})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (source() | {"sources": []}, "sources: Unexpected keyword argument"),
        (column("user", colour="red"), "colour: Unexpected keyword argument"),
        (column("basket"), "expected columns out of user, item"),
        (column("timestamp", zone="Europe/Atlantis"), "expected a time zone such as Europe/Berlin"),
        (column("timestamp", format="%Y", unit="s"), "expected a format or a unit, got both"),
        (column("timestamp", format="%Y %z"), "expected a format without %z"),
        (column("user", zone="UTC"), "user: expected no zone, because the column is no time"),
        (column("behaviour", values={"kauf": "buy"}), "expected values out of view, click"),
        (column("item", scale=2.0), "item: expected no scale or decimal"),
        (column("user", constant="me"), "expected either a column or a constant"),
        (source(columns={"user": {"column": "u"}}), "got none for item, behaviour, timestamp"),
        (source(delimiter=";;"), "expected one character as delimiter"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_mapping(content, "shop.toml")
    assert str(caught.value).startswith("shop.toml: ")
    assert message in str(caught.value)


def test_a_missing_mapping_says_how_to_draft_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mapping suggest"):
        read_mapping(tmp_path / "mapping.toml")


def test_the_digest_of_a_rule_is_what_it_does_and_not_what_it_matches() -> None:
    first, same, other = (
        parse_mapping(content).source[0].digest()
        for content in (source(), source(match="*.csv"), column("value", scale=0.01))
    )
    assert first == same != other


def test_a_drafted_mapping_of_a_plain_table_reads_that_table(tmp_path: Path) -> None:
    sample = tmp_path / "orders.csv"
    sample.write_text("customer_id;sku;action;order date;price\n7;a;bought;24.12.2024 10:00:00;3,50\n")
    (tmp_path / "mapping.toml").write_text(suggest(sample, "events"))
    rule = read_mapping(tmp_path / "mapping.toml").source[0]
    assert rule.delimiter == ";"
    assert {name: one.column for name, one in rule.columns.items()} == {
        "user": "customer_id",
        "item": "sku",
        "behaviour": "action",
        "timestamp": "order date",
        "value": "price",
    }
    assert rule.columns["behaviour"].values == {"bought": "purchase"}
    assert rule.columns["timestamp"].format == "%d.%m.%Y %H:%M:%S"
    assert rule.columns["value"].decimal == ","


def test_what_could_not_be_guessed_is_marked_and_refused(tmp_path: Path) -> None:
    sample = tmp_path / "orders.jsonl"
    sample.write_text('{"alpha": 1, "ts": 1700000000000, "action": "zapped"}\n')
    draft = suggest(sample, "events")
    assert 'user = { column = "FILL IN" }' in draft
    assert 'unit = "ms"' in draft
    (tmp_path / "mapping.toml").write_text(draft)
    with pytest.raises(UsageError, match="got FILL IN"):
        read_mapping(tmp_path / "mapping.toml")
