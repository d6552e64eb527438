"""What a registry's entries come to: runs, rounds, models and the alias, and which change may follow which.

Nothing is stored but the entries. What they come to is computed from them, so it cannot disagree with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from silhouette_server.registry.entries import (
    Amended,
    Begun,
    Committed,
    Content,
    Entry,
    Moved,
    Named,
    Submitted,
    Voided,
)
from silhouette_shared.cards.documents import NAME, Parent
from silhouette_shared.errors import RefusedError, UsageError

INTERRUPTED = "interrupted"
"""Why a round is void that began and was not heard of again."""


class TransitionError(RefusedError):
    """A change that may not follow what was before."""


class UnknownError(UsageError):
    """There is no such run, round or model."""


class RunState(StrEnum):
    """Where a run stands."""

    submitted = "submitted"
    running = "running"
    stopping = "stopping"
    stopped = "stopped"
    failed = "failed"
    completed = "completed"


class RoundState(StrEnum):
    """Where a round stands."""

    running = "running"
    committed = "committed"
    void = "void"


FOLLOWING: Mapping[RunState, frozenset[RunState]] = {
    RunState.submitted: frozenset({RunState.running, RunState.stopped, RunState.failed}),
    RunState.running: frozenset({RunState.stopping, RunState.stopped, RunState.failed, RunState.completed}),
    RunState.stopping: frozenset({RunState.stopped, RunState.failed, RunState.completed}),
    # Resumed, at once or by whoever takes submitted runs.
    RunState.stopped: frozenset({RunState.submitted, RunState.running}),
    RunState.failed: frozenset({RunState.submitted, RunState.running}),
    RunState.completed: frozenset(),
}
"""Which state may follow which."""

UNFINISHED = frozenset({RunState.submitted, RunState.running, RunState.stopping})
"""States in which somebody works on a run, or is about to."""


@dataclass(frozen=True, kw_only=True)
class RoundView:
    """A round as it stands."""

    number: int
    state: RoundState
    began: int  # UTC seconds
    ended: int | None = None
    reason: str = ""  # why it is void
    commitment: Committed | None = None
    edition: int = 0  # of its card
    card: str = ""  # SHA-256 of its newest card


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as it stands."""

    name: str
    submission: Submitted
    state: RunState
    reason: str
    submitted: int  # UTC seconds
    changed: int  # UTC seconds, of the last entry about it
    rounds: Mapping[int, RoundView] = field(default_factory=dict)

    @property
    def plan_digest(self) -> str:
        """Of its plan."""
        return self.submission.plan_digest

    @property
    def parent(self) -> Parent | None:
        """The model that it starts from."""
        return self.submission.parent

    @property
    def last_begun(self) -> int:
        """Highest number that has begun; 0 if none has."""
        return max(self.rounds, default=0)

    @property
    def last_committed(self) -> int:
        """Highest number with a model; 0 if none has."""
        return max(self._in(RoundState.committed), default=0)

    @property
    def unfinished(self) -> tuple[int, ...]:
        """Numbers that have begun and have no end."""
        return tuple(sorted(self._in(RoundState.running)))

    @property
    def committed(self) -> tuple[RoundView, ...]:
        """Rounds with a model, in order."""
        return tuple(self.rounds[number] for number in sorted(self._in(RoundState.committed)))

    @property
    def void(self) -> tuple[RoundView, ...]:
        """Rounds without one, in order."""
        return tuple(self.rounds[number] for number in sorted(self._in(RoundState.void)))

    def _in(self, state: RoundState) -> Iterator[int]:
        return (number for number, one in self.rounds.items() if one.state is state)

    def round(self, number: int) -> RoundView:
        """One round; UnknownError if it has not begun."""
        if number not in self.rounds:
            raise UnknownError(
                f"run {self.name}: expected one of its {len(self.rounds)} rounds, got {number}; see `silhouette run "
                f"show {self.name}`"
            )
        return self.rounds[number]


@dataclass(frozen=True)
class Contents:
    """Everything in a registry, as it stands after an entry."""

    runs: Mapping[str, RunView] = field(default_factory=dict)
    named: tuple[Named, ...] = ()  # every change of the alias, oldest first

    def run(self, name: str) -> RunView:
        """One run; UnknownError if there is none of this name."""
        if name not in self.runs:
            known = ", ".join(list(self.runs)[-5:]) or "none"
            raise UnknownError(f"expected the name of a run, got {name!r}; the latest are: {known}")
        return self.runs[name]

    @property
    def promoted(self) -> Named | None:
        """What the alias stands for; None before the first promotion."""
        return self.named[-1] if self.named else None

    @property
    def previous(self) -> Named | None:
        """The promotion that a rollback goes back to; None if there is none.

        A rollback takes the promotion before off, so that several go further and further back.
        """
        stack = self._stack()
        return stack[-2] if len(stack) > 1 else None

    def _stack(self) -> list[Named]:
        stack: list[Named] = []
        for one in self.named:
            if one.reason == "rollback":
                stack.pop()
            else:
                stack.append(one)
        return stack

    def after(self, entry: Entry) -> Contents:
        """What it comes to with one more entry.

        Raises:
            TransitionError: If that may not follow.
            UnknownError: If it is about something that is not there.
        """
        content = entry.content
        if isinstance(content, Submitted):
            return self._submitted(content, entry.time)
        if isinstance(content, Named):
            return self._named(content)
        run = self.run(content.run)
        changed = _with(run, content, entry.time)
        return replace(self, runs={**self.runs, run.name: replace(changed, changed=entry.time)})

    def _submitted(self, content: Submitted, time: int) -> Contents:
        name = content.run
        if NAME.fullmatch(name) is None:
            raise UsageError(
                f"expected a run's name of 1 to 64 letters, digits, hyphens or underscores, got {name!r}; change it"
            )
        if name.lower() in {known.lower() for known in self.runs}:  # some file systems know no difference
            raise TransitionError(f"run {name}: expected a new name, got one that is taken; take another")
        run = RunView(name=name, submission=content, state=RunState.submitted, reason="", submitted=time, changed=time)
        return replace(self, runs={**self.runs, name: run})

    def _named(self, content: Named) -> Contents:
        self.run(content.run).round(content.round)
        if self.runs[content.run].rounds[content.round].state is not RoundState.committed:
            raise TransitionError(f"expected a committed round, got {content.run}:{content.round}; choose another")
        if content.number != len(self.named) + 1:
            raise TransitionError(
                f"expected alias number {len(self.named) + 1}, got {content.number}; somebody else changed it: look "
                "again"
            )
        if content.reason == "rollback":
            back = self.previous
            if back is None or (back.run, back.round) != (content.run, content.round):
                raise TransitionError(
                    f"expected the promotion before this one, got {content.run}:{content.round}; promote it instead"
                )
        return replace(self, named=(*self.named, content))


def _with(run: RunView, content: Content, time: int) -> RunView:
    if isinstance(content, Moved):
        return _moved(run, RunState(content.state), content.reason)
    if isinstance(content, Begun):
        return _begun(run, content, time)
    if isinstance(content, Committed):
        ended = replace(
            _running(run, content.round),
            state=RoundState.committed,
            ended=time,
            commitment=content,
            edition=1,
            card=content.card,
        )
        return _round(run, ended)
    if isinstance(content, Voided):
        ended = replace(_running(run, content.round), state=RoundState.void, ended=time, reason=content.reason)
        return _round(run, ended)
    assert isinstance(content, Amended)  # noqa: S101 - the others are handled by the caller
    before = run.round(content.round)
    if before.state is not RoundState.committed or content.edition != before.edition + 1:
        raise TransitionError(
            f"{run.name}:{content.round}: expected edition {before.edition + 1} of the card of a committed round, got "
            f"{content.edition} of a round that is {before.state}; look again"
        )
    return _round(run, replace(before, edition=content.edition, card=content.card))


def _moved(run: RunView, state: RunState, reason: str) -> RunView:
    if state not in FOLLOWING[run.state]:
        allowed = ", ".join(sorted(FOLLOWING[run.state])) or "nothing"
        raise TransitionError(
            f"run {run.name}: expected {allowed} to follow {run.state}, got {state}; see `silhouette run show "
            f"{run.name}`"
        )
    if state is RunState.completed and run.unfinished:
        raise TransitionError(
            f"run {run.name}: expected every round to have an end, got round {run.unfinished[0]} without one; commit "
            "it or make it void"
        )
    return replace(run, state=state, reason=reason)


def _begun(run: RunView, content: Begun, time: int) -> RunView:
    if run.state is not RunState.running:
        raise TransitionError(
            f"run {run.name}: expected a running run for round {content.round}, got one that is {run.state}; "
            "resume it first"
        )
    if run.unfinished:
        raise TransitionError(
            f"run {run.name}: expected round {run.unfinished[0]} to end first, got round {content.round}; commit it or "
            "make it void"
        )
    if content.round <= run.last_begun:
        raise TransitionError(
            f"run {run.name}: expected a round after {run.last_begun}, got {content.round}; a number is used once"
        )
    return _round(run, RoundView(number=content.round, state=RoundState.running, began=time))


def _running(run: RunView, number: int) -> RoundView:
    found = run.round(number)
    if found.state is not RoundState.running:
        raise TransitionError(
            f"{run.name}:{number}: expected a round without an end, got one that is {found.state}; a round ends once"
        )
    return found


def _round(run: RunView, changed: RoundView) -> RunView:
    return replace(run, rounds={**run.rounds, changed.number: changed})
