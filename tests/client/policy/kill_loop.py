"""A training with a ledger that is killed again and again: `python kill_loop.py FOLDER KILLS SEED [release-first]`.

One process imports everything once and forks a child for each life. A child opens the ledger and trains: a step of
logistic regression over a Poisson sample of made-up people, clipped person by person, noised after its charge, and the
release appended to a file. The parent kills it with SIGKILL at a random moment, sometimes while it opens the ledger.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tests.ledgers import ANY, NODE, PLAN, Place

from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.policy.witness import FileWitness
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import SecureSource

PEOPLE, WIDTH = 200, 16
MECHANISM = SampledGaussian(noise_multiplier=1.1, sampling_rate=0.1, steps=1, clip_norm=1.0)
LIVES_A_RUN = 20
RECORD_BYTES = 128  # divides a page: the kernel writes a record whole or not at all


def place_of(folder: Path) -> Place:
    place = object.__new__(Place)
    place.home, place.witness_folder = folder / "home", folder / "witness"
    place.path = place.home / "ledger.sqlite"
    place.witness = FileWitness(place.witness_folder)
    return place


class Training:
    """Private logistic regression, a step a round."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.features = draw.normal(size=(PEOPLE, WIDTH))
        self.labels = (self.features @ draw.normal(size=WIDTH) > 0).astype(float)
        self.secret = SecureSource()
        self.model = np.zeros(WIDTH)

    def clipped_sum(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Sum over a Poisson sample of the people, each one's gradient clipped."""
        sampled = self._uniform(PEOPLE) < MECHANISM.sampling_rate
        features, labels = self.features[sampled], self.labels[sampled]
        gradients = (1 / (1 + np.exp(-features @ self.model)) - labels)[:, None] * features
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        return np.asarray((gradients * np.minimum(1.0, MECHANISM.clip_norm / np.maximum(norms, 1e-12))).sum(axis=0))

    def noise(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        radius = np.sqrt(-2 * np.log(1 - self._uniform(WIDTH)))
        return np.asarray(MECHANISM.noise_std * radius * np.cos(2 * np.pi * self._uniform(WIDTH)))

    def _uniform(self, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray((np.frombuffer(self.secret.bytes(8 * count), dtype=np.uint64) >> 11) / 2.0**53)


def live(folder: Path, life: int, opened: int, *, release_first: bool) -> None:
    """Train until killed; a byte goes into `opened` when the ledger is open and after each round."""
    training = Training()
    releases = os.open(folder / "releases", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with place_of(folder).open(ANY) as ledger:
        os.write(opened, b"1")
        run = f"run-{life // LIVES_A_RUN}"
        rounds = [entry.content.round for entry in ledger.entries if isinstance(entry.content, Charge)]
        number = 1 + max(rounds, default=0)  # as a coordinator does: never a round that was charged
        while True:
            cost = Charge(
                run=run,
                round=number,
                purpose="training",
                mechanism=MECHANISM,
                delta=1e-5,
                plan_digest=PLAN,
                model_digest=hashlib.sha256(training.model.tobytes()).hexdigest(),
            )
            total = training.clipped_sum()
            if release_first:  # the planted fault
                os.write(releases, record(run, number, len(ledger.entries) + 1, bytes(32)))
            receipt = ledger.charge(cost)
            receipt.redeem(MECHANISM)
            training.model -= 0.1 * (total + training.noise()) / (MECHANISM.sampling_rate * PEOPLE)
            if not release_first:
                os.write(releases, record(run, number, receipt.head.sequence, receipt.head.hash))
            number += 1
            os.write(opened, b"1")


def record(run: str, number: int, sequence: int, digest: bytes) -> bytes:
    return f"{run} {number} {sequence} {digest.hex()}".ljust(RECORD_BYTES - 1).encode() + b"\n"


def read_one(reader: int, life: int) -> float:
    """Wait for a byte of the child, and say when it came."""
    if os.read(reader, 1) != b"1":
        sys.exit(f"life {life} could not open the ledger of {NODE} or ended by itself")
    return time.monotonic()


def main(folder: Path, kills: int, seed: int, *, release_first: bool) -> None:
    draw = random.Random(seed)
    round_seconds = 0.02
    Ledger.in_memory(ANY).close()  # whatever is imported late is imported now
    for life in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reader)
                live(folder, life, writer, release_first=release_first)
            finally:
                os._exit(1)  # a child ends by being killed; anything else is a failure
        os.close(writer)
        if draw.random() < 0.8:
            # A few rounds, however long they take on this disk, and then a part of one or two.
            begun, rounds = read_one(reader, life), draw.randrange(4)
            for _ in range(rounds):
                ended = read_one(reader, life)
                round_seconds = 0.8 * round_seconds + 0.2 * (ended - begun)
                begun = ended
            time.sleep(draw.uniform(0, 2 * round_seconds))
        else:
            time.sleep(draw.uniform(0, 0.04))  # while it opens the ledger
        os.kill(child, signal.SIGKILL)
        os.close(reader)  # only now: a child that writes into a closed pipe ends by itself
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"life {life} ended by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), release_first=sys.argv[4:] == ["release-first"])
