"""What charges add up to, and how much more fits: a forecast is what a ledger then admits."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from tests.ledgers import ANY, START, STEP, Clock, charge, steps

from silhouette_client.policy.budget import MOST, Budget
from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.policy.overview import overview
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy import SampledGaussian, calibrate, epsilon
from silhouette_shared.privacy.accounting import ACCOUNTANTS
from silhouette_shared.privacy.ledger import BudgetRefusedError, Chain, Limits, Reason

TODAY = START.date()
LIMITS = Limits(epsilon_per_run=4.0, epsilon_per_year=6.0, delta=1e-5)


def admitted(ledger: Ledger, mechanism: SampledGaussian, run: str) -> int:
    """How many rounds of a run the ledger takes."""
    for number in range(1, 10_000):
        try:
            ledger.charge(charge(number, run=run, mechanism=mechanism))
        except BudgetRefusedError:
            return number - 1
    raise AssertionError("it took all")


@pytest.mark.parametrize(
    "limits", [LIMITS, replace(LIMITS, epsilon_per_run=None), replace(LIMITS, epsilon_per_year=None)]
)
@pytest.mark.parametrize("spent", [0, 3])
def test_a_forecast_is_what_the_ledger_then_admits(limits: Limits, spent: int) -> None:
    mechanism = replace(STEP, sampling_rate=0.2, noise_multiplier=1.5)
    ledger = Ledger.in_memory(limits, clock=Clock())
    for number in range(spent):
        ledger.charge(charge(number, run="earlier", mechanism=mechanism))
    found = Budget(ledger.entries).forecast(limits, mechanism=mechanism, rounds=10, delta=1e-5, today=TODAY)
    assert found.rounds == admitted(ledger, mechanism, "next")
    assert found.limited_by is (Reason.run_limit if limits.epsilon_per_run else Reason.year_limit)


def test_a_plan_calibrated_to_the_limit_of_a_run_fits_to_its_last_round() -> None:
    plan = calibrate(epsilon=4.0, delta=1e-5, sampling_rate=0.2, steps=20, clip_norm=1.0)
    found = Budget().forecast(LIMITS, mechanism=plan.after(1), rounds=20, delta=1e-5, today=TODAY)
    assert found.rounds == 20
    assert found.runs == 1
    ledger = Ledger.in_memory(LIMITS)
    assert admitted(ledger, plan.after(1), "run-1") == 20


def test_runs_are_counted_by_the_year_and_none_fits_that_passes_the_limit_of_a_run() -> None:
    small = replace(STEP, noise_multiplier=20.0, sampling_rate=1.0)
    found = Budget().forecast(LIMITS, mechanism=small, rounds=100, delta=1e-5, today=TODAY)
    one = replace(LIMITS, epsilon_per_run=None)
    years = Budget().forecast(one, mechanism=small, rounds=100, delta=1e-5, today=TODAY)
    assert years.rounds is not None
    assert found.runs == years.runs == years.rounds // 100 > 1
    tight = replace(LIMITS, epsilon_per_run=0.5)
    assert Budget().forecast(tight, mechanism=small, rounds=100, delta=1e-5, today=TODAY).runs == 0


def test_without_limits_any_number_fits_and_a_delta_too_large_fits_never() -> None:
    found = Budget().forecast(ANY, mechanism=STEP, rounds=5, delta=1e-5, today=TODAY)
    assert (found.rounds, found.runs, found.limited_by) == (None, None, None)
    found = Budget().forecast(ANY, mechanism=STEP, rounds=5, delta=1e-4, today=TODAY)
    assert (found.rounds, found.runs, found.limited_by) == (0, 0, Reason.delta)


def test_a_forecast_ends_somewhere() -> None:
    quiet = replace(STEP, noise_multiplier=1e5, sampling_rate=1e-3)
    year = replace(LIMITS, epsilon_per_run=None)
    assert Budget().forecast(year, mechanism=quiet, rounds=1, delta=1e-5, today=TODAY).rounds == MOST


def test_the_filter_keeps_its_order_when_limits_change_later() -> None:
    # An order chosen after a release could have been chosen because of it.
    clock = Clock()
    with_change = Ledger.in_memory(LIMITS, clock=clock)
    for number in range(5):
        with_change.charge(charge(number))
    budget = Budget(with_change.entries)
    wide = replace(LIMITS, epsilon_per_year=100.0)
    assert budget.year_epsilon(TODAY, LIMITS) == budget.year_epsilon(TODAY, wide)


def test_the_year_forgets_day_by_day_and_says_when() -> None:
    clock = Clock()
    ledger = Ledger.in_memory(ANY, clock=clock)
    ledger.charge(charge(1))
    clock.forward(days=100)
    ledger.charge(charge(2))
    budget = Budget(ledger.entries)
    both = budget.year_epsilon(TODAY + timedelta(days=364), ANY)
    one = budget.year_epsilon(TODAY + timedelta(days=365), ANY)
    none = budget.year_epsilon(TODAY + timedelta(days=465), ANY)
    assert both > one > none == 0.0
    assert budget.next_relief(TODAY + timedelta(days=100)) == TODAY + timedelta(days=365)
    assert budget.next_relief(TODAY + timedelta(days=365)) == TODAY + timedelta(days=465)
    assert budget.next_relief(TODAY + timedelta(days=465)) is None


def test_the_overview_adds_up_what_was_charged() -> None:
    clock = Clock()
    ledger = Ledger.in_memory(LIMITS, clock=clock)
    for number in range(1, 11):
        ledger.charge(charge(number, mechanism=steps(2)))
    ledger.charge(charge(1, purpose="statistics", mechanism=replace(STEP, noise_multiplier=5.0, sampling_rate=1.0)))
    clock.forward(days=400)
    ledger.charge(charge(1, run="run-2", mechanism=steps(3)))
    chain = Chain(bytes(32))
    for entry in ledger.entries:
        chain.add(chain.seal(entry.content, entry.time))
    document = overview(chain, clock.now.date())
    runs = {run["run"]: run for run in as_list(document["runs"])}
    assert list(runs) == ["run-1", "run-2"]
    by_purpose = {part["purpose"]: part for part in as_list(runs["run-1"]["purposes"])}
    assert by_purpose["training"]["charges"] == 10
    assert by_purpose["training"]["epsilon"] == {
        accountant: epsilon(steps(20), 1e-5, accountant) for accountant in ACCOUNTANTS
    }
    purposes = {part["purpose"]: part["charges"] for part in as_list(document["purposes"])}
    assert purposes == {"training": 11, "statistics": 1}
    assert [(part["year"], part["charges"]) for part in as_list(document["years"])] == [("2026", 11), ("2027", 1)]
    year = document["year"]
    assert isinstance(year, dict)
    assert year["charges"] == 1  # the first run has left it
    assert year["left"] == pytest.approx(6.0 - year["epsilon"])
    assert year["to"] == str(date(2027, 4, 5))


def as_list(value: object) -> list[dict[str, object]]:
    assert isinstance(value, list)
    return value


def test_a_ledger_without_limits_has_no_overview() -> None:
    with pytest.raises(UsageError, match="expected a ledger with limits"):
        overview(Chain(bytes(32)), TODAY)
