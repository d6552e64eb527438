"""Rules say what they say, refuse the rest in words, and never run code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silhouette_client.segments.rules import Facts, RuleError, parse_rule

KNOWN = ("events", "recency_days", "tags", "trait.breadth", "count.purchase", "guess.gender")
ANNA: Facts = {"events": 12.0, "tags": ("Drama", "War"), "trait.breadth": 0.5, "guess.gender": "F"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("events >= 12", True),
        ("events > 12", False),
        ("10 < events < 13", True),
        ("10 < events < 12", False),
        ("events == 12 and trait.breadth != 0.4", True),
        ("events == 11 or trait.breadth <= .5", True),
        ("not events == 11", True),
        ('"Drama" in tags', True),
        ('"Comedy" not in tags', True),
        ('guess.gender in ("F", "X")', True),
        ('guess.gender == "M"', False),
        ("events > -1", True),
        # what is not known makes a comparison false, whichever it is
        ("recency_days < 30", False),
        ("recency_days >= 30", False),
        ("recency_days != 3", False),
        ("not (recency_days < 30)", True),
        # a text is not larger than a number
        ("guess.gender > 3", False),
        ('"Drama" in events', False),
    ],
)
def test_a_rule_holds_for_whom_it_says(text: str, holds: bool) -> None:
    assert parse_rule(text, KNOWN)(ANNA) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a rule of 1 to 2000 characters, got 0"),
        ("events >", r"expected a rule like `events >= 10 and .* got something else"),
        ("events", "expected a comparison like `events >= 10` in a rule, got Name at character 1"),
        ("__import__('os').system('true')", "expected a comparison"),
        ("events.__class__ == 3", r"expected a name that profiles here have, got 'events.__class__'"),
        ("len(tags) > 3", "expected a name like"),
        ("event >= 3", r"got 'event'; did you mean events"),
        ("events >= 1 + 1", "expected a name like"),
        ("events is 3", "expected one of < <= >"),
        ("events == True", "expected a number or a text"),
        ("tags[0] == 'Drama'", "expected a name like"),
        ("(" * 300 + "events > 1" + ")" * 300, "expected"),
    ],
)
def test_what_is_no_rule_is_refused_with_what_to_do(text: str, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        parse_rule(text, KNOWN)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse_rule(text, KNOWN)
    except RuleError:
        return
    assert rule(ANNA) in (True, False)
    assert rule.names <= set(KNOWN)


def test_a_rule_tells_what_it_asks_for() -> None:
    assert parse_rule('events > 1 and "a" in tags', KNOWN).names == {"events", "tags"}
