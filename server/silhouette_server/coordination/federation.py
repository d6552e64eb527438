"""One training run in Flower's terms: our strategy and the loop around it.

Flower's stock strategies stop a run over one reply with an extra metric, average in a NaN, believe any sample count,
wait for ever for a missing node and call a run in which everyone failed complete. Here every answer is checked, one
bad or missing answer costs that answer, and too few answers are a failure that says so and can be resumed.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from silhouette_server.coordination.checkpoints import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from silhouette_server.coordination.roster import Member, build_roster, by_node
from silhouette_server.strategy.aggregation import OrderedMean
from silhouette_server.strategy.optimisers import ServerOptimiser
from silhouette_server.strategy.validation import (
    Expectation,
    FloatVector,
    InvalidReplyError,
    check_update,
)
from silhouette_shared.config import Replies, Schedule
from silhouette_shared.errors import IntegrityError, SilhouetteError, UnavailableError
from silhouette_shared.model.vector import Layout
from silhouette_shared.wire import TrainReply, TrainRequest
from silhouette_shared.wire.messages import TRAIN

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundRecord:
    """What a coordinator knows about one round."""

    round: int
    replies: int
    refused: int
    update_norm: float  # L2 norm of the mean update
    seconds: float


@dataclass(frozen=True)
class Job:
    """A training run, apart from who takes part."""

    run: str
    plan_digest: str
    layout: Layout
    schedule: Schedule
    replies: Replies
    partners: int  # that are expected to take part
    initial: Tensor  # (D,)
    checkpoint: Path | None = None  # None keeps no state
    on_round: Callable[[RoundRecord, Tensor], None] = field(
        default=lambda record, model: None
    )  # maybe twice, see `start`


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

    @property
    def parameters(self) -> Tensor:
        """The global model, shape (D,)."""
        return self._optimiser.parameters

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
        members = by_node(self._members)
        expected = Expectation(
            run=self._job.run,
            round=server_round,
            plan_digest=self._job.plan_digest,
            size=self._job.layout.size,
            limit=self._job.schedule.update_limit,
        )
        mean = OrderedMean({member.partner: float(member.people) for member in self._members})
        counted: set[str] = set()
        reasons: list[str] = []
        silent = {member.partner for member in self._members}
        for reply in replies:
            member = members.get(reply.metadata.src_node_id)
            if member is None:
                # A lost node is reported under the coordinator's own number.
                reasons.append("a node that is not in the roster answered or was lost")
                continue
            if member.partner not in silent:
                reasons.append(f"{member.partner}: answered twice; the first answer counts")
                continue
            silent.remove(member.partner)
            try:
                mean.add(member.partner, _checked(reply, expected))
                counted.add(member.partner)
            except SilhouetteError as error:
                mean.pass_over(member.partner)
                reasons.append(f"{member.partner}: {error}")
        reasons += [f"{partner}: no answer" for partner in sorted(silent)]
        for reason in reasons:
            _LOG.warning("round %d: %s", server_round, reason)
        if len(counted) < self._job.replies.minimum:
            raise UnavailableError(
                f"round {server_round}: expected at least {self._job.replies.minimum} valid "
                f"answers, got {len(counted)} ({'; '.join(reasons)}); "
                f"the model of round {server_round - 1} is kept: resume the run"
            )
        update = mean.finish()
        self._optimiser.step(torch.from_numpy(update.astype(np.float32)))
        if not self.parameters.isfinite().all():
            raise IntegrityError(
                f"round {server_round}: the global model is not finite any more; lower the learning rate in the plan"
            )
        self._last = RoundRecord(
            round=server_round,
            replies=len(counted),
            refused=self._job.partners - len(counted),  # those left out of the roster too
            update_norm=float(np.linalg.norm(update)),
            seconds=0.0,
        )
        return _array_record(self.parameters), None

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
        """Run every round that is left.

        Raises:
            UnavailableError: If too few partners take part or answer; the run can be resumed.
            IntegrityError: If a checkpoint belongs to another run.
        """
        job = self._job
        first = self._resume()
        if first <= job.schedule.rounds:
            self._members, left_out = build_roster(
                grid,
                run=job.run,
                plan_digest=job.plan_digest,
                layout_digest=job.layout.digest,
                expected=job.partners,
                minimum=job.replies.minimum,
                timeout_seconds=job.replies.timeout_seconds,
            )
            for reason in left_out:
                _LOG.warning("left out: %s", reason)
            self.summary()
        for number in range(first, job.schedule.rounds + 1):
            started = time.monotonic()
            arrays = _array_record(self.parameters)
            messages = self.configure_train(number, arrays, ConfigRecord(), grid)
            replies = grid.send_and_receive(messages, timeout=job.replies.timeout_seconds)
            self.aggregate_train(number, replies)
            record = RoundRecord(
                round=number,
                replies=self._last.replies,
                refused=self._last.refused,
                update_norm=self._last.update_norm,
                seconds=time.monotonic() - started,
            )
            self._records.append(record)
            # Told before it is kept: a kill in between runs and tells the round again, and none goes untold.
            job.on_round(record, self.parameters)
            self._save(number)
        result = Result()
        result.arrays = _array_record(self.parameters)
        return result

    def _resume(self) -> int:
        path = self._job.checkpoint
        checkpoint = read_checkpoint(path) if path is not None else None
        if checkpoint is None:
            return 1
        if checkpoint.run != self._job.run or checkpoint.plan_digest != self._job.plan_digest:
            raise IntegrityError(
                f"{path}: expected a checkpoint of run {self._job.run} and plan "
                f"{self._job.plan_digest[:12]}, got run {checkpoint.run} and plan "
                f"{checkpoint.plan_digest[:12]}; resume with the plan that started it"
            )
        try:
            self._optimiser.restore(checkpoint.tensors)
            self._records = [RoundRecord(**record) for record in checkpoint.history]  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: expected a checkpoint of this model: {error}") from None
        return checkpoint.round + 1

    def _save(self, number: int) -> None:
        path = self._job.checkpoint
        if path is None:
            return
        write_checkpoint(
            path,
            Checkpoint(
                run=self._job.run,
                plan_digest=self._job.plan_digest,
                round=number,
                tensors=self._optimiser.state(),
                history=tuple(vars(record) for record in self._records),
            ),
        )


def _checked(reply: Message, expected: Expectation) -> FloatVector:
    if reply.has_error():
        raise InvalidReplyError(f"error {reply.error.code}: {reply.error.reason}")
    answer = TrainReply.decode(reply.content)
    return check_update(
        expected,
        run=answer.run,
        round_number=answer.round,
        plan_digest=answer.plan_digest,
        update=answer.update,
    )


def _array_record(parameters: Tensor) -> ArrayRecord:
    return ArrayRecord({"parameters": Array(parameters.numpy())})
