"""From an offer to an agent: every check in the order of its cost, then the run on disk, then the agent.

Nothing is written and nobody's record is read before the offer is found to be signed, current and within the policy.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from silhouette_client.agent import Agent, Terms
from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import update_roster
from silhouette_client.offers.people import PeopleSource, pack_for
from silhouette_client.offers.run_folder import OFFER_FILE, ROSTER_FILE, ROUNDS_FILE, AgreedRun, read_run, write_run
from silhouette_client.offers.sizes import largest_vector, least_parameters
from silhouette_client.peers import PeerMemory
from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.policy.participation import Proposal, Standing, consider, refused_by_ledger
from silhouette_client.policy.terms import Policy
from silhouette_client.secure import Enrolment, RoundMemory
from silhouette_client.training.engine import EngineName
from silhouette_shared.config import Plan
from silhouette_shared.enrolment.documents import Roster
from silhouette_shared.enrolment.offers import OFFER, Offer, is_run
from silhouette_shared.enrolment.refusals import CodedRefusalError, MalformedError
from silhouette_shared.enrolment.signed import digest, unverified
from silhouette_shared.errors import UnavailableError, UsageError
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.ledger import BudgetRefusedError
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.wire.agreement import Agreement, vocabulary_for
from silhouette_shared.wire.offers import OfferRequest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What a node accepts offers with."""

    home: NodeHome
    policy: Policy
    ledger: Ledger
    people: PeopleSource
    peers: PeerMemory
    device: torch.device
    now: datetime  # UTC
    engine: EngineName = "bookkeeping"


@dataclass(frozen=True)
class Accepted:
    """A run that this node takes part in."""

    folder: Path
    run: AgreedRun
    agent: Agent


def accept_offer(request: OfferRequest, around: Surroundings) -> Accepted:
    """Check an offer, write the run down, and open its agent. The same offer again opens the same run.

    Raises:
        CodedRefusalError: If the policy, the ledger or this node's tables do not allow it.
        OlderRosterError, TwoRostersError, RevokedError, ...: If the roster is not to be gone by.
        ForgedDocumentError, MalformedError: If the offer is not the pinned coordinator's.
        UnavailableError: If the disk fails or is full.
    """
    home = around.home
    folder = home.runs / _run_of(request.offer)
    if _holds(folder / OFFER_FILE, request.offer):
        if not _holds(folder / ROSTER_FILE, request.roster):  # the one that it was offered with may be old by now
            update_roster(home, request.roster)
        home.roster().member(home.name)
        return open_run(folder, around)
    roster = update_roster(home, request.roster)
    offer = Offer.decode(request.offer, home.pinned())
    if folder.exists():
        raise CodedRefusalError(
            "other_offer",
            f"expected the offer of run {offer.run} that was agreed to, got another one; offer it under a new name",
            {"run": offer.run},
        )
    plan, budget = _considered(offer, request, roster, around)
    agreement = Agreement(
        plan=plan,
        vocabulary=vocabulary_for(plan, request.catalogue.vocabulary(), budget),
        declared_people=dict(offer.people),
        budget=budget,
        seed_path=offer.seed_path,
        pins=roster.pins(offer.partners),
    )
    run = AgreedRun(offer, agreement, request.catalogue.catalogue.index, request.catalogue.attributes)
    agent = _open(run, folder, around)
    _foresee(agent, offer.run)
    write_run(folder, request.offer, request.roster, agreement, request.catalogue)
    _LOG.info("agreed to run %s of %d partners, plan %s", offer.run, len(offer.people), plan.digest[:12])
    return Accepted(folder, run, agent)


def open_run(folder: Path, around: Surroundings) -> Accepted:
    """Open a run that was agreed to before, after a restart for instance.

    Raises:
        IntegrityError: If its folder is damaged.
        CodedRefusalError: If this node's tables do not fit it any more.
    """
    run = read_run(folder, around.device)
    return Accepted(folder, run, _open(run, folder, around))


def _run_of(offer: bytes) -> str:
    """The run that an offer says it is, which may name a folder; the offer is not verified yet."""
    run = unverified(OFFER, offer).get("run")
    if not isinstance(run, str) or not is_run(run):
        raise MalformedError("offer: expected the name of a run, got something else; refuse it")
    return run


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UnavailableError(f"{path}: expected to read the run, got {error.strerror}; mend the disk") from None


def _considered(
    offer: Offer, request: OfferRequest, roster: Roster, around: Surroundings
) -> tuple[Plan, Budget | None]:
    """Plan and budget of an offer that goes by the roster and is within the policy."""
    if (offer.consortium, offer.roster_version, offer.roster) != (
        roster.consortium,
        roster.version,
        digest(request.roster),
    ):
        raise CodedRefusalError(
            "roster",
            f"expected an offer for roster {roster.version} of {roster.consortium}, got one for "
            f"{offer.roster_version} of "
            f"{offer.consortium} or another of its number; make it anew from the newest roster",
            {"held": roster.version, "asked": offer.roster_version},
        )
    for name, people in offer.people.items():
        if roster.member(name).people != people:
            raise CodedRefusalError(
                "people",
                f"expected {roster.member(name).people} people for {name}, as on the roster, got {people}; correct the "
                "offer",
                {"partner": name, "declared": roster.member(name).people, "asked": people},
            )
    plan = offer.read_plan()
    budget = None if offer.budget is None else offer.budget.budget()
    items = len(request.catalogue.catalogue)
    _consider(offer, plan, budget, least_parameters(plan, items), around)
    if request.catalogue.digest != offer.catalogue:
        raise CodedRefusalError(
            "catalogue", "expected the catalogue whose digest is in the offer, got another; send the right one"
        )
    vocabulary = vocabulary_for(plan, request.catalogue.vocabulary(), budget)
    _consider(offer, plan, budget, largest_vector(plan, vocabulary), around)
    return plan, budget


def _consider(offer: Offer, plan: Plan, budget: Budget | None, parameters: int, around: Surroundings) -> None:
    home = around.home
    consider(
        Proposal(
            consortium=offer.consortium,
            partners=offer.people,
            plan=plan,
            budget=budget,
            parameters=parameters,
            issued=datetime.fromtimestamp(offer.issued, UTC),
        ),
        around.policy,
        around.now,
        Standing(name=home.name, consortium=home.roster().consortium, declared_people=home.declared_people),
    )


def _open(run: AgreedRun, folder: Path, around: Surroundings) -> Agent:
    """The agent of a run with this node's people."""
    agreement, home = run.agreement, around.home
    pins = agreement.pins
    if pins is None:
        raise UsageError("expected the pins of the run, got none")
    histories = pack_for(around.people, run.items, run.attributes, run.offer.run)
    vocabulary = replace(
        agreement.vocabulary,
        categories=agreement.vocabulary.categories.to(around.device),
        content=agreement.vocabulary.content.to(around.device),
    )
    return Agent(
        partner=home.name,
        histories=histories.to(around.device),
        vocabulary=vocabulary,
        plan=agreement.plan,
        terms=Terms(
            budget=agreement.budget,
            declared_people=agreement.declared_people[home.name],
            largest_partner=max(agreement.declared_people.values()),
        ),
        randomness=ReproducibleSource(agreement.plan.seed).child(*agreement.seed_path),
        ledger=None if agreement.budget is None else around.ledger,
        engine=around.engine,
        enrolment=Enrolment(home.identity(), pins, RoundMemory(folder / ROUNDS_FILE), around.peers),
    )


def _foresee(agent: Agent, run: str) -> None:
    try:
        agent.foresee(run)
    except BudgetRefusedError as error:
        raise refused_by_ledger(error) from None
