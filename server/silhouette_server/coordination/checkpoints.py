"""Where a run stands, on disk, so that it goes on after a kill at any moment.

One safetensors file a run, replaced atomically: a reader finds the state after some whole round.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from silhouette_shared.errors import IntegrityError
from silhouette_shared.files import write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """State after `round` whole rounds."""

    run: str
    plan_digest: str
    round: int
    tensors: dict[str, Tensor]
    history: tuple[dict[str, float | int | str | None], ...]  # one record a round


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the one before."""
    metadata = {
        "run": checkpoint.run,
        "plan": checkpoint.plan_digest,
        "round": str(checkpoint.round),
        "history": json.dumps(list(checkpoint.history)),
    }
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    metadata["digest"] = _digest(metadata, tensors)
    write_atomically(path, save(tensors, metadata=metadata))


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    # safetensors carries no checksum: without this one a flipped bit is a slightly different model.
    about = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    known = {key: value for key, value in metadata.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps([known, about], sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).cpu().numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The last checkpoint, or None if there is none yet.

    Raises:
        IntegrityError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata["digest"] != _digest(metadata, tensors):
            raise ValueError("its digest differs")
        return Checkpoint(
            run=metadata["run"],
            plan_digest=metadata["plan"],
            round=int(metadata["round"]),
            tensors=tensors,
            history=tuple(json.loads(metadata["history"])),
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise IntegrityError(
            f"{path}: expected a checkpoint, got a damaged file ({error}); start the run again in another folder"
        ) from None
