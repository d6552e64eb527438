"""A node's folder on disk: what an agent needs to start, written once and opened by whichever process runs it.

It holds `plan.toml`, `catalogue.safetensors`, `terms.json` and, for each partner, `<partner>/histories.safetensors`.
Files are safetensors and JSON, never pickles: a folder is data, not code.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Context
from safetensors import SafetensorError
from safetensors.torch import save_file

from silhouette_client.agent import Agent, Secrets, Terms, unpredictable
from silhouette_client.peers import PeerMemory
from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.policy.witness import FileWitness
from silhouette_client.secure import Enrolment, RoundMemory
from silhouette_client.training.engine import EngineName
from silhouette_shared.config import Plan
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.histories import Histories
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.ledger import Limits
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.secagg import Identity, Pins
from silhouette_shared.wire.agreement import Agreement, read_agreement, write_agreement

FOLDER_VARIABLE = "SILHOUETTE_NODES"
"""Environment variable with the folder of the nodes that this process answers for."""

DEVICE_VARIABLE = "SILHOUETTE_DEVICE"

IDENTITY_FILE = "identity.key"

ROUNDS_FILE = "secure-rounds.json"

PEERS_FILE = "peer-ledgers.json"

_ACCOUNTANTS_DIFFER = 0.02  # calibration and admission may ask different ones

_HISTORY_TENSORS = ("items", "behaviours", "values", "timestamps", "offsets", "attributes")


def write_node_folder(
    folder: Path,
    *,
    plan: Plan,
    vocabulary: Vocabulary,
    partners: dict[str, Histories],
    declared_people: dict[str, int],
    budget: Budget | None,
    seed_path: tuple[str, ...],
    pins: Pins | None = None,
    identities: Mapping[str, bytes] | None = None,
) -> None:
    """Write everything that the agents of `partners` need.

    Args:
        folder: Made if missing.
        plan: The plan that all of them agree to.
        vocabulary: Public catalogue.
        partners: People by partner name.
        declared_people: What each partner publishes as its size; no count of its people in a private mode.
        budget: None trains without privacy.
        seed_path: Names under the plan's seed from which this training draws.
        pins: For secure aggregation.
        identities: Each partner's secret signing key, 32 bytes; with pins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, histories in partners.items():
        (folder / name).mkdir(exist_ok=True)
        tensors = {key: getattr(histories, key).contiguous() for key in _HISTORY_TENSORS}
        if histories.texts is not None:
            tensors["texts"] = histories.texts.contiguous()
        save_file(
            tensors,
            folder / name / "histories.safetensors",
            metadata={"has_times": str(int(histories.has_times))},
        )
        if identities is not None:
            _write_secret(folder / name / IDENTITY_FILE, identities[name])
    write_agreement(
        folder,
        Agreement(
            plan=plan,
            vocabulary=vocabulary,
            declared_people={name: declared_people[name] for name in partners},
            budget=budget,
            seed_path=seed_path,
            pins=pins,
        ),
    )


def _write_secret(path: Path, secret: bytes) -> None:
    """Write bytes that only this user may read, from the start."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)


@dataclass(frozen=True)
class Fittings:
    """What an agent is given beside its folder. The defaults are what a partner runs with."""

    ledger: Callable[[Path, Agreement], Ledger]  # opens that of the partner with this folder
    secrets: Callable[[Agreement, str], Secrets] = lambda agreement, partner: unpredictable
    engine: EngineName = "bookkeeping"
    peers: Callable[[Path], PeerMemory] = lambda folder: PeerMemory(folder / PEERS_FILE)


def ledger_on_disk(folder: Path, agreement: Agreement) -> Ledger:
    """The ledger of the partner with this folder, with a witness beside it.

    A witness on the same disk notices a ledger that was put back alone, not one that was put back with its folder.
    """
    witness = folder / "witness"
    witness.mkdir(exist_ok=True)
    return Ledger.open(
        folder / "ledger.sqlite", node=folder.name, limits=limits_of(agreement.plan), witness=FileWitness(witness)
    )


def limits_of(plan: Plan) -> Limits:
    """One run of a plan and no more: its epsilon, and what two accountants may differ by."""
    return Limits(
        epsilon_per_run=plan.privacy.epsilon + _ACCOUNTANTS_DIFFER, epsilon_per_year=None, delta=plan.privacy.delta
    )


def open_agent(folder: Path, index: int, device: torch.device, fittings: Fittings) -> Agent:
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
        terms=Terms(
            budget=agreement.budget,
            declared_people=agreement.declared_people[names[index]],
            largest_partner=max(agreement.declared_people.values()),
        ),
        randomness=ReproducibleSource(agreement.plan.seed).child(*agreement.seed_path),
        ledger=None if agreement.budget is None else fittings.ledger(folder / names[index], agreement),
        secrets=fittings.secrets(agreement, names[index]),
        engine=fittings.engine,
        enrolment=None if agreement.pins is None else _read_enrolment(folder / names[index], agreement.pins, fittings),
    )


def _read_enrolment(folder: Path, pins: Pins, fittings: Fittings) -> Enrolment:
    path = folder / IDENTITY_FILE
    try:
        return Enrolment(Identity(path.read_bytes()), pins, RoundMemory(folder / ROUNDS_FILE), fittings.peers(folder))
    except FileNotFoundError:
        raise UsageError(f"{path}: expected this partner's signing key, found none; enrol it again") from None
    except ValueError:
        raise IntegrityError(f"{path}: expected a signing key of 32 bytes, got something else; restore it") from None


def _read_histories(path: Path) -> Histories:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        optional = [key for key in file.keys() if key == "texts"]  # noqa: SIM118 - not a dictionary
        tensors = {key: file.get_tensor(key) for key in (*_HISTORY_TENSORS, *optional)}
    return Histories(**tensors, has_times=metadata.get("has_times") == "1")


class AgentCache:
    """Opens each agent of a folder once in a process and keeps it warm."""

    def __init__(self, folder: Path, device: torch.device, fittings: Fittings) -> None:
        self._folder, self._device, self._fittings = folder, device, fittings
        self._agents: dict[int, Agent] = {}
        self._lock = threading.Lock()

    def of(self, context: Context) -> Agent:
        """The agent of the node that `context` describes."""
        index = int(str(context.node_config["partition-id"]))
        with self._lock:
            if index not in self._agents:
                self._agents[index] = open_agent(self._folder, index, self._device, self._fittings)
            return self._agents[index]


_caches: dict[tuple[str, str], AgentCache] = {}
_caches_lock = threading.Lock()


def open_agent_of(context: Context, fittings: Fittings | None = None) -> Agent:
    """The agent of a node, from the folder that the environment names.

    Args:
        context: Of the node.
        fittings: Looked at when the folder is opened first in this process; what a partner runs with if None.

    Raises:
        UsageError: If the environment names no folder.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise UsageError(f"expected {FOLDER_VARIABLE} to name a node folder, got nothing")
    device = os.environ.get(DEVICE_VARIABLE, "cpu")
    made = AgentCache(Path(folder), torch.device(device), fittings or Fittings(ledger_on_disk))
    with _caches_lock:
        cache = _caches.setdefault((folder, device), made)
    return cache.of(context)
