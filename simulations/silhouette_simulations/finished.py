"""The model of a finished run, read back from its folder."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from silhouette_shared.config import Plan
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.vector import Layout
from silhouette_simulations.models import new_encoder


def read_model(folder: Path, plan: Plan, vocabulary: Vocabulary) -> Tensor:
    """Parameters of a finished run's model, (D,) or with a prior (D + P,).

    Args:
        folder: Of the run.
        plan: That the run followed.
        vocabulary: Of its data.

    Raises:
        UsageError: If the run has no model.
        IntegrityError: If the file is not what the model's card says, or is no model of this plan.
    """
    path = folder / "model" / "global.safetensors"
    if not path.is_file():
        raise UsageError(f"{path}: expected the model of a finished run, found none; a run of counting rows has none")
    content = path.read_bytes()
    layout = Layout.of(new_encoder(plan, vocabulary, torch.device("cpu")))
    try:
        card = json.loads((path.parent / "card.json").read_text(encoding="utf-8"))
        if hashlib.sha256(content).hexdigest() != card["sha256"]:
            raise ValueError("another digest than on its card")
        tensors = load(content)
        parameters = layout.flatten(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path}: expected the model of this run, got another ({error}); run the plan again"
        ) from None
    return torch.cat([parameters, tensors["prior"]]) if "prior" in tensors else parameters
