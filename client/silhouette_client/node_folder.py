"""A node's folder on disk: what an agent needs to start, written once and opened by whichever process runs it.

It holds `plan.toml`, `catalogue.safetensors`, `terms.json` and, for each partner, `<partner>/histories.safetensors`.
Files are safetensors and JSON, never pickles: a folder is data, not code.
"""

import os
import threading
from pathlib import Path

import torch
from flwr.app import Context
from safetensors import SafetensorError
from safetensors.torch import save_file

from silhouette_client.agent import Agent, Terms
from silhouette_shared.config import Plan
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.histories import Histories
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.wire.agreement import Agreement, read_agreement, write_agreement

FOLDER_VARIABLE = "SILHOUETTE_NODES"
"""Environment variable with the folder of the nodes that this process answers for."""

DEVICE_VARIABLE = "SILHOUETTE_DEVICE"

_HISTORY_TENSORS = ("items", "behaviours", "values", "timestamps", "offsets", "attributes")


def write_node_folder(
    folder: Path,
    *,
    plan: Plan,
    vocabulary: Vocabulary,
    partners: dict[str, Histories],
    mechanism: SampledGaussian | None,
    seed_path: tuple[str, ...],
) -> None:
    """Write everything that the agents of `partners` need.

    Args:
        folder: Made if missing.
        plan: The plan that all of them agree to.
        vocabulary: Public catalogue.
        partners: People by partner name.
        mechanism: None trains without privacy.
        seed_path: Names under the plan's seed from which this training draws.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, histories in partners.items():
        (folder / name).mkdir(exist_ok=True)
        tensors = {key: getattr(histories, key).contiguous() for key in _HISTORY_TENSORS}
        save_file(
            tensors,
            folder / name / "histories.safetensors",
            metadata={"has_times": str(int(histories.has_times))},
        )
    write_agreement(
        folder,
        Agreement(
            plan=plan,
            vocabulary=vocabulary,
            partners=tuple(sorted(partners)),
            mechanism=mechanism,
            seed_path=seed_path,
        ),
    )


def open_agent(folder: Path, index: int, device: torch.device) -> Agent:
    """The agent of the partner with number `index` in the order of names.

    Raises:
        UsageError: If there is no such partner.
        IntegrityError: If a file of the folder is damaged.
    """
    agreement = read_agreement(folder, device)
    names = agreement.partners
    if not 0 <= index < len(names):
        raise UsageError(f"{folder}: expected a partner from 0 to {len(names) - 1}, got {index}")
    try:
        histories = _read_histories(folder / names[index] / "histories.safetensors")
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: expected histories of {names[index]}, found none ({error})") from None
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise IntegrityError(f"{folder}: expected whole histories of {names[index]}: {error}") from None
    return Agent(
        partner=names[index],
        histories=histories.to(device),
        vocabulary=agreement.vocabulary,
        plan=agreement.plan,
        terms=Terms(mechanism=agreement.mechanism),
        randomness=ReproducibleSource(agreement.plan.seed).child(*agreement.seed_path),
    )


def _read_histories(path: Path) -> Histories:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in _HISTORY_TENSORS}
    return Histories(**tensors, has_times=metadata.get("has_times") == "1")


class AgentCache:
    """Opens each agent of a folder once in a process and keeps it warm."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._agents: dict[int, Agent] = {}
        self._lock = threading.Lock()

    def of(self, context: Context) -> Agent:
        """The agent of the node that `context` describes."""
        index = int(str(context.node_config["partition-id"]))
        with self._lock:
            if index not in self._agents:
                self._agents[index] = open_agent(self._folder, index, self._device)
            return self._agents[index]


_caches: dict[tuple[str, str], AgentCache] = {}
_caches_lock = threading.Lock()


def open_agent_of(context: Context) -> Agent:
    """The agent of a node, from the folder that the environment names.

    Raises:
        UsageError: If the environment names no folder.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise UsageError(f"expected {FOLDER_VARIABLE} to name a node folder, got nothing")
    device = os.environ.get(DEVICE_VARIABLE, "cpu")
    with _caches_lock:
        cache = _caches.setdefault((folder, device), AgentCache(Path(folder), torch.device(device)))
    return cache.of(context)
