"""A run of a deployment on the coordinator's disk: made once from a plan, opened by whichever process goes on with it.

<home>/coordinator/runs/<run>/  plan.toml catalogue.safetensors terms.json    as in a simulation
offer.json roster.json public.safetensors     what nodes are sent
checkpoint.safetensors secure/                where it stands
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from silhouette_server.app import counting_of, secure_job
from silhouette_server.coordination.job import Job
from silhouette_server.coordination.roster import Introduction
from silhouette_server.coordination.secure import Desk
from silhouette_server.enrolment.office import Office
from silhouette_server.processes.holders import supernode_pem
from silhouette_shared.cards import unpack_model
from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Plan
from silhouette_shared.enrolment.documents import Roster
from silhouette_shared.enrolment.offers import Offer, offer_of
from silhouette_shared.enrolment.signed import digest
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.budget import budget_of
from silhouette_shared.private_files import PUBLIC, make_folder, write_new
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.thresholds import least_threshold
from silhouette_shared.wire.agreement import Agreement, read_agreement, vocabulary_for, write_agreement
from silhouette_shared.wire.offers import OFFER, OfferRequest, PublicCatalogue, model_digest

SEED_PATH = ("training", "federated")
"""As the federated row of a simulation draws, so that a run without noise gives the same model."""

PUBLIC_FILE = "public.safetensors"

START_FILE = "start.safetensors"
"""The model that the run starts from; missing where it starts afresh."""


@dataclass(frozen=True)
class Prepared:
    """A run that was made and is not started yet."""

    run: str
    plan: Plan
    offer: bytes
    folder: Path
    layout: Layout

    def read_offer(self, office: Office) -> Offer:
        """What was signed."""
        return read_offer(office, self.folder)


def write_public_catalogue(path: Path, public: PublicCatalogue) -> None:
    """Write a public catalogue, words and arrays, as one file of safetensors."""
    held = public.catalogue
    words = {
        "items": list(held.items),
        "titles": list(held.titles),
        "categories": list(held.categories),
        "texts": list(held.texts),
        "attributes": [[name, list(classes)] for name, classes in public.attributes.items()],
    }
    arrays = {
        "category_matrix": np.ascontiguousarray(held.category_matrix),
        "content": np.ascontiguousarray(held.content),
    }
    path.write_bytes(save(arrays, metadata={"words": json.dumps(words), "digest": public.digest}))


def read_public_catalogue(path: Path) -> PublicCatalogue:
    """Read what `write_public_catalogue` wrote.

    Raises:
        UsageError: If there is no such file.
        IntegrityError: If it is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in ("category_matrix", "content")}
        words = json.loads(metadata["words"])
        public = PublicCatalogue(
            Catalogue(
                items=tuple(words["items"]),
                titles=tuple(words["titles"]),
                categories=tuple(words["categories"]),
                category_matrix=arrays["category_matrix"],
                texts=tuple(words["texts"]),
                content=arrays["content"],
            ),
            {str(name): tuple(classes) for name, classes in words["attributes"]},
        )
        if public.digest != metadata["digest"]:
            raise ValueError("its digest differs")
    except FileNotFoundError:
        raise UsageError(f"{path}: expected a public catalogue, found no file; name the one all partners use") from None
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise IntegrityError(
            f"{path}: expected a whole public catalogue, got a damaged or another file ({type(error).__name__}); take "
            "it from its publisher again"
        ) from None
    return public


def prepare_run(
    office: Office,
    plan: Plan,
    public: PublicCatalogue,
    runs: Path,
    partners: Sequence[str] | None = None,
    start: bytes | None = None,
) -> Prepared:
    """Make a run's folder and its signed offer.

    Args:
        office: The coordinator's keys and roster.
        plan: Of the run.
        public: The catalogue that all partners share.
        runs: Folder of all runs.
        partners: Who is to take part; None: every active member.
        start: Bytes of the model to start from; None starts afresh. What its statistics told is not taken over.

    Raises:
        UsageError: If the plan is for another number of partners, or has no secure aggregation.
        OtherModelError: If the model to start from is of another shape than the plan's.
        NotAMemberError, RevokedError: If a partner is not an active member.
    """
    roster_bytes, roster = office.roster_bytes(), office.roster()
    names = tuple(sorted(roster.active if partners is None else partners))
    people = {name: roster.member(name).people for name in names}
    if plan.partition.partners != len(names):
        raise UsageError(
            f"expected a plan for the {len(names)} partners that are to take part ({', '.join(names)}), got "
            f"partition.partners = {plan.partition.partners}; correct the plan, or name the partners"
        )
    if plan.aggregation.protocol != "sa-1":
        raise UsageError(
            f'expected aggregation.protocol = "sa-1", got {plan.aggregation.protocol!r}: in a deployment the '
            "coordinator sees no partner's own update; correct the plan"
        )
    budget = budget_of(plan)
    if budget is None and plan.training.patience:
        raise UsageError(
            f"expected training.patience = 0 in a deployment, got {plan.training.patience}: to stop early, partners "
            "would have to tell an exact metric of their people; set it to 0"
        )
    vocabulary = vocabulary_for(plan, public.vocabulary(), budget)
    agreement = Agreement(
        plan=plan,
        vocabulary=vocabulary,
        declared_people=people,
        budget=budget,
        seed_path=SEED_PATH,
        pins=roster.pins(names),
    )
    encoder = _encoder(agreement)
    layout = Layout.of(encoder)
    begins = read_vector(encoder, layout) if start is None else unpack_model(start, layout)[: layout.size]
    run = _free_name(runs, f"{plan.name[:40]}-{plan.digest[:8]}")
    offer = offer_of(
        plan,
        run=run,
        consortium=roster.consortium,
        roster=(roster.version, digest(roster_bytes)),
        catalogue=public.digest,
        people=people,
        budget=budget,
        seed_path=SEED_PATH,
        start_model=model_digest(begins.numpy()),
        issued=int(time.time()),
    ).encode(office.identity())
    folder = runs / run
    make_folder(folder)
    write_agreement(folder, agreement)
    write_public_catalogue(folder / PUBLIC_FILE, public)
    write_new(folder / "roster.json", roster_bytes, PUBLIC)
    if start is not None:
        write_new(folder / START_FILE, start, PUBLIC)
    write_new(folder / "offer.json", offer, PUBLIC)  # last: with it the run is whole
    return Prepared(run=run, plan=plan, offer=offer, folder=folder, layout=layout)


def _free_name(runs: Path, name: str) -> str:
    if not (runs / name).exists():
        return name
    return next(f"{name}-{count}" for count in range(2, 10_000) if not (runs / f"{name}-{count}").exists())


def _encoder(agreement: Agreement) -> ProfileEncoder:
    plan = agreement.plan
    encoder = ProfileEncoder(plan.model, agreement.vocabulary, plan.data.history_length)
    encoder.initialise(ReproducibleSource(plan.seed).child("initial model").torch_generator())
    return encoder


def open_run(office: Office, folder: Path) -> Job:
    """The job of a run that was prepared, without its book and before the nodes are asked.

    Raises:
        UsageError: If a file is missing.
        IntegrityError: If a file is damaged.
    """
    agreement = read_agreement(folder, torch.device("cpu"))
    plan, budget = agreement.plan, agreement.budget
    if agreement.pins is None:
        raise IntegrityError(f"{folder}: expected a run with secure aggregation, got one without; submit it again")
    encoder = _encoder(agreement)
    layout = Layout.of(encoder)
    initial = read_vector(encoder, layout)
    trained_before = (folder / START_FILE).exists()
    if trained_before:
        initial = unpack_model(_read(folder / START_FILE), layout)[: layout.size]
    desk = Desk(office.identity(), agreement.pins, folder / "secure")
    largest = max(agreement.declared_people.values())
    return Job(
        run=read_offer(office, folder).run,
        plan_digest=plan.digest,
        layout=layout,
        schedule=plan.training if budget is None else plan.privacy,
        replies=plan.replies,
        partners=len(agreement.partners),
        initial=initial,
        trained_before=trained_before,
        counting=counting_of(plan, agreement.vocabulary, budget),
        secure=secure_job(plan, agreement.vocabulary, budget, layout.size, desk, largest),
        training=None if budget is None else budget.training,
        checkpoint=folder / "checkpoint.safetensors",
    )


def read_offer(office: Office, folder: Path) -> Offer:
    """The offer of a run, checked against the coordinator's key; IntegrityError if it does not verify."""
    return Offer.decode(_read(folder / "offer.json"), office.identity().public)


def fewest_of(job: Job) -> int:
    """How many partners a run needs: as many as secure aggregation opens a sum for, at least."""
    if job.secure is None:
        return job.replies.minimum
    return max(job.replies.minimum, least_threshold(len(job.secure.desk.pins.partners)))


def introduction_of(folder: Path, names: dict[int, str], minimum: int) -> Introduction:
    """How the nodes of a run are asked to take part.

    Args:
        folder: Of the run.
        names: Of the nodes whose keys are enrolled, by node number.
        minimum: How many have to agree.
    """
    request = OfferRequest(
        offer=_read(folder / "offer.json"),
        roster=_read(folder / "roster.json"),
        catalogue=read_public_catalogue(folder / PUBLIC_FILE),
    )
    return Introduction(OFFER, request.encode(), names, minimum)


def nodes_of(offer: Offer, roster: Roster, known: Mapping[bytes, tuple[int, bool]]) -> dict[int, str]:
    """Which node is whose, for the partners of an offer that are still active.

    Args:
        offer: Of the run.
        roster: As it is now.
        known: Node number, and whether it is connected, by the SuperNode's public key.
    """
    found: dict[int, str] = {}
    for name, member in roster.active.items():
        pem = supernode_pem(member.supernode_public)
        if name in offer.people and pem in known:
            found[known[pem][0]] = name
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"{path}: expected a file of the run, found none; restore it or submit the run again"
        ) from None
