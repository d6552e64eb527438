"""Evidence as an honest run would leave it, and with one thing wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from silhouette_shared.privacy.audit.evidence import (
    Canaries,
    Correlations,
    DeclaredMechanism,
    Epsilons,
    Evidence,
    Moments,
    Noise,
    Norms,
    Sampling,
    included_canaries,
)
from silhouette_shared.privacy.audit.gates import AUDITED, CANARIES
from silhouette_shared.privacy.mechanism import SampledGaussian

PEOPLE, STEPS, RATE = 3000, 60, 0.1
MECHANISM = SampledGaussian(noise_multiplier=0.8, sampling_rate=RATE, steps=STEPS, clip_norm=1.0)
DECLARED = DeclaredMechanism.of(MECHANISM, delta=1e-5)
NORMS = Norms(
    alone=1000,
    one_item=100,
    repeated=500,
    longest=50,
    clipped=900,
    largest_alone=1.000001,
    difference_alone=1e-5,
    together=200,
    difference_together=1e-5,
    neighbours=40,
    largest_neighbour=1.00001,
)
CLEAN_MOMENTS = Moments(samples=2_000_000, mean=1e-4, square=1.0002, fourth=3.001)


def generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def presence(draw: np.random.Generator, how: str = "poisson") -> np.ndarray:
    """Who is in which step, shape (STEPS, PEOPLE)."""
    batch = int(PEOPLE * RATE)
    if how == "poisson":
        return draw.random((STEPS, PEOPLE)) < RATE
    there = np.zeros((STEPS, PEOPLE), dtype=bool)
    order, turns = draw.permutation(PEOPLE), draw.integers(0, PEOPLE // batch, PEOPLE)
    for step in range(STEPS):
        if how == "shuffled":  # epochs of fixed batches
            turn = step % (PEOPLE // batch)
            if turn == 0:
                order = draw.permutation(PEOPLE)
            chosen = order[turn * batch : (turn + 1) * batch]
        elif how == "fixed size":  # of all people, without replacement inside a step
            chosen = draw.choice(PEOPLE, batch, replace=False)
        elif how == "shuffled, Poisson sizes":
            if step % (PEOPLE // batch) == 0:
                turns = draw.integers(0, PEOPLE // batch, PEOPLE)
            chosen = np.flatnonzero(turns == step % (PEOPLE // batch))
        else:
            raise ValueError(how)
        there[step, chosen] = True
    return there


def counted(here: np.ndarray, there: np.ndarray) -> Sampling:
    return Sampling(
        people=PEOPLE,
        steps=STEPS,
        sizes=tuple(here.sum(1).tolist()),
        times=tuple(np.bincount(here.sum(0), minlength=STEPS + 1).tolist()),
        consecutive=int((here[1:] & here[:-1]).sum()),
        twice=0,
        shared=int((here & there).sum()),
    )


def canaries(seed: int = 0, *, noise: float = 1.0, norm: float = 1.0) -> Canaries:
    """Scores of canaries under the declared mechanism, or with another noise or clip norm."""
    included, draw = included_canaries(seed, CANARIES), generator(seed, 1)
    times = draw.binomial(STEPS, RATE, CANARIES) * included
    spread = noise * DECLARED.noise_multiplier * STEPS**0.5
    scores = norm * times + spread * draw.standard_normal(CANARIES)
    return Canaries(seed=seed, scores=tuple(scores.tolist()), kept=1.0)


@cache
def evidence(seed: int = 0) -> Evidence:
    """Of an honest run."""
    draw = generator(seed, 2)
    return Evidence(
        declared=DECLARED,
        norms=NORMS,
        noise=Noise(untouched=CLEAN_MOMENTS, everywhere=CLEAN_MOMENTS, rows=500, least_row=0.9, row_tail=0.7),
        correlations=Correlations(
            coordinates=40_000,
            steps=STEPS,
            adjacent=1e-4,
            largest_steps=0.02,
            partners=-2e-4,
            largest_partners=0.021,
            largest_inside=0.022,
            distances=60_000,
        ),
        sampling=counted(presence(draw), presence(draw)),
        canaries=canaries(seed),
        epsilons={AUDITED: Epsilons(prv=5.0, pld=4.99, rdp=5.6)},
    )


def with_norms(**changes: float) -> Evidence:
    return replace(evidence(), norms=replace(NORMS, **changes))  # type: ignore[arg-type]


def with_noise(**changes: object) -> Evidence:
    return replace(evidence(), noise=replace(evidence().noise, **changes))  # type: ignore[arg-type]


def with_correlations(**changes: object) -> Evidence:
    return replace(evidence(), correlations=replace(evidence().correlations, **changes))  # type: ignore[arg-type]


def with_sampling(how: str) -> Evidence:
    draw = generator(5)
    return replace(evidence(), sampling=counted(presence(draw, how), presence(draw, how)))
