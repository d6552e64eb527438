"""Which model may be promoted: checks of the card, figures with noise, audits, and the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.registry.house import (
    IDENTITY,
    LAYOUT,
    OPEN,
    PRIVATE,
    committed,
    measured,
    opened,
    quality,
    started,
    vector,
)

from silhouette_server.registry import Margin, Registry, TransitionError, UnknownError, compare
from silhouette_server.registry.promotion import NotBetterError
from silhouette_shared.cards import Card, OlderAliasError, OtherModelError, accept_promoted
from silhouette_shared.cards.documents import card_digest
from silhouette_shared.errors import IntegrityError, UsageError

MARGIN = Margin(0.01, 0.95)


def card(run: str = "new", **changes: Any) -> Card:
    values: dict[str, Any] = {
        "run": run,
        "round": 1,
        "plan": "plan",
        "plan_digest": "a" * 64,
        "layout": "b" * 64,
        "parameters": 3,
        "model": ("c" if run == "new" else "d") * 64,
        "size": 12,
        "issued": 0,
    }
    return Card(**{**values, **changes})


NEW, OLD = card("new"), card("old")


def test_the_first_promotion_has_nothing_to_beat() -> None:
    assert compare(NEW, None, MARGIN).differences == ()


def test_a_model_within_the_margin_is_no_worse_and_one_beyond_it_is() -> None:
    old = replace(OLD, evaluation=measured(0.100, 0.080))
    verdict = compare(replace(NEW, evaluation=measured(0.091, 0.0705)), old, MARGIN)
    assert [one.where for one in verdict.differences] == ["overall", "worst partner"]
    with pytest.raises(NotBetterError, match=r"ndcg@10 -0\.0110 \(overall"):
        compare(replace(NEW, evaluation=measured(0.089, 0.200)), old, MARGIN)
    with pytest.raises(NotBetterError, match=r"-0\.0110 \(worst partner"):
        compare(replace(NEW, evaluation=measured(0.200, 0.069)), old, MARGIN)


def test_noise_that_could_hide_a_worse_model_refuses_and_says_so() -> None:
    old = replace(OLD, evaluation=measured(0.100, 0.080, noise=0.004))
    same = replace(NEW, evaluation=measured(0.100, 0.080, noise=0.004))
    # 1.645 sqrt(2) 0.004 = 0.0093 is just inside the margin, and with 0.005 it is 0.0116 and outside.
    assert compare(same, old, MARGIN).differences[0].low == pytest.approx(-0.009304, abs=1e-5)
    noisier = replace(NEW, evaluation=measured(0.100, 0.080, noise=0.0065))
    with pytest.raises(NotBetterError, match=r"to be sure at 95%.*evaluate more people or spend more"):
        compare(noisier, old, MARGIN)
    better = replace(NEW, evaluation=measured(0.120, 0.100, noise=0.0065))
    assert compare(better, old, MARGIN).text.startswith("ndcg@10 against old:1: overall +0.0200")


def test_figures_of_one_evaluation_go_before_those_of_two() -> None:
    old = replace(OLD, evaluation=measured(0.300, 0.300))  # measured on other people, a month ago
    beside = replace(NEW, evaluation=measured(0.100, 0.080, beside={OLD.model: quality(0.101, 0.079)}))
    assert compare(beside, old, MARGIN).differences[0].value == pytest.approx(-0.001)
    with pytest.raises(NotBetterError):
        compare(replace(NEW, evaluation=measured(0.100, 0.080)), old, MARGIN)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (None, measured(0.1, 0.1), "new:1: expected a charged evaluation on its card, got none"),
        (measured(0.1, 0.1), None, "old:1: expected a charged evaluation on its card, got none"),
        (measured(0.1, None), measured(0.1, 0.1), "figures of the partner where each model is worst"),
        (replace(measured(0.1, 0.1), metric="hr@10"), measured(0.1, 0.1), "expected figures of ndcg@10"),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(ours: Any, theirs: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(replace(NEW, evaluation=ours), replace(OLD, evaluation=theirs), MARGIN)


@pytest.mark.parametrize(("worse", "confidence"), [(-0.1, 0.9), (0.1, 0.5), (0.1, 1.0), (float("inf"), 0.9)])
def test_a_margin_that_means_nothing_is_refused(worse: float, confidence: float) -> None:
    with pytest.raises(UsageError, match="expected a margin of 0 or more and a confidence"):
        Margin(worse, confidence)


def allowed(new: float, old: float, noise: float, margin: Margin) -> bool:
    try:
        compare(replace(NEW, evaluation=measured(new, new, noise)), replace(OLD, evaluation=measured(old, old)), margin)
    except NotBetterError:
        return False
    return True


figures = st.floats(0, 1)


@given(figures, figures, st.floats(0, 0.1), st.floats(0, 0.1), st.floats(0.51, 0.999))
@settings(max_examples=100)
def test_a_better_model_less_noise_and_a_wider_margin_never_turn_yes_into_no(
    new: float, old: float, noise: float, worse: float, confidence: float
) -> None:
    margin = Margin(worse, confidence)
    if allowed(new, old, noise, margin):
        assert allowed(new + 0.1, old, noise, margin)
        assert allowed(new, old, noise / 2, margin)
        assert allowed(new, old, noise, Margin(worse + 0.1, confidence))
        assert new - old >= -worse - 1e-9  # never worse than the margin by its own figure


def test_a_model_that_is_worse_by_the_margin_is_promoted_as_seldom_as_the_confidence_says() -> None:
    draw, noise = np.random.default_rng(5), 0.01
    drawn = draw.normal(0.1 - MARGIN.worse, noise, 4000)
    rate = float(np.mean([allowed(float(value), 0.1, noise, MARGIN) for value in drawn]))
    assert 0.04 < rate < 0.06  # both conditions see the same figure here, so that it is 5 in 100


# In the registry


def test_a_promotion_moves_the_alias_and_a_rollback_moves_it_back_with_a_higher_number(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry, OPEN)
        for number, value in ((1, 0.10), (2, 0.11), (3, 0.12)):
            committed(registry, run, number, measured(value, value))
            registry.promote(f"{run}:{number}")
        assert [registry.model(name).card.round for name in ("promoted", "previous")] == [3, 2]
        assert registry.rollback().round == 2
        back = registry.rollback()
        assert (back.round, back.number, back.reason) == (1, 5, "rollback")
        with pytest.raises(UnknownError, match="expected a model that is previous, got none"):
            registry.rollback()
        registry.promote(f"{run}:3")
        assert registry.model("previous").card.round == 1
        assert registry.verify() == ()
    with opened(tmp_path) as again:
        alias = again.alias()
        assert alias is not None
        assert (alias[0].round, alias[0].number) == (3, 6)


def test_a_worse_candidate_is_not_promoted_and_the_alias_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry, OPEN)
        committed(registry, run, 1, measured(0.10, 0.08))
        committed(registry, run, 2, measured(0.09, 0.08))
        registry.promote(f"{run}:1")
        with pytest.raises(NotBetterError, match=f"{run}:2: expected a model no worse than {run}:1"):
            registry.promote(f"{run}:2")
        assert registry.model("promoted").card.round == 1
        registry.promote(f"{run}:2", margin=Margin(0.02, 0.95))
        with pytest.raises(TransitionError, match="there is nothing to do"):
            registry.promote(run)


def test_a_damaged_model_is_not_promoted(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        committed(registry, run, 1)
        path = registry.model(run).path
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        with pytest.raises(OtherModelError, match="expected a model with the SHA-256"):
            registry.promote(run)
        assert registry.alias() is None


def test_an_evaluation_that_comes_later_is_a_new_edition_of_the_card(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry)
        first = committed(registry, run, 1)
        amended = registry.amend(run, evaluation=measured(0.1, 0.1))
        assert (first.edition, amended.edition) == (1, 2)
        assert registry.model(run).card == amended
        assert registry.model(run).card.model == first.model
        assert registry.verify() == ()
    with opened(tmp_path) as again:
        assert again.model(run).card.evaluation == measured(0.1, 0.1)


def test_an_audit_has_to_be_a_signed_one_of_this_plan(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry, PRIVATE)
        committed(registry, run, 1)
        with pytest.raises(IntegrityError, match="expected a signed audit result"):
            registry.promote(run, audit="{}", auditor="ab" * 32)
        assert registry.alias() is None


# At a node


def shown(registry: Registry) -> tuple[bytes, bytes, bytes]:
    alias, model = registry.alias(), registry.model("promoted")
    assert alias is not None
    return alias[1], model.signed_card, model.read()


def test_a_node_takes_the_promoted_model_and_refuses_every_older_alias(tmp_path: Path) -> None:
    keys = [IDENTITY.public]
    with opened(tmp_path) as registry:
        run = started(registry)
        committed(registry, run, 1, measured(0.1, 0.1))
        committed(registry, run, 2, measured(0.1, 0.1))
        registry.promote(f"{run}:1")
        first = shown(registry)
        registry.promote(f"{run}:2")
        second = shown(registry)
        registry.rollback()
        third = shown(registry)
    assert accept_promoted(*first, keys).card.round == 1
    assert accept_promoted(*second, keys, known=first[0]).card.round == 2
    with pytest.raises(OlderAliasError, match="expected the alias promoted number 2 or a later one, got 1"):
        accept_promoted(*first, keys, known=second[0])
    assert accept_promoted(*third, keys, known=second[0]).card.round == 1  # the same model, promoted anew
    with pytest.raises(OtherModelError, match="expected the card of open-1:1 that is promoted"):
        accept_promoted(third[0], second[1], second[2], keys)
    assert card_digest(third[1]) == accept_promoted(*third, keys).alias.card
    assert len(vector(1)) > LAYOUT.size
