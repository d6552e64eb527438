"""A policy is read whole or refused, and its defaults are the careful ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silhouette_client.policy.terms import Policy, parse_policy, read_policy, write_policy
from silhouette_shared.errors import UsageError


def test_the_defaults_refuse_what_has_to_be_asked_for() -> None:
    policy = Policy()
    assert policy.modes == ("local",)
    assert policy.secure_aggregation
    assert policy.partners_minimum == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilon = 1.0", "epsilon: unknown key; there are consortium"),
        ('epsilon_per_run = "8"', "epsilon_per_run"),
        ("epsilon_per_run = 0.0", "expected a number above 0"),
        ("epsilon_per_year = inf", "epsilon_per_year"),
        ("partners_minimum = 2", "expected 3 to 50"),
        ("modes = []", "one or more of local"),
        ('modes = ["none", "none"]', "each once"),
        ('modes = ["open"]', "modes"),
        ("delta = 1.0", "between 0 and 1"),
        ("rounds_a_day = 0", "at least 1 round"),
        ("largest_model = true", "largest_model"),
        ('hours = ["8-18"]', "spans such as"),
        ('hours = ["08:00-25:00"]', "spans such as"),
        ("x = = 1", "does not parse"),
        ("delta = 2026-01-01", "delta"),
    ],
)
def test_a_key_that_is_unknown_or_out_of_range_is_an_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_policy(text, "policy.toml")


def test_no_file_is_the_defaults_and_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "policy.toml") == Policy()
    (tmp_path / "policy.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="cannot be read"):
        read_policy(tmp_path / "policy.toml")


@settings(max_examples=30)
@given(
    modes=st.sampled_from([("local",), ("none", "local"), ("distributed", "local", "none")]),
    run=st.floats(0.01, 1000),
    rounds=st.integers(1, 10**6),
    hours=st.sampled_from([(), ("20:00-06:00",), ("00:00-24:00", "12:30-12:31")]),
    words=st.text(max_size=10),
)
def test_what_was_written_is_read_back(modes, run: float, rounds: int, hours, words: str) -> None:  # type: ignore[no-untyped-def]
    policy = Policy(modes=modes, epsilon_per_run=run, rounds_a_day=rounds, hours=hours, without=(words,))
    assert parse_policy(write_policy(policy), "here") == policy


@pytest.mark.parametrize(
    ("hours", "time", "is_open"),
    [
        ((), "03:00", True),
        (("20:00-06:00",), "19:59", False),
        (("20:00-06:00",), "20:00", True),
        (("20:00-06:00",), "05:59", True),
        (("20:00-06:00",), "06:00", False),
        (("08:00-12:00", "13:00-24:00"), "12:30", False),
        (("08:00-12:00", "13:00-24:00"), "23:59", True),
        (("08:00-12:00", "13:00-24:00"), "00:00", False),
    ],
)
def test_hours_go_over_midnight_and_end_before_their_end(hours: tuple[str, ...], time: str, is_open: bool) -> None:
    hour, minute = map(int, time.split(":"))
    assert Policy(hours=hours).is_open(datetime(2026, 3, 1, hour, minute, tzinfo=UTC)) is is_open
