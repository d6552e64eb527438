"""Transition counts released once with user-level privacy: what a trained or counted model has to beat.

python simulations/benchmarks/one_shot_transitions.py simulations/experiments/ml-1m-private.toml --runs RUN RUN RUN

Everybody's vector of transitions one, two and three events apart, weighted 1 / distance, is scaled to norm one, and the
sum over all partners is released once with the noise that the plan's mode leaves in it: with `distributed` noise every
partner adds its share, and the sum of five has more than the three honest ones need. A person is scored from the last
ten events, each weighing 0.8 times the one after it. Entries below a multiple of the noise are zero; the multiple, and
whether rows are normalised, are chosen on the second last events without noise for that choice, which favours this
method. With `--runs`, finished runs of the plan at other epsilons, the row `private_statistics` is compared with it,
person by person.
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from silhouette_shared.config import Plan, read_plan
from silhouette_shared.model.evaluation import mean_interval, paired_bootstrap, person_figures, pessimistic_ranks
from silhouette_shared.privacy.accounting import calibrate
from silhouette_shared.privacy.budget import shares_of
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations import datasets
from silhouette_simulations.world import build_world

MEMORY, DECAY, LAGS = 10, 0.8, 3
MULTIPLES = (0.0, 1.0, 2.0, 3.0)
DRAWS = 3
_PEOPLE_AT_ONCE = 512

Sequences = list[NDArray[np.int64]]


def counted(people: Sequences, items: int) -> sparse.csr_matrix:
    """Sum over people of transition vectors of norm one, (V + 1, V + 1)."""
    size = items + 1
    total = sparse.csr_matrix((size, size))
    for start in range(0, len(people), _PEOPLE_AT_ONCE):
        rows, cells, weights = [], [], []
        for row, own in enumerate(people[start : start + _PEOPLE_AT_ONCE]):
            for lag in range(1, LAGS + 1):
                cells.append(own[:-lag] * size + own[lag:])
                weights.append(np.full(len(cells[-1]), 1.0 / lag))
                rows.append(np.full(len(cells[-1]), row))
        where = (np.concatenate(rows), np.concatenate(cells))
        part = sparse.csr_matrix((np.concatenate(weights), where), shape=(_PEOPLE_AT_ONCE, size * size))
        part.sum_duplicates()
        norms = np.sqrt(np.asarray(part.multiply(part).sum(1)).ravel())
        scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        summed = sparse.coo_matrix((sparse.diags(scale) @ part).sum(0))
        total = total + sparse.csr_matrix((summed.data, (summed.col // size, summed.col % size)), shape=(size, size))
    return total


def gains(
    matrix: NDArray[np.float32], people: Sequences, targets: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hits and NDCG at ten of everybody's target, items had before left out, (U,) each."""
    ranks = []
    popular = matrix.sum(0) * 1e-9
    for start in range(0, len(people), _PEOPLE_AT_ONCE):
        part = people[start : start + _PEOPLE_AT_ONCE]
        recent = [own[-MEMORY:] for own in part]
        rows = np.repeat(np.arange(len(part)), [len(own) for own in recent])
        weights = np.concatenate([DECAY ** np.arange(len(own))[::-1] for own in recent])
        query = sparse.csr_matrix((weights, (rows, np.concatenate(recent))), shape=(len(part), len(matrix)))
        scores = torch.from_numpy((query @ matrix + popular).astype(np.float32))
        scores[:, 0] = -torch.inf
        seen = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(own) for own in part], batch_first=True)
        ranks.append(pessimistic_ranks(scores, torch.from_numpy(targets[start : start + len(part)]), seen))
    return person_figures(torch.cat(ranks), torch.arange(len(people)), 10)


def cleaned(noised: NDArray[np.float32], bound: float, *, rows: bool) -> NDArray[np.float32]:
    """Entries above a bound, and each row's sum made one if asked."""
    kept = np.where(noised > bound, noised, 0.0).astype(np.float32)
    if rows:
        totals = kept.sum(1, keepdims=True)
        kept = np.divide(kept, totals, out=np.zeros_like(kept), where=totals > 0)
    return kept


def noise_of(plan: Plan, epsilon: float) -> float:
    """Standard deviation of the noise in the sum over all partners."""
    alone = calibrate(epsilon=epsilon, delta=plan.privacy.delta, sampling_rate=1.0, steps=1, clip_norm=1.0)
    shares = shares_of(plan) if plan.privacy.mode == "distributed" else 1
    return alone.noise_std * math.sqrt(plan.partition.partners / shares)


def noise_like(matrix: NDArray[np.float32], std: float, draw: int) -> NDArray[np.float32]:
    """Repeatable noise, for a measurement; no release."""
    generator = np.random.Generator(np.random.PCG64(ReproducibleSource(draw).child("one shot").number()))
    return generator.standard_normal(matrix.shape, dtype=np.float32) * np.float32(std)


def chosen(
    noised: NDArray[np.float32], std: float, people: Sequences, targets: NDArray[np.int64]
) -> tuple[float, bool]:
    """The bound, and whether rows are normalised, that rank these targets best."""
    found = {
        (multiple * std, rows): float(gains(cleaned(noised, multiple * std, rows=rows), people, targets)[1].mean())
        for multiple in MULTIPLES
        for rows in (False, True)
    }
    return max(found, key=lambda setting: found[setting])


def main() -> None:
    """Print a line an epsilon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[8.0, 4.0, 2.0])
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--home", type=Path, default=Path.home() / ".silhouette")
    asked = parser.parse_args()
    plan = read_plan(asked.plan)
    world = build_world(plan, datasets.load(plan.data.dataset, home=asked.home))
    everybody = world.pooled()
    offsets, events = everybody.known.offsets.tolist(), everybody.known.items.numpy()
    people = [events[a:b] for a, b in pairwise(offsets)]
    earlier, validation = [own[:-1] for own in people], np.array([own[-1] for own in people])
    targets = everybody.targets.numpy()
    size = world.vocabulary.items + 1
    whole, before = (counted(part, size - 1).toarray().astype(np.float32) for part in (people, earlier))
    runs = {read_plan(run / "plan.toml").privacy.epsilon: run for run in asked.runs}
    print(
        "without noise", *(f"{float(part.mean()):.4f}" for part in gains(cleaned(whole, 0, rows=True), people, targets))
    )
    for epsilon in asked.epsilon:
        std = noise_of(plan, epsilon)
        found = []
        for draw in range(DRAWS):
            noise = noise_like(whole, std, draw)
            bound, rows = chosen(before + noise, std, earlier, validation)
            found.append(gains(cleaned(whole + noise, bound, rows=rows), people, targets)[1])
        mean = torch.stack(found).mean(0)
        interval = mean_interval(mean, generator=ReproducibleSource(0).child("one shot").torch_generator())
        line = f"epsilon {epsilon:g}: noise {std:.3f}, "
        line += f"NDCG@10 {interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
        if epsilon in runs:
            table = pd.read_parquet(runs[epsilon] / "ranks.parquet")
            own = table[table["row"] == "private_statistics"].set_index("user").loc[list(everybody.users), "rank"]
            ranks = torch.from_numpy(own.to_numpy(dtype="int64", copy=True))
            ours = person_figures(ranks, torch.arange(len(ranks)), 10)[1]
            less = paired_bootstrap(ours, mean, generator=ReproducibleSource(0).child("less").torch_generator())
            line += (
                f"; private statistics {float(ours.mean()):.4f}, {less.mean:+.4f} ({less.low:+.4f} to {less.high:+.4f})"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()
