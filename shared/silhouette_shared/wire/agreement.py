"""What partner and coordinator of a training read from disk and must agree on: plan, public catalogue, terms.

A folder with `plan.toml`, `catalogue.safetensors` and `terms.json`: data, never code. People's histories, which only a
partner holds, lie beside it and are read by the partner.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from silhouette_shared.config import Plan, read_plan, write_toml
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.prior import PriorShape
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg import Pins


@dataclass(frozen=True)
class Agreement:
    """One training, as both sides know it."""

    plan: Plan
    vocabulary: Vocabulary  # with the shape of the prior, if statistics come first
    declared_people: dict[str, int]  # by partner: what its operator publishes; no count, in a private mode
    budget: Budget | None  # None: without privacy, in a simulation only
    seed_path: tuple[str, ...]  # names under the plan's seed from which this training draws; the last is its name
    pins: Pins | None = None  # whom everybody trusts to be who; None: without secure aggregation

    @property
    def partners(self) -> tuple[str, ...]:
        """Everybody's names, in order."""
        return tuple(sorted(self.declared_people))


def vocabulary_for(plan: Plan, vocabulary: Vocabulary, budget: Budget | None) -> Vocabulary:
    """The vocabulary with room for a prior if the budget has statistics, without otherwise."""
    shape = PriorShape.of(plan.statistics) if budget is not None and budget.popularity is not None else None
    return replace(vocabulary, prior=shape)


def write_agreement(folder: Path, agreement: Agreement) -> None:
    """Write an agreement into `folder`, which exists; `terms.json` comes last."""
    (folder / "plan.toml").write_text(write_toml(agreement.plan), encoding="utf-8")
    vocabulary = agreement.vocabulary
    tensors = {"categories": vocabulary.categories.contiguous(), "content": vocabulary.content.contiguous()}
    save_file(tensors, folder / "catalogue.safetensors")
    terms = {
        "declared_people": {name: agreement.declared_people[name] for name in agreement.partners},
        "attributes": [list(pair) for pair in vocabulary.attributes],
        "budget": None if agreement.budget is None else asdict(agreement.budget),
        "seed_path": list(agreement.seed_path),
        "pins": None if agreement.pins is None else pins_document(agreement.pins),
    }
    (folder / "terms.json").write_text(json.dumps(terms), encoding="utf-8")


def read_agreement(folder: Path, device: torch.device) -> Agreement:
    """Read what `write_agreement` wrote, the catalogue onto `device`.

    Raises:
        UsageError: If a file is missing.
        IntegrityError: If a file is damaged.
    """
    try:
        terms = json.loads((folder / "terms.json").read_text(encoding="utf-8"))
        catalogue = load_file(folder / "catalogue.safetensors", device=str(device))
        plan, budget = read_plan(folder / "plan.toml"), _budget(terms["budget"])
        vocabulary = Vocabulary(
            categories=catalogue["categories"],
            content=catalogue["content"],
            attributes=tuple((str(name), int(count)) for name, count in terms["attributes"]),
        )
        return Agreement(
            plan=plan,
            vocabulary=vocabulary_for(plan, vocabulary, budget),
            declared_people={str(name): int(people) for name, people in terms["declared_people"].items()},
            budget=budget,
            seed_path=tuple(map(str, terms["seed_path"])),
            pins=None if terms["pins"] is None else pins_of(terms["pins"]),
        )
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder}: expected plan.toml, catalogue.safetensors and terms.json, one is missing ({error})"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise IntegrityError(f"{folder}: expected a whole folder of plan, catalogue and terms: {error}") from None


def _budget(terms: dict[str, dict[str, Any] | None] | None) -> Budget | None:
    if terms is None:
        return None
    return Budget(**{name: None if part is None else SampledGaussian(**part) for name, part in terms.items()})


def pins_document(pins: Pins) -> dict[str, object]:
    """Public keys as plain JSON values."""
    return {
        "coordinator": pins.coordinator.hex(),
        "partners": {name: key.hex() for name, key in sorted(pins.partners.items())},
    }


def pins_of(document: dict[str, Any]) -> Pins:
    """What `pins_document` wrote; KeyError, TypeError, ValueError or UsageError if it is something else."""
    return Pins(
        bytes.fromhex(document["coordinator"]),
        {str(name): bytes.fromhex(key) for name, key in document["partners"].items()},
    )
