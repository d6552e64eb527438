"""What the page shows, worked out from the registry, the roster and the processes. No disk, no clock, no markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from silhouette_server.registry.state import UNFINISHED, Contents, RoundState, RoundView, RunState, RunView
from silhouette_shared.cards.documents import Parent
from silhouette_shared.config import Plan

_LATEST = 40
"""Rounds that a run's table shows."""

_MISSED = 3
"""Rounds in a row without a partner after which it is said to be missing."""


@dataclass(frozen=True)
class Process:
    """One process of the coordinator."""

    name: str
    state: str
    seconds: float  # since it is in this state
    restarts: int
    memory: int  # bytes
    reason: str


@dataclass(frozen=True)
class Enrolled:
    """One member of the roster."""

    name: str
    state: str
    people: int  # declared


@dataclass(frozen=True)
class Partner:
    """A partner as the rounds of the latest run show it."""

    name: str
    state: str  # "in every round", "in the last round", "missing", "revoked", "not seen yet"
    good: bool
    people: int
    counted: int  # committed rounds of the latest run with its update
    committed: int  # committed rounds of the latest run
    last: int | None  # the last of them
    seen: int | None  # seconds since its last contact


@dataclass(frozen=True)
class Row:
    """One line of the list of runs."""

    name: str
    state: RunState
    reason: str
    plan: str  # its name
    mode: str
    begun: int
    committed: int
    void: int
    rounds: int
    share: float  # of its rounds that have begun, 0 to 1
    spent: float | None  # epsilon of the run so far
    total: float | None  # and of the runs it started from
    promised: float | None
    spent_share: float  # of what is promised, 0 to 1
    last_seconds: float | None
    median_seconds: float | None
    left_seconds: float | None  # until its last round, at the median
    submitted: int
    changed: int
    parent: Parent | None
    partners: int


@dataclass(frozen=True)
class Detail:
    """One run with its rounds."""

    row: Row
    latest: tuple[RoundView, ...]  # the newest first
    update_norms: tuple[tuple[float, float], ...]  # (round, value)
    seconds: tuple[tuple[float, float], ...]
    megabytes: tuple[tuple[float, float], ...]
    spent: tuple[tuple[float, float], ...]  # (round, epsilon of this run)
    composed: tuple[tuple[float, float], ...]  # with the runs it started from; empty where there are none
    partners: tuple[str, ...]  # that are expected


@dataclass(frozen=True)
class Overview:
    """Everything on the first page."""

    rows: tuple[Row, ...]  # the newest first
    latest: Detail | None  # the run somebody works on, else the newest
    partners: tuple[Partner, ...]
    processes: tuple[Process, ...]
    promoted: str | None
    promoted_number: int
    previous: str | None
    busy: bool  # whether somebody works on a run


def overview(
    contents: Contents,
    plans: Mapping[str, Plan],
    roster: Sequence[Enrolled],
    contacts: Mapping[str, tuple[int, str]],
    processes: Sequence[Process],
    now: int,
) -> Overview:
    """The first page.

    Args:
        contents: Of the registry.
        plans: By run.
        roster: Everybody on it.
        contacts: When each partner was last seen, in UTC seconds, and how.
        processes: Of the coordinator; empty where none is started.
        now: UTC seconds.
    """
    runs = list(contents.runs.values())
    at_work = [run for run in runs if run.state in UNFINISHED]
    latest = (at_work or runs)[-1] if runs else None
    promoted, previous = contents.promoted, contents.previous
    return Overview(
        rows=tuple(_row(run, plans[run.name]) for run in reversed(runs)),
        latest=None if latest is None else detail(latest, plans[latest.name]),
        partners=_partners(roster, latest, contacts, now),
        processes=tuple(processes),
        promoted=None if promoted is None else f"{promoted.run}:{promoted.round}",
        promoted_number=len(contents.named),
        previous=None if previous is None else f"{previous.run}:{previous.round}",
        busy=bool(at_work),
    )


def detail(run: RunView, plan: Plan) -> Detail:
    """One run."""
    commitments = [one.commitment for one in run.committed if one.commitment is not None]
    return Detail(
        row=_row(run, plan),
        latest=tuple(run.rounds[number] for number in sorted(run.rounds, reverse=True)[:_LATEST]),
        update_norms=tuple(
            (one.round, one.metrics["update_norm"]) for one in commitments if "update_norm" in one.metrics
        ),
        seconds=tuple((one.round, one.seconds) for one in commitments),
        megabytes=tuple((one.round, (one.sent + one.received) / 1e6) for one in commitments),
        spent=tuple((one.round, one.epsilon) for one in commitments if one.epsilon is not None),
        composed=()
        if run.parent is None
        else tuple((one.round, one.total_epsilon) for one in commitments if one.total_epsilon is not None),
        partners=tuple(sorted(run.submission.partners)),
    )


def _row(run: RunView, plan: Plan) -> Row:
    commitments = [one.commitment for one in run.committed if one.commitment is not None]
    last = commitments[-1] if commitments else None
    seconds = sorted(one.seconds for one in commitments)
    median = seconds[len(seconds) // 2] if seconds else None
    promised = None if plan.privacy.mode == "none" else plan.privacy.epsilon
    spent = None if last is None else last.epsilon
    rounds = run.submission.rounds
    left = rounds - run.last_begun
    return Row(
        name=run.name,
        state=run.state,
        reason=run.reason,
        plan=plan.name,
        mode=plan.privacy.mode,
        begun=len(run.rounds),
        committed=len(run.committed),
        void=len(run.void),
        rounds=rounds,
        share=min(1.0, len(run.rounds) / rounds) if rounds else 0.0,
        spent=spent,
        total=None if last is None else last.total_epsilon,
        promised=promised,
        spent_share=0.0 if spent is None or promised is None else min(1.0, spent / promised),
        last_seconds=None if last is None else last.seconds,
        median_seconds=median,
        left_seconds=None if median is None or run.state not in UNFINISHED or left <= 0 else left * median,
        submitted=run.submitted,
        changed=run.changed,
        parent=run.parent,
        partners=len(run.submission.partners),
    )


def _partners(
    roster: Sequence[Enrolled], run: RunView | None, contacts: Mapping[str, tuple[int, str]], now: int
) -> tuple[Partner, ...]:
    committed = () if run is None else run.committed
    known = [one.commitment for one in committed if one.commitment is not None and one.commitment.survivors]
    found = []
    for member in roster:
        counted = [one.round for one in known if member.name in one.survivors]
        time = contacts.get(member.name)
        state, good = _standing(member, counted, [one.round for one in known])
        found.append(
            Partner(
                name=member.name,
                state=state,
                good=good,
                people=member.people,
                counted=len(counted),
                committed=len(known),
                last=counted[-1] if counted else None,
                seen=None if time is None else max(0, now - time[0]),
            )
        )
    return tuple(found)


def _standing(member: Enrolled, counted: Sequence[int], rounds: Sequence[int]) -> tuple[str, bool]:
    if member.state != "active":
        return member.state, False
    if not rounds:
        return "no round yet", True
    if not counted:
        return "in no round", False
    if counted[-1] != rounds[-1]:
        missed = sum(1 for number in rounds if number > counted[-1])
        return f"missing for {missed} rounds" if missed >= _MISSED else f"missed {missed}", False
    return ("in every round" if len(counted) == len(rounds) else "back in the sum"), True


def outcome(one: RoundView) -> str:
    """A round's state in a word."""
    return "under way" if one.state is RoundState.running else one.state.value


def missing(one: RoundView, partners: Sequence[str]) -> tuple[str, ...]:
    """Who is not in the sum of a committed round; nobody where that is not known."""
    there = () if one.commitment is None else one.commitment.survivors
    return tuple(name for name in partners if name not in there) if there else ()
