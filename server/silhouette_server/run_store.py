"""The registry as the conductor uses it."""

import logging
from collections.abc import Callable

from silhouette_server.coordination.book import Commitment, StopRequestedError
from silhouette_server.coordination.handing_out import Promoted
from silhouette_server.coordination.job import Beside
from silhouette_server.registry import Registry, RunState, UnknownError
from silhouette_server.registry.appraisals import evaluation_of
from silhouette_shared.cards import PROMOTED, unpack_model
from silhouette_shared.config import Plan
from silhouette_shared.model.appraisal import Appraised
from silhouette_shared.model.vector import Layout

_LOG = logging.getLogger(__name__)

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

    def evaluate(self, appraised: Appraised, beside: str) -> None:
        """A new edition of the last model's card, unless it says so already."""
        found = evaluation_of(appraised, beside)
        if found is None or not self._registry.last_committed(self._run):
            _LOG.warning(
                "run %s: its evaluation says nothing (%s); no card has it",
                self._run,
                "its noise leaves nobody: give it a larger share" if found is None else "no round was committed",
            )
            return
        if self._registry.model(self._run).card.evaluation != found:
            self._registry.amend(self._run, evaluation=found)


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

    def promoted(self) -> Promoted | None:
        """What is promoted, as nodes get it."""
        found = self._registry.promoted()
        if found is None:
            return None
        alias, document, model = found
        return Promoted(alias.number, document, model.signed_card, model.read)

    def beside(self, run: str, layout: Layout) -> Beside | None:
        """The promoted model, if the run's people can be asked about it by the run's plan.

        It has to be of the same shape and catalogue, and be read the same way.
        """
        try:
            promoted = self._registry.model(PROMOTED)
        except UnknownError:
            return None
        catalogue = self._registry.run(run).submission.catalogue
        alike = _read_by(self._registry.plan(run)) == _read_by(self._registry.plan(promoted.card.run))
        if not alike or (promoted.card.layout, promoted.card.catalogue) != (layout.digest, catalogue):
            _LOG.info("run %s is evaluated alone: the promoted model is of another shape, plan or catalogue", run)
            return None
        return Beside(unpack_model(promoted.read(), layout), promoted.card.model)


def _read_by(plan: Plan) -> tuple[object, ...]:
    """What of a plan says how a model's numbers are used."""
    counted = plan.statistics
    used = (counted.half_life, counted.content_half_life, counted.transition_weight, counted.content_weight)
    return plan.model, plan.data.history_length, counted.active_items, counted.rank, used
