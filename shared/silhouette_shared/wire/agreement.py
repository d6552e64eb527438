"""What partner and coordinator of a training read from disk and must agree on: plan, public catalogue, terms.

A folder with `plan.toml`, `catalogue.safetensors` and `terms.json`: data, never code. People's histories, which only a
partner holds, lie beside it and are read by the partner.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from silhouette_shared.config import Plan, read_plan, write_toml
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.privacy.mechanism import SampledGaussian


@dataclass(frozen=True)
class Agreement:
    """One training, as both sides know it."""

    plan: Plan
    vocabulary: Vocabulary
    partners: tuple[str, ...]
    mechanism: SampledGaussian | None  # None: without privacy, in a simulation only
    seed_path: tuple[str, ...]  # names under the plan's seed from which this training draws; the last is its name


def write_agreement(folder: Path, agreement: Agreement) -> None:
    """Write an agreement into `folder`, which exists; `terms.json` comes last."""
    (folder / "plan.toml").write_text(write_toml(agreement.plan), encoding="utf-8")
    vocabulary = agreement.vocabulary
    tensors = {"categories": vocabulary.categories.contiguous(), "content": vocabulary.content.contiguous()}
    save_file(tensors, folder / "catalogue.safetensors")
    terms = {
        "partners": sorted(agreement.partners),
        "attributes": [list(pair) for pair in vocabulary.attributes],
        "mechanism": None if agreement.mechanism is None else asdict(agreement.mechanism),
        "seed_path": list(agreement.seed_path),
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
        mechanism = terms["mechanism"]
        return Agreement(
            plan=read_plan(folder / "plan.toml"),
            vocabulary=Vocabulary(
                categories=catalogue["categories"],
                content=catalogue["content"],
                attributes=tuple((str(name), int(count)) for name, count in terms["attributes"]),
            ),
            partners=tuple(map(str, terms["partners"])),
            mechanism=None if mechanism is None else SampledGaussian(**mechanism),
            seed_path=tuple(map(str, terms["seed_path"])),
        )
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder}: expected plan.toml, catalogue.safetensors and terms.json, one is missing ({error})"
        ) from None
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise IntegrityError(f"{folder}: expected a whole folder of plan, catalogue and terms: {error}") from None
