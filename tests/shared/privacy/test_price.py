"""A plan's price is that of the mechanism it trains with, and every figure in it comes from accounting."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from silhouette_shared.config import Plan, with_changes
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy import SampledGaussian, epsilon
from silhouette_shared.privacy.budget import budget_of
from silhouette_shared.privacy.price import price_document, price_plan, training_and_beside

PLAN = with_changes(
    Plan(name="priced"),
    {"privacy.epsilon": 3.0, "privacy.rounds": 20, "privacy.clip_norm": 0.5, "partition.partners": 5},
)
COUNTED = with_changes(PLAN, {"statistics.popularity_share": 0.1, "statistics.transition_share": 0.4})
PLAN = with_changes(PLAN, {"statistics.popularity_share": 0.0, "statistics.transition_share": 0.0})
PEOPLE, SIZE = 2000, 50_000


def mechanism_of(plan: Plan, people_bound: int | None = None, size: int | None = None) -> SampledGaussian:
    return training_and_beside(plan, people_bound=people_bound, size=size)[0]


@pytest.fixture(scope="module")
def price() -> dict[str, object]:
    """The document, as a program reads it."""
    whole = price_plan(PLAN, people=PEOPLE, size=SIZE, persons_partners=2)
    document = json.loads(json.dumps(price_document(PLAN, whole), allow_nan=False))
    assert isinstance(document, dict)
    return document


def test_the_price_is_that_of_the_mechanism_that_trains(price: dict[str, object]) -> None:
    mechanism = mechanism_of(PLAN, people_bound=PEOPLE, size=SIZE)
    assert price["mechanism"] == mechanism.describe()
    assert price["epsilon"] == epsilon(mechanism, 1e-5)
    assert price["accountants"] == {name: epsilon(mechanism, 1e-5, name) for name in ("pld", "prv", "rdp")}
    assert 2.97 < epsilon(mechanism, 1e-5) <= 3.0
    assert mechanism.clip_norm == 0.5
    assert mechanism.rounding == pytest.approx(0.5 * 2**-16 * math.sqrt(SIZE), rel=1e-3)


def test_delta_is_split_without_a_rest(price: dict[str, object]) -> None:
    parts = price["delta_parts"]
    assert isinstance(parts, dict)
    assert sum(parts.values()) == pytest.approx(1e-5, rel=1e-3)
    assert parts["batch_cap"] < 1e-7


def test_the_curve_ends_at_the_epsilon_of_all_rounds(price: dict[str, object]) -> None:
    curve = price["curve"]
    assert isinstance(curve, list)
    assert [point["round"] for point in curve] == list(range(1, 21))
    spent = [point["epsilon"] for point in curve]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(price["epsilon"], abs=1e-3)
    assert spent[0] == pytest.approx(price["one_round"], abs=1e-2)


def test_who_looks_and_where_a_person_is_decides(price: dict[str, object]) -> None:
    modes, person, spent = price["modes"], price["person"], price["epsilon"]
    assert isinstance(modes, dict)
    assert isinstance(person, dict)
    assert isinstance(spent, float)
    assert modes["local"]["release"] == spent
    assert modes["local"]["everybody"] < modes["local"]["honest"] < spent
    assert modes["distributed"]["release"] > 1.5 * modes["distributed"]["honest"]
    assert modes["distributed"]["honest"] == pytest.approx(spent, abs=0.01)
    assert person["partners"] == 2
    assert spent < person["epsilon"] < 2 * spent


def test_the_noise_is_set_against_the_signal(price: dict[str, object]) -> None:
    mechanism = mechanism_of(PLAN, people_bound=PEOPLE, size=SIZE)
    assert price["noise_per_coordinate"] == pytest.approx(mechanism.noise_std / 0.5 / 400)
    assert price["noise_to_signal"] == pytest.approx(mechanism.noise_std / 0.5 / 400 * math.sqrt(SIZE))


def test_without_people_and_coordinates_nothing_is_made_up() -> None:
    bare = price_plan(PLAN)
    assert (bare.expected_batch, bare.noise_per_coordinate, bare.mechanism.batch_cap) == (None, None, None)
    assert bare.mechanism.rounding == 0


def test_with_several_steps_a_round_or_two_partners_only_the_release_is_claimed() -> None:
    several = price_plan(with_changes(PLAN, {"privacy.local_steps": 2}))
    assert (several.local.honest, several.distributed) == (None, None)
    assert several.mechanism.steps == 40
    two = price_plan(PLAN, partners=2)
    assert (two.local.everybody, two.distributed) == (None, None)


def test_statistics_of_the_same_budget_leave_less_for_training() -> None:
    priced, budget = price_plan(COUNTED), budget_of(COUNTED)
    assert budget is not None
    assert priced.beside == budget.statistics
    assert len(priced.beside) == 2
    assert priced.mechanism == budget.training
    assert priced.mechanism.noise_multiplier > mechanism_of(PLAN).noise_multiplier
    assert 2.97 < priced.accountants["pld"] <= 3.0
    assert len(price_document(COUNTED, priced)["statistics"]) == 2  # type: ignore[arg-type]


def test_what_float32_adds_up_wrongly_is_said_with_the_epsilon_that_it_would_cost() -> None:
    price = price_plan(PLAN, people=PEOPLE, size=SIZE)
    cap = price.mechanism.batch_cap
    assert cap is not None
    assert price.float32_summing is not None
    assert price.float32_summing == pytest.approx(2 * cap * (cap + 2) * 2.0**-24, rel=1e-3)
    assert price.float32_summing is not None
    assert price.with_summing is not None
    found = epsilon(
        dataclasses.replace(
            price.mechanism,
            noise_multiplier=price.mechanism.noise_std / (price.mechanism.sensitivity + 0.5 * price.float32_summing),
        ),
        1e-5,
    )
    assert price.with_summing == pytest.approx(found, rel=1e-6)
    assert price.with_summing > price.accountants["pld"] + 1e-3
    assert price_document(PLAN, price)["not_charged"] == {
        "float32_summing": price.float32_summing,
        "epsilon_with_it": price.with_summing,
    }
    bare = price_plan(PLAN)
    assert (bare.float32_summing, bare.with_summing) == (None, None)


def test_a_plan_without_rounds_has_no_training_to_price_and_says_so() -> None:
    with pytest.raises(UsageError, match=r"privacy\.rounds: expected at least 1 round to price, got none"):
        price_plan(with_changes(COUNTED, {"privacy.rounds": 0}))


def test_a_plan_without_privacy_and_more_partners_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match=r"privacy\.mode: expected a mode with privacy, got none"):
        price_plan(with_changes(PLAN, {"privacy.mode": "none"}))
    with pytest.raises(UsageError, match="expected a person at 1 to 5 partners, got 6"):
        price_plan(PLAN, persons_partners=6)


def test_several_runs_on_the_same_people_compose_as_a_person_at_several_partners_does() -> None:
    price = price_plan(PLAN, people=PEOPLE, size=SIZE, persons_partners=3, runs=3)
    assert price.all_runs == pytest.approx(price.person, abs=0.02)
    assert price.all_runs is not None
    assert price.all_runs > 1.5 * price.accountants["pld"]
    assert price_plan(PLAN, people=PEOPLE, size=SIZE).all_runs == pytest.approx(price.accountants["pld"], abs=1e-6)
    with pytest.raises(UsageError, match="expected at least 1 run, got 0; change --runs"):
        price_plan(PLAN, runs=0)
