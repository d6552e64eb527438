"""What a ledger's charges add up to, what is left, and whether one more fits. No I/O.

Days are dates in UTC. A year is the 365 days that end today, and today never goes back: it is not before the newest
entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TypeAlias

import numpy as np

from silhouette_shared.privacy.admission import ORDERS, Filter, FloatVector, divergences, run_epsilon
from silhouette_shared.privacy.ledger import BudgetRefusedError, Charge, Entry, Limits, Reason
from silhouette_shared.privacy.mechanism import SampledGaussian

YEAR = timedelta(days=365)
MOST = 2**24
"""A forecast counts no further."""

_Steps: TypeAlias = dict[SampledGaussian, int]  # how often each mechanism, with one step, was applied

_USUAL_LIMIT = 8.0  # where there is no limit, the filter's order is chosen as if for this one


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How much of a plan still fits.

    Args:
        epsilon: What the whole plan costs a run by itself, as it is compared with the limit of a run.
        rounds: Rounds of a new run that fit today; None if nothing limits them.
        runs: Whole runs that fit today; None if nothing limits them.
        limited_by: Which limit stops the rounds, or None.
    """

    epsilon: float
    rounds: int | None
    runs: int | None
    limited_by: Reason | None


class Budget:
    """The charges of a ledger, added up.

    Args:
        entries: Of the ledger, oldest first; more come by `add`.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._runs: dict[str, _Steps] = {}
        self._plans: dict[str, str] = {}
        self._foreseen: dict[str, tuple[Limits, _Steps]] = {}  # the most that was found to fit, by run
        self._days: dict[date, tuple[FloatVector, _Steps]] = {}
        self._limits: Limits | None = None
        self._filter_order: int | None = None
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Count one more entry."""
        charge = entry.content
        if isinstance(charge, Limits):
            self._limits = charge
        if not isinstance(charge, Charge):
            return
        if self._filter_order is None:
            self._filter_order = _order(charge.mechanism, self._limits)
        _add_to(self._runs.setdefault(charge.run, {}), charge.mechanism)
        self._plans.setdefault(charge.run, charge.plan_digest)
        day = entry.time.date()
        total, steps = self._days.get(day, (np.zeros(len(ORDERS)), {}))
        _add_to(steps, charge.mechanism)
        self._days[day] = (total + divergences(charge.mechanism), steps)

    @property
    def runs(self) -> Mapping[str, tuple[SampledGaussian, ...]]:
        """What each run has spent, equal mechanisms put together."""
        return {run: _spending(steps) for run, steps in self._runs.items()}

    def run_epsilon(self, run: str, limits: Limits) -> float:
        """What a run has spent at the limits' delta, as it is compared with its limit."""
        return _bounded(_spending(self._runs.get(run, {})), limits)

    def year_epsilon(self, today: date, limits: Limits) -> float:
        """What the 365 days that end today have spent at the limits' delta, by the filter."""
        if self._filter_order is None:
            return 0.0
        total, steps = self._year(today)
        return Filter(limits.delta, self._filter_order).epsilon(_spending(steps), total)

    def next_relief(self, today: date) -> date | None:
        """The first day on which something leaves the year; None if nothing is in it."""
        days = [day for day in self._days if day > today - YEAR]
        return min(days) + YEAR if days else None

    def check(self, charge: Charge, today: date, limits: Limits) -> None:
        """Make sure that a charge fits every limit.

        Args:
            charge: Not counted yet.
            today: Not before the newest entry.
            limits: Those that hold now.

        Raises:
            BudgetRefusedError: With the figures: spent before, with this charge, and the limit.
            UsageError: If caps and arithmetic of the mechanisms take all of delta.
        """
        self.foresee(charge.run, charge.plan_digest, (charge.mechanism,), charge.delta, today, limits)

    def foresee(
        self,
        run: str,
        plan_digest: str,
        spending: Sequence[SampledGaussian],
        delta: float,
        today: date,
        limits: Limits,
    ) -> None:
        """Make sure that several charges of one run fit every limit together.

        What fits is remembered: a part of it fits as well, and the tight accountant is asked once.

        Args:
            run: Of all of them.
            plan_digest: Of the run.
            spending: Their mechanisms, not counted yet.
            delta: At which the plan states its epsilon.
            today: Not before the newest entry.
            limits: Those that hold now.

        Raises:
            BudgetRefusedError: With the figures: spent before, with all of these, and the limit.
            UsageError: If caps and arithmetic of the mechanisms take all of delta.
        """
        if delta > limits.delta:
            raise BudgetRefusedError(
                f"expected a delta of at most {limits.delta:g}, got {delta:g}; lower it in the plan", Reason.delta
            )
        plan = self._plans.get(run, plan_digest)
        if plan != plan_digest:
            raise BudgetRefusedError(
                f"expected run {run} to follow plan {plan[:12]}, got {plan_digest[:12]}; start another run for "
                "another plan",
                Reason.other_plan,
            )
        self._check_run(run, spending, limits)
        self._check_year(spending, today, limits)

    def _check_run(self, run: str, spending: Sequence[SampledGaussian], limits: Limits) -> None:
        if limits.epsilon_per_run is None:
            return
        steps = dict(self._runs.get(run, {}))
        for mechanism in spending:
            _add_to(steps, mechanism)
        known_limits, fitting = self._foreseen.get(run, (limits, {}))
        if known_limits == limits and all(fitting.get(one, 0) >= count for one, count in steps.items()):
            return
        asked = _bounded(_spending(steps), limits)
        if asked > limits.epsilon_per_run:
            raise _over(f"run {run}", self.run_epsilon(run, limits), asked, limits.epsilon_per_run, limits)
        self._foreseen[run] = (limits, steps)

    def _check_year(self, spending: Sequence[SampledGaussian], today: date, limits: Limits) -> None:
        if limits.epsilon_per_year is None:
            return
        total, steps = self._year(today)
        for mechanism in spending:
            _add_to(steps, mechanism)
            total = total + divergences(mechanism)
        asked = self._filter(limits, spending[0]).epsilon(_spending(steps), total)
        if asked > limits.epsilon_per_year:
            raise _over("the last 365 days", self.year_epsilon(today, limits), asked, limits.epsilon_per_year, limits)

    def forecast(
        self, limits: Limits, *, mechanism: SampledGaussian, rounds: int, delta: float, today: date
    ) -> Forecast:
        """Say how many rounds and whole runs of a plan fit from today on.

        Args:
            limits: Those that hold now.
            mechanism: Of one round.
            rounds: Of the whole plan.
            delta: At which the plan states its epsilon.
            today: Not before the newest entry.
        """
        epsilon = _bounded((_repeated(mechanism, rounds),), limits)
        if delta > limits.delta:
            return Forecast(epsilon=epsilon, rounds=0, runs=0, limited_by=Reason.delta)
        year, run = limits.epsilon_per_year, limits.epsilon_per_run
        fitting: dict[Reason, int] = {}
        if run is not None:
            fitting[Reason.run_limit] = _most(lambda count: _bounded((_repeated(mechanism, count),), limits) <= run)
        if year is not None:
            filtered = self._filter(limits, mechanism)
            total, steps = self._year(today)
            one = divergences(mechanism)
            fitting[Reason.year_limit] = _most(
                lambda count: (
                    filtered.epsilon(_spending(steps, _repeated(mechanism, count)), total + one * count) <= year
                )
            )
        if not fitting:
            return Forecast(epsilon=epsilon, rounds=None, runs=None, limited_by=None)
        tightest = min(fitting, key=lambda reason: fitting[reason])
        runs = fitting[Reason.year_limit] // rounds if year is not None else None
        if fitting.get(Reason.run_limit, rounds) < rounds:
            runs = 0
        return Forecast(epsilon=epsilon, rounds=fitting[tightest], runs=runs, limited_by=tightest)

    def _year(self, today: date) -> tuple[FloatVector, _Steps]:
        total: FloatVector = np.zeros(len(ORDERS))
        steps: _Steps = {}
        for day, (spent, mechanisms) in self._days.items():
            if day > today - YEAR:
                total = total + spent
                for one, count in mechanisms.items():
                    steps[one] = steps.get(one, 0) + count
        return total, steps

    def _filter(self, limits: Limits, first: SampledGaussian) -> Filter:
        order = _order(first, limits) if self._filter_order is None else self._filter_order
        return Filter(limits.delta, order)


def _order(first: SampledGaussian, limits: Limits | None) -> int:
    """The filter's order: of the ledger's first charge and the limits of that time, whatever comes later."""
    if limits is None:  # only of entries that no chain would hold
        raise ValueError("expected limits before the first charge, got none")
    limit = _USUAL_LIMIT if limits.epsilon_per_year is None else limits.epsilon_per_year
    return Filter.for_ledger(limit, limits.delta, first).order


def _most(fits: Callable[[int], bool]) -> int:
    """The largest count that fits, at most `MOST`; every smaller one fits as well."""
    low, high = 0, 1
    while fits(high):
        low, high = high, high * 2
        if low >= MOST:
            return MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _repeated(mechanism: SampledGaussian, count: int) -> SampledGaussian:
    return mechanism.after(mechanism.steps * count)


def _add_to(steps: _Steps, mechanism: SampledGaussian) -> None:
    one = replace(mechanism, steps=1)
    steps[one] = steps.get(one, 0) + mechanism.steps


def _spending(steps: _Steps, beside: SampledGaussian | None = None) -> tuple[SampledGaussian, ...]:
    everything = dict(steps)
    if beside is not None:
        _add_to(everything, beside)
    return tuple(one.after(count) for one, count in everything.items())


def _bounded(spending: tuple[SampledGaussian, ...], limits: Limits) -> float:
    return run_epsilon(spending, limits.delta, limits.epsilon_per_run)


def _over(what: str, spent: float, asked: float, limit: float, limits: Limits) -> BudgetRefusedError:
    by_run = what.startswith("run ")
    return BudgetRefusedError(
        f"expected at most epsilon {limit:g} at delta {limits.delta:g} for {what}, got {spent:.4g} spent and "
        f"{asked:.4g} with what is asked; "
        + ("end the run here" if by_run else "wait until older charges leave the year (`silhouette budget show`)"),
        Reason.run_limit if by_run else Reason.year_limit,
    )
