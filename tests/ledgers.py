"""Charges, limits and ledgers for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from silhouette_client.policy.ledger_store import LEDGER_NAME, Ledger
from silhouette_client.policy.witness import FileWitness, Witness
from silhouette_shared.privacy.ledger import Chain, Charge, Content, Limits, Opening, Record
from silhouette_shared.privacy.mechanism import SampledGaussian

NODE = "north"
KEY = bytes(range(32))
PLAN = "ab" * 32
START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
STEP = SampledGaussian(noise_multiplier=1.0, sampling_rate=1 / 15, steps=1, clip_norm=1.0)
ANY = Limits(epsilon_per_run=None, epsilon_per_year=None, delta=1e-5)


def charge(
    round_number: int,
    *,
    run: str = "run-1",
    purpose: str = "training",
    mechanism: SampledGaussian = STEP,
    plan: str = PLAN,
    delta: float = 1e-5,
) -> Charge:
    return Charge(
        run=run,
        round=round_number,
        purpose=purpose,
        mechanism=mechanism,
        delta=delta,
        plan_digest=plan,
        model_digest="cd" * 32,
    )


def steps(count: int) -> SampledGaussian:
    return replace(STEP, steps=count)


def records(*contents: Content, key: bytes = KEY, opening: str = "00" * 16) -> list[Record]:
    """A whole ledger with an opening, no limits but delta, and these contents, an hour apart."""
    chain = Chain(key)
    made = []
    for number, content in enumerate((Opening(node=NODE, ledger=opening), ANY, *contents)):
        record = chain.seal(content, START + timedelta(hours=number))
        chain.add(record)
        made.append(record)
    return made


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, days: float) -> None:
        self.now += timedelta(days=days)


class Place:
    """Where a node keeps its ledger, and its operator a witness on another disk."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.witness_folder = folder / "witness"
        self.home.mkdir()
        self.witness_folder.mkdir()
        self.path = self.home / LEDGER_NAME
        self.key = self.path.with_suffix(".key")
        self.witness = FileWitness(self.witness_folder)

    def open(
        self,
        limits: Limits = ANY,
        *,
        witness: Witness | None = None,
        node: str = NODE,
        clock: Callable[[], datetime] | None = None,
    ) -> Ledger:
        """Open the ledger; without a clock by the real time."""
        chosen = self.witness if witness is None else witness
        if clock is None:
            return Ledger.open(self.path, node=node, limits=limits, witness=chosen)
        return Ledger.open(self.path, node=node, limits=limits, witness=chosen, clock=clock)
