"""One training run in Flower's terms: our strategy and the loop around it.

Flower's stock strategies stop a run over one reply with an extra metric, average in a NaN, believe any sample count,
wait for ever for a missing node and call a run in which everyone failed complete. Here every answer is checked, one
bad or missing answer costs that answer, and too few answers are a failure that says so and can be resumed.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray
from torch import Tensor

from silhouette_server.coordination.book import Commitment, RoundRecord, settle
from silhouette_server.coordination.checkpoints import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from silhouette_server.coordination.job import Beside, Counting, Job, SecureJob
from silhouette_server.coordination.replies import checked_reply, checked_statistic, statistic_expected
from silhouette_server.coordination.roster import Member, await_nodes, build_roster, by_node
from silhouette_server.coordination.secure import SecureRounds, SecureSum, VoidRoundError
from silhouette_server.item_start import start_items
from silhouette_server.statistics import ReleasedSum, active_items, make_prior
from silhouette_server.strategy.aggregation import OrderedMean
from silhouette_server.strategy.optimisers import ServerOptimiser
from silhouette_server.strategy.validation import (
    Expectation,
    FloatVector,
)
from silhouette_shared.config import ReleaseName
from silhouette_shared.errors import IntegrityError, SilhouetteError, UnavailableError
from silhouette_shared.model.appraisal import Appraised, Sheet, read_appraisal
from silhouette_shared.model.figures import FIGURES, Released, read_figure
from silhouette_shared.model.prior import ItemPrior, PriorShape
from silhouette_shared.privacy.grid import Grid as PrivacyGrid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg import Layout as SecureLayout
from silhouette_shared.wire import StatisticRequest, TrainRequest
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.messages import POPULARITY, STATISTICS, TRAIN, TRANSITIONS, StatisticName
from silhouette_shared.wire.rounds import WEIGHT, noised_layout, round_terms, training_layout

__all__ = ["Beside", "CheckedStrategy", "Counting", "Job", "RoundRecord", "SecureJob"]

_LOG = logging.getLogger(__name__)

_MESSAGE_TYPES: dict[StatisticName, str] = {"popularity": POPULARITY, "transitions": TRANSITIONS}

_VOID_ROUNDS_IN_A_ROW = 3  # after so many a run stops, resumably

_ITEMS_STARTED = "item start"  # among what was released: that the model has been started with it

_RELEASED = "statistics."  # in a checkpoint, before the names of what was released


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
        self._released: dict[str, Tensor] = {}  # sums, by statistic, and how many partners are in each

    @property
    def parameters(self) -> Tensor:
        """The global model: what is trained, then the prior if there are statistics; shape (D + P,)."""
        return torch.cat([self._optimiser.parameters, self._prior])

    @property
    def model(self) -> Tensor:
        """What the run gives, shape (D + P,): the running mean of the global models if the plan averages them."""
        return torch.cat([self._optimiser.averaged, self._prior])

    @property
    def figures(self) -> dict[str, Released]:
        """What was released of the people beside the training, by its name."""
        secure, found = self._job.secure, {}
        for name, mechanism in ({} if secure is None else secure.figures).items():
            if secure is not None and name in self._released and name != "evaluation":
                total = self._sum_of(name, mechanism)
                found[str(name)] = read_figure(
                    name,
                    secure.vocabulary,
                    total.values.numpy(),
                    total.noise_std,
                    int(self._released[f"{name}.answers"]),
                )
        if (appraised := self.appraisal) is not None:
            found["evaluation"] = appraised.together
        return found

    @property
    def appraisal(self) -> Appraised | None:
        """What the evaluation has shown of the run's model, over everybody and at each partner; None before it."""
        secure = self._job.secure
        if secure is None or "evaluation" not in self._released:
            return None
        total, counted = self._released["evaluation"], self._released["evaluation.counted"].tolist()
        roster = tuple(sorted(secure.desk.pins.partners))
        mechanism = secure.figures["evaluation"]
        # In the mode `local` nobody else's noise is in a partner's place, and `shares` is one.
        drawn = len(counted) if secure.plan.privacy.mode == "distributed" else 1
        return read_appraisal(
            Sheet(roster, models=2 if "evaluation.beside" in self._released else 1),
            total.numpy(),
            mechanism.noise_std * math.sqrt(drawn / mechanism.shares),
            [roster[number] for number in counted],
        )

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
        counted = self._collect(
            f"round {server_round}",
            f"the model of round {server_round - 1} is kept",
            replies,
            mean,
            lambda member, reply: checked_reply(reply, expected),
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

    def _train_securely(self, server_round: int, grid: Grid, secure: SecureJob, rounds: SecureRounds) -> None:
        """One round in which only the sum is seen; a void one leaves the model as it is and uses up its number."""
        job = self._job
        layout = training_layout(
            secure.plan,
            job.layout.size,
            secure.training,
            partners=len(secure.desk.pins.partners),
            people=secure.largest_partner,
        )
        inputs = {"parameters": self.parameters.numpy()}
        try:
            total = self._ask_securely(grid, secure, rounds, "training", server_round, layout, inputs, secure.training)
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
            await_nodes(grid, (member.node_id for member in self._members), job.replies.timeout_seconds)
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

    def _ask_securely(
        self,
        grid: Grid,
        secure: SecureJob,
        rounds: SecureRounds,
        purpose: str,
        number: int,
        layout: SecureLayout,
        inputs: Mapping[str, Vector],
        mechanism: SampledGaussian | None,
    ) -> SecureSum:
        terms = round_terms(
            secure.plan,
            secure.vocabulary,
            purpose=purpose,
            number=number,
            layout=layout,
            inputs=inputs,
            mechanism=mechanism,
        )
        total = rounds.collect(
            grid,
            self._members,
            terms,
            purpose=purpose,
            number=number,
            inputs=inputs,
            timeout_seconds=self._job.replies.timeout_seconds,
        )
        for reason in total.reasons:
            _LOG.warning("%s %d: %s", purpose, number, reason)
        if len(total.survivors) < self._job.replies.minimum:
            raise UnavailableError(
                f"{purpose} {number}: expected at least {self._job.replies.minimum} partners in the sum, got "
                f"{len(total.survivors)} ({'; '.join(total.reasons)}); nothing was made of it: resume the run"
            )
        return total

    def _collect(
        self,
        what: str,
        kept: str,
        replies: Iterable[Message],
        mean: OrderedMean,
        check: Callable[[Member, Message], FloatVector],
    ) -> set[str]:
        """Check every answer, add the good ones to `mean` and return whose they are.

        Raises:
            UnavailableError: If too few answers count; every reason is named.
        """
        members = by_node(self._members)
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
                mean.add(member.partner, check(member, reply))
                counted.add(member.partner)
            except SilhouetteError as error:
                mean.pass_over(member.partner)
                reasons.append(f"{member.partner}: {error}")
        reasons += [f"{partner}: no answer" for partner in sorted(silent)]
        for reason in reasons:
            _LOG.warning("%s: %s", what, reason)
        if len(counted) < self._job.replies.minimum:
            raise UnavailableError(
                f"{what}: expected at least {self._job.replies.minimum} valid "
                f"answers, got {len(counted)} ({'; '.join(reasons)}); "
                f"{kept}: resume the run"
            )
        return counted

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
        if first <= job.schedule.rounds or self._left_to_count() or self._left_to_release():
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
        for statistic in self._left_to_count():
            self._count(statistic, grid, rounds)
        self._start_items()
        for name in self._left_to_release():
            if name != "evaluation":
                self._release(name, grid, rounds)
                self._save(first - 1)
        for number in range(first, job.schedule.rounds + 1):
            if job.enough(number - 1):
                break
            job.book.begin(number)
            try:
                self._one_round(number, grid, rounds)
            except Exception as error:
                if number in job.book.unfinished():
                    foreseen = isinstance(error, SilhouetteError)
                    job.book.void(number, str(error) if foreseen else f"unexpected {type(error).__name__}")
                raise
        for name in self._left_to_release():  # the evaluation, of the model that has come out
            self._release(name, grid, rounds)
            self._save(job.schedule.rounds)
        if (appraised := self.appraisal) is not None:
            beside = bytes(self._released.get("evaluation.beside", torch.zeros(0)).to(torch.uint8).tolist()).hex()
            job.book.evaluate(appraised, beside)
        result = Result()
        result.arrays = _array_record(self.model)
        return result

    def _one_round(self, number: int, grid: Grid, rounds: SecureRounds | None) -> None:
        job = self._job
        started = time.monotonic()
        if job.secure is not None and rounds is not None:
            self._train_securely(number, grid, job.secure, rounds)
        else:
            arrays = _array_record(self.parameters)
            messages = self.configure_train(number, arrays, ConfigRecord(), grid)
            replies = grid.send_and_receive(messages, timeout=job.replies.timeout_seconds)
            self.aggregate_train(number, replies)
        record = replace(self._last, seconds=time.monotonic() - started)
        self._records.append(record)
        # Told before it is kept: a kill in between runs and tells the round again, and none goes untold.
        job.on_round(record, self.model)
        self._save(number)
        if record.replies:
            job.book.commit(Commitment(record, self.model, _last_transcript(rounds), self._counted))

    @property
    def _prior(self) -> Tensor:
        """The prior of the statistics so far, shape (P,): zeros before there is one, nothing without statistics."""
        counting = self._job.counting
        if counting is None:
            return torch.zeros(0)
        return self._released.get("prior", torch.zeros(counting.prior_size))

    def _left_to_count(self) -> tuple[StatisticName, ...]:
        """Statistics of the plan that are not released yet, in their order."""
        counting = self._job.counting
        if counting is None:
            return ()
        return tuple(name for name in STATISTICS if getattr(counting.budget, name) and name not in self._released)

    def _left_to_release(self) -> tuple[ReleaseName, ...]:
        """Figures of the plan that are not released yet, in their order; those without cells are none."""
        secure = self._job.secure
        if secure is None:
            return ()
        return tuple(
            name for name in secure.figures if name not in self._released and FIGURES[name].cells(secure.vocabulary)
        )

    def _release(self, name: ReleaseName, grid: Grid, rounds: SecureRounds | None) -> None:
        """Ask everybody for one figure and keep the sum."""
        secure = self._job.secure
        if secure is None or rounds is None:
            raise ValueError("expected secure aggregation for a figure, got none")
        if name == "evaluation":
            self._evaluate(secure, grid, rounds)
            return
        inputs = {"active": np.empty(0, np.int64)}
        size = len(FIGURES[name].cells(secure.vocabulary))
        total, counted = self._sum_once(name, secure.figures[name], size, inputs, grid, secure, rounds)
        self._released[name] = torch.from_numpy(total)
        self._released[f"{name}.answers"] = torch.tensor(len(counted))

    def _evaluate(self, secure: SecureJob, grid: Grid, rounds: SecureRounds) -> None:
        """Ask how good the model is that has come out, and beside it the one that it may take the place of."""
        inputs = {"parameters": self.model.numpy()}
        other = self._job.beside()
        if other is not None and len(other.parameters) == len(inputs["parameters"]):
            inputs["beside"] = other.parameters.numpy()
        roster = tuple(sorted(secure.desk.pins.partners))
        size = Sheet(roster, len(inputs)).size
        total, counted = self._sum_once("evaluation", secure.figures["evaluation"], size, inputs, grid, secure, rounds)
        self._released["evaluation"] = torch.from_numpy(total)
        self._released["evaluation.counted"] = torch.tensor([roster.index(name) for name in counted])
        if other is not None and "beside" in inputs:
            self._released["evaluation.beside"] = torch.tensor(list(bytes.fromhex(other.digest)))

    def _count(self, statistic: StatisticName, grid: Grid, rounds: SecureRounds | None) -> None:
        """Ask everybody for one statistic, keep the sum, and make the prior of what is there."""
        job, counting = self._job, self._job.counting
        assert counting is not None  # noqa: S101 - there is something left to count
        active = self._active() if statistic == "transitions" else np.empty(0, np.int64)
        secure = job.secure
        if secure is not None and rounds is not None:
            total, counted = self._count_securely(statistic, active, grid, secure, rounds)
            answers = len(counted)
        else:
            total, answers = self._count_openly(statistic, active, grid)
        self._released[statistic] = torch.from_numpy(total)
        self._released[f"{statistic}.answers"] = torch.tensor(answers)
        popularity = self._released_sum("popularity")
        prior = make_prior(
            counting.settings,
            counting.content,
            popularity,
            active_items(popularity, counting.settings.active_items),
            self._released_sum("transitions") if statistic == "transitions" else None,
        )
        self._released["prior"] = prior.vector()
        self._save(0)

    def _start_items(self) -> None:
        """Begin the item table with what was counted, once, if the plan says so."""
        job, counting = self._job, self._job.counting
        if counting is None or not counting.settings.item_start or _ITEMS_STARTED in self._released:
            return
        if job.trained_before:  # what was learnt of the items is worth more than a start
            return
        shape = PriorShape.of(counting.settings)
        prior = ItemPrior.of(self._prior, shape, len(counting.content) - 1, counting.content.shape[1])
        started = start_items(job.initial, job.layout, prior.features, counting.settings.item_start)
        self._optimiser = ServerOptimiser(job.schedule, started)
        self._released[_ITEMS_STARTED] = torch.tensor(1)
        self._save(0)

    def _count_openly(
        self, statistic: StatisticName, active: NDArray[np.int64], grid: Grid
    ) -> tuple[NDArray[np.float64], int]:
        """The sum of everybody's noised sums, and of how many they are."""
        job = self._job
        request = StatisticRequest(
            run=job.run, statistic=statistic, plan_digest=job.plan_digest, active=active
        ).encode()
        messages = [
            Message(request, dst_node_id=member.node_id, message_type=_MESSAGE_TYPES[statistic], group_id=statistic)
            for member in self._members
        ]
        replies = grid.send_and_receive(messages, timeout=job.replies.timeout_seconds)
        mechanism: SampledGaussian = getattr(self._counting.budget, statistic)
        size = self._counting.size(statistic, len(active))
        mean = OrderedMean({member.partner: 1.0 for member in self._members})
        answers = self._collect(
            statistic,
            "what was released before is kept",
            replies,
            mean,
            lambda member, reply: checked_statistic(
                reply, statistic, statistic_expected(job.run, job.plan_digest, size, member, mechanism)
            ),
        )
        return mean.finish() * len(answers), len(answers)

    def _count_securely(
        self,
        statistic: StatisticName,
        active: NDArray[np.int64],
        grid: Grid,
        secure: SecureJob,
        rounds: SecureRounds,
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """The same sum, without a sight of any partner's, and who is in it.

        Raises:
            VoidRoundError: If there is none. Whoever charged for it has spent that; the next attempt is a new charge.
        """
        mechanism: SampledGaussian = getattr(self._counting.budget, statistic)
        size = self._counting.size(statistic, len(active))
        return self._sum_once(statistic, mechanism, size, {"active": active}, grid, secure, rounds)

    def _sum_once(
        self,
        statistic: StatisticName | ReleaseName,
        mechanism: SampledGaussian,
        size: int,
        inputs: Mapping[str, Vector],
        grid: Grid,
        secure: SecureJob,
        rounds: SecureRounds,
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """A sum that is released once, and the partners who are in it.

        Raises:
            VoidRoundError: If there is none. Whoever charged for it has spent that; the next attempt is a new charge.
        """
        lattice = PrivacyGrid.of(mechanism.clip_norm, secure.plan.privacy.grid_bits)
        released = mechanism.on_grid(lattice, size)
        layout = noised_layout(size, released, lattice, people=secure.largest_partner)
        attempts = f"{statistic}.attempts"  # void ones; the number is part of the round and of its charges
        attempt = int(self._released.get(attempts, torch.tensor(0)))
        try:
            total = self._ask_securely(grid, secure, rounds, statistic, attempt, layout, inputs, released)
        except UnavailableError as error:
            self._released[attempts] = torch.tensor(attempt + 1)
            self._save(self._records[-1].round if self._records else 0)
            raise VoidRoundError(
                f"{error}; bring the partners back and resume the run: it asks again, for a charge of its own, "
                "as far as each partner's budget allows"
            ) from error
        (section,) = layout.sections
        return (total.sums[section.name] * section.scale).astype(np.float64), total.survivors

    @property
    def _counting(self) -> Counting:
        if self._job.counting is None:
            raise ValueError("expected a run with statistics, got one without")
        return self._job.counting

    def _active(self) -> NDArray[np.int64]:
        counting = self._job.counting
        assert counting is not None  # noqa: S101 - transitions are counted
        return active_items(self._released_sum("popularity"), counting.settings.active_items)

    def _released_sum(self, statistic: StatisticName) -> ReleasedSum:
        assert self._job.counting is not None  # noqa: S101 - something was counted
        return self._sum_of(statistic, getattr(self._job.counting.budget, statistic))

    def _sum_of(self, statistic: str, mechanism: SampledGaussian) -> ReleasedSum:
        answers = int(self._released[f"{statistic}.answers"])
        return ReleasedSum(self._released[statistic], mechanism.noise_std * math.sqrt(answers / mechanism.shares))

    def _resume(self, rounds: SecureRounds | None = None) -> Commitment | None:
        """Go on from the checkpoint; its last round, None if there is none yet."""
        job, path = self._job, self._job.checkpoint
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
            self._released = {
                name.removeprefix(_RELEASED): tensor
                for name, tensor in checkpoint.tensors.items()
                if name.startswith(_RELEASED)
            }
            if job.counting is not None and self._prior.shape != (job.counting.prior_size,):
                raise ValueError("its prior has another shape")
            self._records = [_record(line) for line in checkpoint.history]
        except (TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: expected a checkpoint of this model: {error}") from None
        return Commitment(self._records[-1], self.model, _last_transcript(rounds)) if self._records else None

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
                tensors={
                    **self._optimiser.state(),
                    **{_RELEASED + name: tensor for name, tensor in self._released.items()},
                },
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
