"""An answer is what was agreed on or is refused, and the refusal names no coordinate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from silhouette_server.strategy.validation import Expectation, FloatVector, InvalidReplyError, check_update

EXPECTED = Expectation(run="r", round=3, plan_digest="p" * 64, size=4, limit=2.0)
UPDATE = np.array([0.0, -2.0, 2.0, 1.5], dtype=np.float32)


def check(update: Any = UPDATE, expected: Expectation = EXPECTED, **changes: Any) -> FloatVector:
    said: dict[str, Any] = {"run": "r", "round_number": 3, "plan_digest": "p" * 64} | changes
    return check_update(expected, update=update, **said)


def test_an_answer_at_the_limit_passes_unchanged() -> None:
    assert np.array_equal(check(), UPDATE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "other"}, "expected an answer of this run, got one of another"),
        ({"round_number": 2}, "expected an answer of round 3, got 2"),
        ({"plan_digest": "q" * 64}, "expected plan pppppppppppp, got qqqqqqqqqqqq"),
        ({"update": UPDATE[:3]}, r"expected 4 float32 coordinates, got float32 of (3,)"),
        ({"update": UPDATE[None]}, r"expected 4 float32 coordinates, got float32 of (1, 4)"),
        ({"update": UPDATE.astype(np.float64)}, "expected 4 float32 coordinates, got float64 of (4,)"),
        ({"update": np.array([0, np.nan, 0, 0], np.float32)}, "expected finite coordinates"),
        ({"update": np.array([0, np.inf, 0, 0], np.float32)}, "expected finite coordinates"),
        ({"update": np.array([0, -np.inf, 0, 0], np.float32)}, "expected finite coordinates"),
        ({"update": np.array([0, 0, 0, 2.001], np.float32)}, "expected coordinates of at most 2.0, got larger ones"),
        ({"update": np.array([0, 0, 0, -2.001], np.float32)}, "expected coordinates of at most 2.0, got larger ones"),
    ],
)
def test_an_answer_that_was_not_agreed_on_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidReplyError) as caught:
        check(**changes)
    assert message in str(caught.value)
    assert "2.001" not in str(caught.value)


def test_a_model_without_parameters_has_an_empty_answer() -> None:
    assert check(np.zeros(0, np.float32), replace(EXPECTED, size=0)).shape == (0,)
