"""The registry as the conductor uses it."""

from collections.abc import Callable

from silhouette_server.coordination.book import Commitment, StopRequestedError
from silhouette_server.registry import Registry, RunState
from silhouette_shared.model.vector import Layout

_GOING_ON = (RunState.submitted, RunState.running, RunState.stopping)


class RegistryBook:
    """Rounds of one run in the registry.

    Args:
        registry: Open for writing.
        run: Its name.
        layout: Of the trained parameters.
        before: Called before a round begins; may raise, and the round has not begun then.
    """

    def __init__(self, registry: Registry, run: str, layout: Layout, before: Callable[[], None]) -> None:
        self._registry, self._run, self._layout, self._before = registry, run, layout, before

    def last_begun(self) -> int:
        """Highest number that has begun, 0 if none has."""
        return self._registry.last_begun(self._run)

    def unfinished(self) -> tuple[int, ...]:
        """Numbers that have begun and have no end."""
        return self._registry.unfinished(self._run)

    def begin(self, number: int) -> None:
        """A round begins; StopRequestedError if the run is to stop."""
        if self._registry.stop_requested(self._run):
            raise StopRequestedError("it was asked to stop; go on with `silhouette run resume`")
        self._before()
        self._registry.begin_round(self._run, number)

    def commit(self, commitment: Commitment) -> None:
        """File, card and entry."""
        record = commitment.record
        steps = record.steps
        self._registry.commit_round(
            self._run,
            record.round,
            commitment.model,
            self._layout,
            metrics={"update_norm": float(record.update_norm), "partners": float(record.replies)},
            transcript=commitment.transcript,
            seconds=record.seconds,
            sent=sum(int(step["sent"]) for step in steps),
            received=sum(int(step["received"]) for step in steps),
            survivors=commitment.survivors,
        )
        for partner in commitment.survivors:
            self._registry.contact(partner, "in the sum")

    def void(self, number: int, reason: str) -> None:
        """The round has no model."""
        self._registry.void_round(self._run, number, reason)


class RegistryStore:
    """Which runs are to go on, and how they end.

    Args:
        registry: Open for writing.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def next_run(self) -> str | None:
        """The oldest run that is to go on."""
        return next((run.name for run in self._registry.runs() if run.state in _GOING_ON), None)

    def started(self, run: str) -> None:
        """It goes on now; one that was asked to stop stays so, and stops before its next round."""
        if self._registry.run(run).state is RunState.submitted:
            self._registry.set_state(run, RunState.running)

    def ended(self, run: str, state: str, reason: str) -> None:
        """It completed, stopped or failed."""
        self._registry.set_state(run, state, reason)

    def stop_requested(self, run: str) -> bool:
        """Whether somebody asked it to stop."""
        return self._registry.stop_requested(run)

    def book(self, run: str, layout: Layout, before: Callable[[], None]) -> RegistryBook:
        """Where its rounds are committed."""
        return RegistryBook(self._registry, run, layout, before)
