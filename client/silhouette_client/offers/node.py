"""A node at work: it answers offers, and the messages of each run that it agreed to through that run's agent.

Runs are opened from their folders, so a node that was killed goes on with what it had agreed to.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import torch
from flwr.clientapp import ClientApp

from silhouette_client.app import Answering, Enrolled, make_client_app
from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import check_own_place, update_roster
from silhouette_client.node_folder import DEVICE_VARIABLE
from silhouette_client.offers.acceptance import Accepted, Surroundings, accept_offer, open_run
from silhouette_client.offers.people import PeopleSource, people_in, stamp_of
from silhouette_client.offers.run_folder import sweep
from silhouette_client.offers.sizes import warm_up
from silhouette_client.peers import PeerMemory
from silhouette_client.policy.ledger_store import LEDGER_NAME, Ledger
from silhouette_client.policy.participation import Standing, consider_round
from silhouette_client.policy.terms import read_policy
from silhouette_client.policy.witness import FileWitness, Witness
from silhouette_client.promoted import held_number, is_missing, take
from silhouette_shared.enrolment.certificates import State, check_dates
from silhouette_shared.enrolment.offers import is_run
from silhouette_shared.enrolment.refusals import CodedRefusalError, code_of
from silhouette_shared.errors import SilhouetteError
from silhouette_shared.private_files import make_folder, replace
from silhouette_shared.wire import (
    DescribeRequest,
    Description,
    StatisticReply,
    StatisticRequest,
    TrainReply,
    TrainRequest,
)
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.exchange import Answer, Exchange
from silhouette_shared.wire.messages import StatisticName
from silhouette_shared.wire.offers import OfferAnswer, OfferRequest, Refusal, RosterHeld, RosterNotice, model_digest
from silhouette_shared.wire.promoted import ModelHeld, ModelNotice

_LOG = logging.getLogger(__name__)

_WARM_RUNS = 2  # agents kept open; an older one is opened again when it is asked
_DAY_SECONDS = 86_400


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Answered(Answering, Enrolled, Protocol):
    """A node, or something around one, that answers offers and the messages of runs."""


class RoundDiary:
    """When the rounds of the last 24 hours began, on disk, so that a restart does not forget them.

    Args:
        path: Where; a damaged file is taken for a day with none, and the ledger counts by itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: list[int] = []
        if path.exists():
            try:
                self._begun = [int(second) for second in json.loads(path.read_text(encoding="ascii"))]
            except (ValueError, TypeError):
                _LOG.warning("%s is damaged: rounds before now do not count towards rounds_a_day", path)

    def count(self, now: datetime) -> int:
        """Rounds that began in the 24 hours before `now`; those a clock set back puts in the future count too."""
        return sum(second > now.timestamp() - _DAY_SECONDS for second in self._begun)

    def note(self, now: datetime) -> None:
        """One more; on disk when this returns."""
        since = now.timestamp() - _DAY_SECONDS
        self._begun = [*(second for second in self._begun if second > since), int(now.timestamp())]
        replace(self._path, json.dumps(self._begun).encode("ascii"))


class Node:
    """A partner's node: its home, its policy, its ledger, and the runs that it agreed to.

    Use `open`. It has the methods of an `Agent` and passes each message to the agent of its run.

    Args:
        home: An installed node.
        people: This partner's tables.
        ledger: Opened with the policy's limits.
        device: Where the agents train.
        clock: The time in UTC.
    """

    def __init__(
        self,
        home: NodeHome,
        *,
        people: PeopleSource,
        ledger: Ledger,
        device: torch.device,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._home, self._people, self._ledger, self._device, self._clock = home, people, ledger, device, clock
        self._policy = read_policy(home.policy_path)
        self._peers = PeerMemory(home.folder / "peer-ledgers.json")  # one for all runs: they are about the same ledgers
        self._diary = RoundDiary(home.folder / "rounds-begun.json")
        self._runs: OrderedDict[str, Accepted] = OrderedDict()
        self._stamp = stamp_of(home.folder.parent)
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        people: PeopleSource | None = None,
        witness: Witness | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> Node:
        """The node in a home, checked: certificate, roster, policy, ledger.

        Args:
            home: `<home>`, in which `node/` lies.
            people: What lies in `node/people` if None.
            witness: Of the ledger; a folder in the node's own if None, which notices a ledger put back alone.
            clock: For tests: the time in UTC.

        Raises:
            SilhouetteError: If something that a node needs is missing or wrong; `silhouette node check` shows all of
            it.
        """
        found = NodeHome.of(home)
        remedy = "ask the coordinator for a new kit"
        if check_dates(found.certificate(), clock(), str(found.certificate_path), remedy) is State.soon:
            _LOG.warning("%s expires soon: %s", found.certificate_path, remedy)
        check_own_place(found, found.roster().member(found.name))
        policy = read_policy(found.policy_path)
        warm_up()
        make_folder(found.runs)
        sweep(found.runs)
        if witness is None:
            make_folder(found.folder / "witness")
            witness = FileWitness(found.folder / "witness")
        ledger = Ledger.open(
            found.folder / LEDGER_NAME, node=found.name, limits=policy.limits, witness=witness, clock=clock
        )
        return cls(
            found,
            people=people or people_in(home, found.people),
            ledger=ledger,
            device=torch.device(os.environ.get(DEVICE_VARIABLE, "cpu")),
            clock=clock,
        )

    def close(self) -> None:
        """Let go of the ledger."""
        self._ledger.close()

    @property
    def name(self) -> str:
        """This partner's."""
        return self._home.name

    @property
    def ledger(self) -> Ledger:
        """What it has spent."""
        return self._ledger

    def offer(self, request: OfferRequest) -> OfferAnswer:
        """Agree to an offer and say who this is, or refuse with a typed reason; either is an answer."""
        try:
            with self._lock:
                accepted = accept_offer(request, self._surroundings())
                self._keep(accepted)
        except SilhouetteError as error:
            _LOG.warning("an offer was refused: %s: %s", code_of(error), error)
            return OfferAnswer(self._refusal(error))
        offer = accepted.run.offer
        asked = DescribeRequest(run=offer.run, plan_digest=accepted.run.agreement.plan.digest)
        return OfferAnswer(accepted.agent.describe(asked))

    def roster(self, notice: RosterNotice) -> RosterHeld:
        """Take over a newer roster, and say which one is held now."""
        refusal = ""
        try:
            with self._lock:
                update_roster(self._home, notice.roster)
        except SilhouetteError as error:
            _LOG.warning("a roster was refused: %s: %s", code_of(error), error)
            refusal = f"{code_of(error)}: {error}"
        return RosterHeld(self.name, self._home.roster().version, refusal)

    def model(self, notice: ModelNotice) -> ModelHeld:
        """Take the promoted model if it came along, else say whether it is wanted; a refusal is an answer."""
        refusal, wanted = "", False
        try:
            with self._lock:
                wanted = is_missing(self._home, notice.alias, notice.card, largest=self._policy.largest_model)
                if wanted and notice.model:
                    taken = take(self._home, notice.alias, notice.card, notice.model)
                    wanted = False
                    _LOG.info("%s is the model of this node now (number %d)", taken.card.reference, taken.alias.number)
        except SilhouetteError as error:
            _LOG.warning("a promoted model was refused: %s: %s", code_of(error), error)
            refusal = str(error) if isinstance(error, CodedRefusalError) else f"{code_of(error)}: {error}"
        return ModelHeld(self.name, held_number(self._home), wanted, refusal)

    def describe(self, request: DescribeRequest) -> Description:
        """As the agent of the run."""
        return self._of(request.run).agent.describe(request)

    def train(self, request: TrainRequest) -> TrainReply:
        """As the agent of the run, which refuses: an enrolled partner answers under secure aggregation alone."""
        return self._of(request.run).agent.train(request)

    def count(self, statistic: StatisticName, request: StatisticRequest) -> StatisticReply:
        """As the agent of the run, which refuses: an enrolled partner answers under secure aggregation alone."""
        return self._of(request.run).agent.count(statistic, request)

    def exchange(self, request: Exchange) -> Answer:
        """One step of a secure round; the one that begins a round is held against the policy first.

        Raises:
            CodedRefusalError: If the run was never agreed to, or the policy has no room for another round now.
            RevokedError: If this node is not on its newest roster any more.
            RefusedError, AbortError: As the agent of the run.
        """
        if "manifest" in request.parts:
            self._forget_changed_people()
        accepted = self._of(request.run)
        if "manifest" not in request.parts:
            return accepted.agent.exchange(request)
        with self._lock:
            self._consider_round(accepted, request)
        answer = accepted.agent.exchange(request)
        with self._lock:
            self._diary.note(self._clock())
        return answer

    def _forget_changed_people(self) -> None:
        """Let go of every agent's tensors if people were taken in, removed, erased or suppressed since.

        Asked when a round begins: the agents are opened again from their folders, without whoever may not be used.
        """
        with self._lock:
            found = stamp_of(self._home.folder.parent)
            if found != self._stamp:
                self._stamp = found
                self._runs.clear()

    def _consider_round(self, accepted: Accepted, request: Exchange) -> None:
        now, roster = self._clock(), self._home.roster()
        roster.member(self.name)
        standing = Standing(
            name=self.name,
            consortium=roster.consortium,
            declared_people=self._home.declared_people,
            rounds_today=self._diary.count(now),
        )
        consider_round(self._policy, now, standing)
        if request.purpose == "training" and request.round == 1 and "parameters" in request.inputs:
            self._check_start(accepted, request.inputs["parameters"])

    @staticmethod
    def _check_start(accepted: Accepted, parameters: Vector) -> None:
        found = model_digest(parameters[: accepted.agent.parameters])
        if found != accepted.run.offer.start_model:
            raise CodedRefusalError(
                "start_model",
                f"expected the run to start from model {accepted.run.offer.start_model[:12]}, as offered, got "
                f"{found[:12]}; send the right one",
                {"offered": accepted.run.offer.start_model, "asked": found},
            )

    def _of(self, run: str) -> Accepted:
        """The run, opened from its folder if it is not open."""
        with self._lock:
            found = self._runs.get(run)
            if found is not None:
                self._runs.move_to_end(run)
                return found
            folder = self._home.runs / run if is_run(run) else None
            if folder is None or not folder.is_dir():
                raise CodedRefusalError(
                    "unknown_run", "expected a run that this node agreed to, got another; offer it first"
                )
            opened = open_run(folder, self._surroundings())
            self._keep(opened)
            return opened

    def _keep(self, accepted: Accepted) -> None:
        run = accepted.run.offer.run
        if run in self._runs:  # the one that is open may be in the middle of a round
            return
        self._runs[run] = accepted
        while len(self._runs) > _WARM_RUNS:
            self._runs.popitem(last=False)

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            home=self._home,
            policy=self._policy,
            ledger=self._ledger,
            people=self._people,
            peers=self._peers,
            device=self._device,
            now=self._clock(),
        )

    def _refusal(self, error: SilhouetteError) -> Refusal:
        coded = isinstance(error, CodedRefusalError)
        return Refusal(
            partner=self.name,
            code=code_of(error),
            reason=error.reason if isinstance(error, CodedRefusalError) else str(error),
            exit_code=error.exit_code,
            figures=error.figures if coded and isinstance(error, CodedRefusalError) else {},
        )


def node_app(node: Answered) -> ClientApp:
    """The Flower ClientApp of a deployed node."""
    return make_client_app(lambda context: node, node)
