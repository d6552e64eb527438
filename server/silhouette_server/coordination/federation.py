"""One training run in Flower's terms: our strategy and the loop around it.

Flower's stock strategies stop a run over one reply with an extra metric, average in a NaN, believe any sample count,
wait for ever for a missing node and call a run in which everyone failed complete. Here every answer is checked, one
bad or missing answer costs that answer, and too few answers are a failure that says so and can be resumed.
"""

import logging
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray
from torch import Tensor

from silhouette_server.coordination.analytics import evaluate, release
from silhouette_server.coordination.book import Commitment, RoundRecord, settle
from silhouette_server.coordination.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from silhouette_server.coordination.cohort import Cohort
from silhouette_server.coordination.counting import count
from silhouette_server.coordination.job import Beside, Counting, Job, SecureJob
from silhouette_server.coordination.released import ReleasedSums
from silhouette_server.coordination.replies import checked_reply, collect
from silhouette_server.coordination.roster import Member, await_nodes, build_roster
from silhouette_server.coordination.secure import SecureRounds, SecureSum, VoidRoundError
from silhouette_server.item_start import start_items
from silhouette_server.strategy.aggregation import OrderedMean
from silhouette_server.strategy.optimisers import ServerOptimiser
from silhouette_server.strategy.validation import Expectation
from silhouette_shared.errors import IntegrityError, SilhouetteError, UnavailableError
from silhouette_shared.model.appraisal import Appraised
from silhouette_shared.model.figures import Released
from silhouette_shared.model.prior import ItemPrior, PriorShape
from silhouette_shared.secagg import Layout as SecureLayout
from silhouette_shared.wire import TrainRequest
from silhouette_shared.wire.messages import TRAIN
from silhouette_shared.wire.rounds import WEIGHT, training_layout

__all__ = ["Beside", "CheckedStrategy", "Counting", "Job", "RoundRecord", "SecureJob"]

_LOG = logging.getLogger(__name__)

_VOID_ROUNDS_IN_A_ROW = 3  # after so many a run stops, resumably


class CheckedStrategy(Strategy):
    """Averages checked answers and moves the global model by a server optimiser.

    `start` differs from Flower's: it resumes, it counts answers, and it raises.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._optimiser = ServerOptimiser(job.schedule, job.initial)
        self._members: tuple[Member, ...] = ()
        self._records: list[RoundRecord] = []
        self._last = RoundRecord(0, 0, 0, 0.0, 0.0)
        self._counted: tuple[str, ...] = ()  # whose answers are in the last model
        self._void_in_a_row = 0
        self._released = ReleasedSums(job)

    @property
    def parameters(self) -> Tensor:
        """The global model: what is trained, then the prior if there are statistics; shape (D + P,)."""
        return torch.cat([self._optimiser.parameters, self._released.prior])

    @property
    def model(self) -> Tensor:
        """What the run gives, shape (D + P,): the running mean of the global models if the plan averages them."""
        return torch.cat([self._optimiser.averaged, self._released.prior])

    @property
    def figures(self) -> dict[str, Released]:
        """What was released of the people beside the training, by its name."""
        return self._released.figures

    @property
    def appraisal(self) -> Appraised | None:
        """What the evaluation has shown of the run's model, over everybody and at each partner; None before it."""
        return self._released.appraisal

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """One record a finished round, the ones before a resumption included."""
        return tuple(self._records)

    def summary(self) -> None:
        """Log what is about to run."""
        schedule = self._job.schedule
        _LOG.info(
            "run %s: %d rounds, server optimiser %s, %d parameters, %d partners",
            self._job.run,
            schedule.rounds,
            schedule.server_optimiser,
            self._job.layout.size,
            len(self._members),
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message a member; all carry the same records."""
        request = TrainRequest(
            run=self._job.run,
            round=server_round,
            plan_digest=self._job.plan_digest,
            parameters=arrays["parameters"].numpy(),
        ).encode()
        return [
            Message(request, dst_node_id=m.node_id, message_type=TRAIN, group_id=str(server_round))
            for m in self._members
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every answer and move the model.

        Raises:
            UnavailableError: If too few answers count; every reason is named.
        """
        expected = Expectation(
            run=self._job.run,
            round=server_round,
            plan_digest=self._job.plan_digest,
            size=self._job.layout.size,
            limit=self._job.schedule.update_limit,
        )
        mean = OrderedMean({member.partner: float(member.people) for member in self._members})
        counted = collect(
            replies,
            self._members,
            mean,
            lambda member, reply: checked_reply(reply, expected),
            what=f"round {server_round}",
            kept=f"the model of round {server_round - 1} is kept",
            minimum=self._job.replies.minimum,
        )
        self._move(server_round, mean.finish(), counted)
        return _array_record(self.parameters), None

    def _move(self, server_round: int, update: NDArray[np.float64], counted: Collection[str]) -> None:
        """Move the model along a mean update of these partners."""
        self._optimiser.step(torch.from_numpy(update.astype(np.float32)), self._noise_std(server_round, counted))
        if not self.parameters.isfinite().all():
            raise IntegrityError(
                f"round {server_round}: the global model is not finite any more; lower the learning rate in the plan"
            )
        self._counted = tuple(sorted(counted))
        self._last = RoundRecord(
            round=server_round,
            replies=len(counted),
            refused=self._job.partners - len(counted),  # those left out of the roster too
            update_norm=float(np.linalg.norm(update)),
            seconds=0.0,
        )

    def _train_securely(self, server_round: int, secure: SecureJob, cohort: Cohort) -> None:
        """One round in which only the sum is seen; a void one leaves the model as it is and uses up its number."""
        job = self._job
        layout = training_layout(
            secure.plan,
            job.layout.size,
            secure.training,
            partners=len(secure.partners),
            people=secure.largest_partner,
        )
        inputs = {"parameters": self.parameters.numpy()}
        try:
            total = cohort.sum_securely("training", server_round, layout, inputs, secure.training)
        except VoidRoundError as error:
            _LOG.warning("round %d is void: %s", server_round, error)
            job.book.void(server_round, str(error))
            self._void_in_a_row += 1
            if self._void_in_a_row >= _VOID_ROUNDS_IN_A_ROW:
                raise UnavailableError(
                    f"{error}; {self._void_in_a_row} rounds in a row are void and the model is as it was before them: "
                    "bring the partners back and resume the run"
                ) from error
            self._last = RoundRecord(round=server_round, replies=0, refused=job.partners, update_norm=0.0, seconds=0.0)
            # Otherwise the next rounds would be void before a partner that is being started again is back.
            await_nodes(cohort.grid, (member.node_id for member in self._members), job.replies.timeout_seconds)
            return
        self._void_in_a_row = 0
        self._move(server_round, self._mean(server_round, secure, layout, total), total.survivors)
        self._last = replace(self._last, steps=_steps_of(total))

    def _mean(
        self, server_round: int, secure: SecureJob, layout: SecureLayout, total: SecureSum
    ) -> NDArray[np.float64]:
        """The mean update that a sum stands for, shape (D,)."""
        section = layout.sections[0]
        summed = total.sums[section.name].astype(np.float64) * section.scale
        if secure.training is None or secure.plan.privacy.mode != "distributed":
            return summed / float(total.sums[WEIGHT][0])
        privacy = secure.plan.privacy
        there = sum(member.people for member in self._members if member.partner in total.survivors)
        rate = privacy.learning_rate * privacy.learning_rate_factor(server_round)
        return summed * (-rate / (privacy.sampling_rate * there))

    def _noise_std(self, number: int, counted: Collection[str]) -> float:
        """Of each coordinate of the mean update, where a partner takes one plain step a round; 0 without privacy."""
        mechanism, schedule = self._job.training, self._job.schedule
        if mechanism is None:
            return 0.0
        people = sum(member.people for member in self._members if member.partner in counted)
        rate = schedule.learning_rate * schedule.learning_rate_factor(number)
        noise = mechanism.noise_std * math.sqrt(len(counted) / mechanism.shares)
        return rate * noise / (mechanism.sampling_rate * people)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No evaluation at the partners: a metric of real people is a release, and none is charged for it."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None

    def start(  # type: ignore[override]
        self, grid: Grid, **_: object
    ) -> Result:
        """Run every round that is left, or until the job says that those done are enough.

        Raises:
            UnavailableError: If too few partners take part or answer; the run can be resumed.
            IntegrityError: If a checkpoint belongs to another run.
        """
        job = self._job
        rounds = None if job.secure is None else SecureRounds(job.run, job.secure.desk)
        first = settle(job.book, self._resume(rounds))
        if first <= job.schedule.rounds or self._released.statistics_left() or self._released.figures_left():
            self._members, left_out = build_roster(
                grid,
                run=job.run,
                plan_digest=job.plan_digest,
                layout_digest=job.layout.digest,
                expected=job.partners,
                minimum=job.replies.minimum,
                timeout_seconds=job.replies.timeout_seconds,
                introduction=job.introduction,
            )
            for reason in left_out:
                _LOG.warning("left out: %s", reason)
            self.summary()
        cohort = Cohort(job, grid, self._members, rounds)
        for statistic in self._released.statistics_left():
            with self._keeping():
                count(statistic, cohort, self._released)
        self._start_items()
        for name in self._released.figures_left():
            if name != "evaluation":
                with self._keeping():
                    release(name, cohort, self._released)
        for number in range(first, job.schedule.rounds + 1):
            if job.enough(number - 1):
                break
            job.book.begin(number)
            try:
                self._one_round(number, cohort)
            except Exception as error:
                if number in job.book.unfinished():
                    foreseen = isinstance(error, SilhouetteError)
                    job.book.void(number, str(error) if foreseen else f"unexpected {type(error).__name__}")
                raise
        if "evaluation" in self._released.figures_left():
            with self._keeping():
                evaluate(self.model, cohort, self._released)
        if (appraised := self.appraisal) is not None:
            job.book.evaluate(appraised, self._released.beside)
        result = Result()
        result.arrays = _array_record(self.model)
        return result

    def _one_round(self, number: int, cohort: Cohort) -> None:
        job = self._job
        started = time.monotonic()
        if job.secure is not None:
            self._train_securely(number, job.secure, cohort)
        else:
            arrays = _array_record(self.parameters)
            messages = self.configure_train(number, arrays, ConfigRecord(), cohort.grid)
            replies = cohort.grid.send_and_receive(messages, timeout=job.replies.timeout_seconds)
            self.aggregate_train(number, replies)
        record = replace(self._last, seconds=time.monotonic() - started)
        self._records.append(record)
        # Told before it is kept: a kill in between runs and tells the round again, and none goes untold.
        job.on_round(record, self.model)
        self._save()
        if record.replies:
            job.book.commit(Commitment(record, self.model, _last_transcript(cohort.rounds), self._counted))

    def _start_items(self) -> None:
        """Begin the item table with what was counted, once, if the plan says so."""
        job, counting = self._job, self._job.counting
        if counting is None or not counting.settings.item_start or self._released.items_started:
            return
        if job.trained_before:  # what was learnt of the items is worth more than a start
            return
        shape = PriorShape.of(counting.settings)
        prior = ItemPrior.of(self._released.prior, shape, len(counting.content) - 1, counting.content.shape[1])
        started = start_items(job.initial, job.layout, prior.features, counting.settings.item_start)
        self._optimiser = ServerOptimiser(job.schedule, started)
        self._released.mark_items_started()
        self._save()

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Write down what was released in the block; or, where that came to nothing, that an attempt is used up."""
        try:
            yield
        except VoidRoundError:
            self._save()
            raise
        self._save()

    def _resume(self, rounds: SecureRounds | None = None) -> Commitment | None:
        """Go on from the checkpoint; its last round, None if there is none yet."""
        path = self._job.checkpoint
        checkpoint = read_checkpoint(path) if path is not None else None
        if checkpoint is None:
            return None
        if checkpoint.run != self._job.run or checkpoint.plan_digest != self._job.plan_digest:
            raise IntegrityError(
                f"{path}: expected a checkpoint of run {self._job.run} and plan "
                f"{self._job.plan_digest[:12]}, got run {checkpoint.run} and plan "
                f"{checkpoint.plan_digest[:12]}; resume with the plan that started it"
            )
        try:
            self._optimiser.restore(checkpoint.tensors)
            self._released.restore(checkpoint.tensors)
            self._records = [_record(line) for line in checkpoint.history]
        except (TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: expected a checkpoint of this model: {error}") from None
        return Commitment(self._records[-1], self.model, _last_transcript(rounds)) if self._records else None

    def _save(self) -> None:
        path = self._job.checkpoint
        if path is None:
            return
        write_checkpoint(
            path,
            Checkpoint(
                run=self._job.run,
                plan_digest=self._job.plan_digest,
                round=self._records[-1].round if self._records else 0,
                tensors={**self._optimiser.state(), **self._released.state()},
                history=tuple(vars(record) for record in self._records),
            ),
        )


def _last_transcript(rounds: SecureRounds | None) -> bytes | None:
    return rounds.transcripts[-1] if rounds is not None and rounds.transcripts else None


def _record(line: Mapping[str, Any]) -> RoundRecord:
    """A record as a checkpoint has it; TypeError if its fields are others."""
    return RoundRecord(**{**line, "steps": tuple(line.get("steps", ()))})


def _steps_of(total: SecureSum) -> tuple[dict[str, float | int | str], ...]:
    return tuple({**vars(cost), "unevenness": total.unevenness} for cost in total.costs)


def _array_record(parameters: Tensor) -> ArrayRecord:
    return ArrayRecord({"parameters": Array(parameters.numpy())})
