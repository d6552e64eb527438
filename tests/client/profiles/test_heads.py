"""Conversion and churn: labels are what their definitions say, nothing after the moment is read, chances are honest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import LENGTHS, encoder, generator, histories, only

from silhouette_client.profiles.heads import (
    CONVERSION_DAYS,
    DAY_SECONDS,
    HEADS,
    before,
    calibration_error,
    churned,
    converted,
    fit_head,
    in_words,
    learn_heads,
    profile_vectors,
    record_features,
    rfm_features,
)
from silhouette_client.profiles.risk import fit_risk, risk_features
from silhouette_shared.errors import UsageError
from silhouette_shared.model.histories import Histories
from silhouette_shared.schema import BEHAVIOURS

VIEW, CART, BUY = (BEHAVIOURS.index(name) + 1 for name in ("view", "cart", "purchase"))
MOMENT = 100 * DAY_SECONDS


def people(*events: list[tuple[int, int, float]]) -> Histories:
    """People from (item, behaviour, days from the moment)."""
    flat = [event for person in events for event in person]
    base = histories([len(person) for person in events])
    return replace(
        base,
        items=torch.tensor([item for item, _, _ in flat]),
        behaviours=torch.tensor([behaviour for _, behaviour, _ in flat]),
        timestamps=torch.tensor([MOMENT + int(days * DAY_SECONDS) for _, _, days in flat]),
    )


def many(count: int = 200, seed: int = 0) -> Histories:
    """People over 30 days; those with an even number buy what they cart, and odd ones fall silent on day 20."""
    draw = generator("many", seed)
    rows = []
    for number in range(count):
        last = 30.0 if number % 2 == 0 else 20.0
        days = (torch.rand(12, generator=draw).double() * last).sort().values.tolist()
        items = torch.randint(1, 21, (12,), generator=draw).tolist()
        kind = [CART if place % 2 == 0 else (BUY if number % 2 == 0 else VIEW) for place in range(12)]
        paired = [items[place - place % 2] if number % 2 == 0 else items[place] for place in range(12)]
        rows.append([(item, k, day - 30.0) for item, k, day in zip(paired, kind, days, strict=True)])
    return people(*rows)


def test_what_was_known_at_a_moment_is_what_lies_before_it_and_who_had_nothing_is_left_out() -> None:
    made = people([(1, VIEW, -2), (2, VIEW, 0)], [(3, VIEW, 1)], [(4, BUY, -1), (5, BUY, -0.5)])
    known, rows = before(made, MOMENT)
    assert rows.tolist() == [0, 2]
    assert known.items.tolist() == [1, 4, 5]
    with pytest.raises(UsageError, match="expected events before the moment"):
        before(made, 0)
    with pytest.raises(UsageError, match="expected histories with times"):
        before(histories(has_times=False), MOMENT)


def test_churn_is_no_event_until_the_end() -> None:
    made = people([(1, VIEW, -2), (2, VIEW, 3)], [(1, VIEW, -2)], [(1, VIEW, -2), (2, VIEW, 9)])
    _, rows = before(made, MOMENT)
    until = MOMENT + 5 * DAY_SECONDS
    assert churned(made, rows, MOMENT, until).tolist() == [False, True, True]


def test_conversion_is_the_purchase_of_an_open_item_within_seven_days() -> None:
    made = people(
        [(1, CART, -2), (1, BUY, 3)],
        [(1, VIEW, -2), (1, BUY, CONVERSION_DAYS + 0.1)],  # too late
        [(1, CART, -2), (1, BUY, -1), (1, BUY, 2)],  # bought before: no longer open
        [(1, VIEW, -2), (2, BUY, 2)],  # another item
        [(1, BUY, -2), (2, CART, 1), (2, BUY, 2)],  # carted after the moment
        [(1, VIEW, -2), (2, CART, -2), (2, BUY, 0)],
    )
    _, rows = before(made, MOMENT)
    asked, bought = converted(made, rows, MOMENT)
    assert asked.tolist() == [True, True, False, True, False, True]
    assert bought.tolist() == [True, False, False, False, False, True]


def test_what_a_score_reads_is_one_persons_record_up_to_the_moment() -> None:
    whole = many(40)
    later = replace(whole, items=torch.where(whole.timestamps >= MOMENT - DAY_SECONDS, 1, whole.items))
    model = encoder(scale=5.0)
    for read in (record_features, rfm_features):
        one, other = (read(before(made, MOMENT - DAY_SECONDS)[0], MOMENT) for made in (whole, later))
        assert torch.equal(one, other)
        alone = read(only(before(whole, MOMENT)[0], [7]), MOMENT)
        assert torch.equal(alone[0], read(before(whole, MOMENT)[0], MOMENT)[7])
    vectors = profile_vectors(model, whole)
    assert torch.allclose(profile_vectors(model, only(whole, [7]))[0], vectors[7], atol=1e-6)


def test_a_head_tells_apart_what_its_columns_show_and_its_chances_are_frequencies() -> None:
    draw = generator("head")
    features = torch.randn(4000, 3, generator=draw, dtype=torch.float64)
    chance = torch.sigmoid(2 * features[:, 0] - 1)
    labels = torch.rand(4000, generator=draw, dtype=torch.float64) < chance
    head = fit_head(features[:2000], labels[:2000], generator("deal"))
    found = head(features[2000:])
    assert float((found - chance[2000:]).abs().mean()) < 0.03
    assert calibration_error(found, labels[2000:]) < 0.05
    assert calibration_error(1 - found, labels[2000:]) > 0.2
    assert calibration_error(torch.full_like(found, float(labels[2000:].double().mean())), labels[2000:]) < 0.1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([True, False] * 5), "expected at least 20 people"),
        (torch.tensor([True] * 30), "got one kind"),
    ],
)
def test_a_head_that_cannot_be_learnt_is_refused(labels: torch.Tensor, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        fit_head(torch.randn(len(labels), 2, dtype=torch.float64), labels, generator("deal"))


def test_calibration_error_of_known_bins() -> None:
    chances = torch.linspace(0.05, 0.95, 20, dtype=torch.float64)
    assert calibration_error(chances, torch.zeros(20, dtype=torch.bool)) == pytest.approx(0.5)


def test_a_partner_learns_the_scores_its_histories_can_teach_and_the_encoder_stays_as_it_was() -> None:
    model = encoder(scale=5.0)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    made = many()
    heads = learn_heads(model, made, MOMENT, generator("learn"))
    scores = heads.scores(model, made, MOMENT)
    assert set(scores) == {head.name for head in HEADS}
    assert all(((value >= 0) & (value <= 1)).all() for value in scores.values())
    silent = torch.arange(len(made)) % 2 == 1
    assert float(scores["churn"][silent].mean()) > float(scores["churn"][~silent].mean()) + 0.3
    for name, value in model.state_dict().items():
        assert torch.equal(value, frozen[name])
    assert set(learn_heads(model, histories(), MOMENT, generator("learn")).scores(model, histories(), MOMENT)) == {
        "risk"
    }
    timeless = histories(has_times=False)
    assert set(learn_heads(model, timeless, 0, generator("learn")).scores(model, timeless, 0)) == {"risk"}


def test_an_odd_history_is_far_from_the_usual_whoever_else_is_odd() -> None:
    model = encoder(scale=5.0)
    usual = many(100)
    odd = people(*([[(3, VIEW, -30 + place / 86_400) for place in range(100)]] * 3))
    features = torch.cat([risk_features(model, usual), risk_features(model, odd)])
    risk = fit_risk(features)(features)
    assert float(risk[-3:].min()) >= 0.95
    assert float(risk[:100].median()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(risk_features(model, only(usual, [5]))[0], risk_features(model, usual)[5]) or torch.allclose(
        risk_features(model, only(usual, [5]))[0], risk_features(model, usual)[5], atol=1e-5
    )
    assert len(risk_features(model, histories(has_times=False))) == len(LENGTHS)


def test_a_profile_shows_the_likelier_answer_and_what_is_unusual() -> None:
    shown = in_words({"churn": torch.tensor([0.2, 0.75]), "risk": torch.tensor([0.5, 0.995])})
    assert [shown[name][0] for name in ("churn", "risk")] == [["no", "yes"], ["usual", "unusual"]]
    assert shown["churn"][1] == pytest.approx([0.8, 0.75])
    assert shown["risk"][1] == pytest.approx([0.5, 0.995])
