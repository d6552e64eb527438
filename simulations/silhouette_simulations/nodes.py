"""The nodes of a simulation: real agents, with noise that a seed repeats and ledgers that end with the process.

Equal seeds give equal runs, and a run that was killed goes on as if it had not been: the round that was under way is
asked again, of a ledger that is new, and gives the same release.
"""

import os
from functools import partial
from pathlib import Path

from flwr.app import Context

from silhouette_client.agent import Agent, Secrets
from silhouette_client.app import make_client_app
from silhouette_client.node_folder import Fittings, limits_of, open_agent_of
from silhouette_client.peers import PeerMemory
from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.training.engine import EngineName
from silhouette_shared.randomness import ReproducibleSource, SecretBytes
from silhouette_shared.wire.agreement import Agreement
from silhouette_simulations.repeatable import RepeatableBytes

ENGINE_VARIABLE = "SILHOUETTE_SIMULATED_ENGINE"
"""Environment variable with the name of the engine that Ray's processes use."""


def simulated(engine: EngineName) -> Fittings:
    """What the agents of a simulation are given."""
    # The ledgers end with the process, and so does what the partners have seen of one another's.
    return Fittings(ledger=_ledger, secrets=_secrets, engine=engine, peers=lambda folder: PeerMemory())


def _ledger(folder: Path, agreement: Agreement) -> Ledger:
    return Ledger.in_memory(limits_of(agreement.plan), node=folder.name)


def _secrets(agreement: Agreement, partner: str) -> Secrets:
    source = ReproducibleSource(agreement.plan.seed).child(*agreement.seed_path, "secrets", partner)
    return partial(_bytes, source)


def _bytes(source: ReproducibleSource, round_number: int, purpose: str) -> SecretBytes:
    return RepeatableBytes(source.child(round_number, purpose))


def _open(context: Context) -> Agent:
    engine: EngineName = "opacus" if os.environ.get(ENGINE_VARIABLE) == "opacus" else "bookkeeping"
    return open_agent_of(context, simulated(engine))


app = make_client_app(_open)
