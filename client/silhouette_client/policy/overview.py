"""A ledger as a reader wants it: spent by run, purpose and year, what is left, under every accountant. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime

from silhouette_client.policy.budget import YEAR, Budget
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.accounting import ACCOUNTANTS, epsilon
from silhouette_shared.privacy.admission import merged
from silhouette_shared.privacy.ledger import Chain, Charge, Entry, Limits

Document = dict[str, object]


def overview(chain: Chain, today: date) -> Document:
    """The ledger as plain JSON values.

    Args:
        chain: With an opening and limits.
        today: Not before the newest entry.

    Raises:
        UsageError: If the ledger holds no limits yet.
    """
    limits, head = chain.limits, chain.head
    if limits is None or head is None:
        raise UsageError("expected a ledger with limits, got one that was never opened by a node; start the node")
    charged = [entry for entry in chain.entries if isinstance(entry.content, Charge)]
    budget = Budget(chain.entries)
    year = budget.year_epsilon(today, limits)
    relief = budget.next_relief(today)
    return {
        "node": chain.node,
        "entries": len(chain),
        "head": {"sequence": head.sequence, "hash": head.hash.hex()},
        "limits": describe_limits(limits),
        "year": {
            "from": str(today - YEAR),
            "to": str(today),
            "charges": sum(entry.time.date() > today - YEAR for entry in charged),
            "epsilon": year,
            "left": _left(limits.epsilon_per_year, year),
            "less_from": None if relief is None else str(relief),
        },
        "runs": [
            _group("run", run, entries, limits)
            | {
                "spent": (spent := budget.run_epsilon(run, limits)),
                "left": _left(limits.epsilon_per_run, spent),
                "plan_digest": _charge(entries[0]).plan_digest,
                "purposes": _groups("purpose", entries, limits, lambda entry: _charge(entry).purpose),
            }
            for run, entries in _by(charged, lambda entry: _charge(entry).run).items()
        ],
        "purposes": _groups("purpose", charged, limits, lambda entry: _charge(entry).purpose),
        "years": _groups("year", charged, limits, lambda entry: str(entry.time.year)),
        "all": _group("what", "every charge", charged, limits),
    }


def epsilon_at(chain: Chain | None, moments: Sequence[tuple[str, datetime]]) -> list[float | None]:
    """What a run had cost by the tightest accountant at some moments; None where it had charged nothing.

    A charge is written before what it pays for is sent, so a message's cost is in the figure of its own second.

    Args:
        chain: Of the node; None where there is none.
        moments: Run and time of each.
    """
    limits = None if chain is None else chain.limits
    known: dict[tuple[str, int], float | None] = {}
    found = []
    for run, moment in moments:
        own = [
            entry
            for entry in (() if chain is None else chain.entries)
            if isinstance(entry.content, Charge)
            and entry.content.run == run
            and entry.time.replace(microsecond=0) <= moment
        ]
        if (run, len(own)) not in known:
            paid = None
            if own and limits is not None:
                mechanisms = merged([(_charge(entry).mechanism) for entry in own])
                paid = epsilon(mechanisms, limits.delta)
            known[run, len(own)] = paid
        found.append(known[run, len(own)])
    return found


def describe_limits(limits: Limits) -> Document:
    """The limits as plain JSON values."""
    return {
        "epsilon_per_run": limits.epsilon_per_run,
        "epsilon_per_year": limits.epsilon_per_year,
        "delta": limits.delta,
    }


def _groups(name: str, entries: Sequence[Entry], limits: Limits, key: Callable[[Entry], str]) -> list[Document]:
    return [_group(name, value, group, limits) for value, group in _by(entries, key).items()]


def _group(name: str, value: str, entries: Sequence[Entry], limits: Limits) -> Document:
    spending = merged(_charge(entry).mechanism for entry in entries)
    epsilons: dict[str, float | None] = {}
    for accountant in ACCOUNTANTS:
        try:
            epsilons[accountant] = epsilon(spending, limits.delta, accountant) if spending else 0.0
        except UsageError:  # far outside the range where this accountant has an answer
            epsilons[accountant] = None
    return {
        name: value,
        "charges": len(entries),
        "from": str(entries[0].time.date()) if entries else None,
        "to": str(entries[-1].time.date()) if entries else None,
        "epsilon": epsilons,
    }


def _by(entries: Sequence[Entry], key: Callable[[Entry], str]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    return found


def _charge(entry: Entry) -> Charge:
    if not isinstance(entry.content, Charge):
        raise TypeError(f"expected a charge, got {entry.kind}")
    return entry.content


def _left(limit: float | None, spent: float) -> float | None:
    return None if limit is None else max(0.0, limit - spent)
