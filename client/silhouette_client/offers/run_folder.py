"""A run that this node agreed to, on disk: `<home>/node/runs/<run>/`.

It holds the signed offer and roster, the plan, the public catalogue and the terms, and later the last secure round that
was answered. It holds nobody's record: people are packed from their tables whenever the run is opened. A folder appears
whole or not at all, so a kill leaves no run half agreed to.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from silhouette_shared.enrolment.offers import Offer
from silhouette_shared.errors import IntegrityError, SilhouetteError, UnavailableError
from silhouette_shared.private_files import make_folder
from silhouette_shared.wire.agreement import Agreement, read_agreement, write_agreement
from silhouette_shared.wire.offers import PublicCatalogue

OFFER_FILE, ROSTER_FILE = "offer.json", "roster.json"
ROUNDS_FILE = "secure-rounds.json"
_DRAFT = ".draft-"


@dataclass(frozen=True)
class AgreedRun:
    """A run as it was agreed to."""

    offer: Offer
    agreement: Agreement
    items: Mapping[str, int]  # number of each item of the catalogue, from 1
    attributes: Mapping[str, tuple[str, ...]]
    titles: tuple[str, ...] = ()  # of the items, in the catalogue's order
    categories: tuple[str, ...] = ()  # names, in the order of the matrix


def write_run(folder: Path, offer: bytes, roster: bytes, agreement: Agreement, catalogue: PublicCatalogue) -> None:
    """Write a run that was agreed to.

    Args:
        folder: Of the run; it is not there yet.
        offer: The signed document.
        roster: The signed document that the offer goes by.
        agreement: What was agreed to.
        catalogue: The public one.

    Raises:
        UnavailableError: If the disk fails or is full; nothing is left.
    """
    make_folder(folder.parent)
    draft = folder.parent / f"{_DRAFT}{os.getpid()}-{secrets.token_hex(4)}"
    words = {
        "items": list(catalogue.catalogue.items),
        "titles": list(catalogue.catalogue.titles),
        "categories": list(catalogue.catalogue.categories),
        "texts": list(catalogue.catalogue.texts),
        "attributes": [[name, list(classes)] for name, classes in catalogue.attributes.items()],
    }
    try:
        draft.mkdir(mode=0o700)
        (draft / OFFER_FILE).write_bytes(offer)
        (draft / ROSTER_FILE).write_bytes(roster)
        (draft / "catalogue.json").write_text(json.dumps(words), encoding="ascii")
        write_agreement(draft, agreement)
        for path in (*draft.iterdir(), draft):
            _flush(path)
        draft.rename(folder)
        _flush(folder.parent)
    except OSError as error:
        raise UnavailableError(
            f"{folder}: expected to write down the run, got {error.strerror or error}; free the disk, and have the run "
            "offered again"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sweep(runs: Path) -> None:
    """Remove what a kill left of runs that were never agreed to."""
    for path in runs.glob(f"{_DRAFT}*"):
        shutil.rmtree(path, ignore_errors=True)


def read_run(folder: Path, device: torch.device) -> AgreedRun:
    """Read what `write_run` wrote; the offer has to be the one that the pins' coordinator signed.

    Raises:
        IntegrityError: If a part is missing, damaged or another one.
    """
    try:
        agreement = read_agreement(folder, device)
        words = json.loads((folder / "catalogue.json").read_text(encoding="ascii"))
        items = {str(item): number for number, item in enumerate(words["items"], start=1)}
        attributes = {str(name): tuple(map(str, classes)) for name, classes in words["attributes"]}
        titles, categories = tuple(map(str, words["titles"])), tuple(map(str, words["categories"]))
        data = (folder / OFFER_FILE).read_bytes()
    except (OSError, ValueError, KeyError, TypeError, SilhouetteError) as error:
        raise IntegrityError(
            f"{folder}: expected a run that was agreed to, got a damaged folder "
            f"({' '.join(str(error).split())[:200]}); "
            "put it back, or end the run and have another one offered"
        ) from None
    if agreement.pins is None:
        raise IntegrityError(f"{folder}: expected the pins of the run, got none; have another run offered")
    offer = Offer.decode(data, agreement.pins.coordinator)
    plan, people, size = agreement.plan, agreement.declared_people, agreement.vocabulary.items
    if (offer.read_plan(), offer.people, len(items)) != (plan, people, size):
        raise IntegrityError(f"{folder}: expected the run of its offer, got another; put it back")
    return AgreedRun(offer, agreement, items, attributes, titles, categories)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
