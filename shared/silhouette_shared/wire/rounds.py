"""What a secure round is about, as both sides work it out for themselves: the layout of its vector and its terms.

The coordinator signs these into the manifest and a partner compares them with its own, so nobody can be asked for a
vector of another meaning, on another model, or under other privacy terms.
"""

import hashlib
import json
import math
from collections.abc import Mapping

import numpy as np

from silhouette_shared.config import Plan
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg import Layout, Section, Terms
from silhouette_shared.wire.codec import Vector

UPDATE, WEIGHT, SUM = "update", "weight", "sum"
"""Names of sections."""

TRAINING = "training"
"""Purpose of a round whose sum moves the model."""

_RING = 2**31
_NEVER = 2.0**-40  # the chance, over a whole vector, that noise reaches beyond its section's slack


def weighted_layout(size: int, *, limit: float, partners: int, people: int) -> Layout:
    """Updates times their partners' weights, and the weights: what a mean is made of.

    The grid is as fine as the ring allows, so the rounding of a mean is below `limit / 2^31`.

    Args:
        size: Coordinates D of an update.
        limit: Largest magnitude of one coordinate of an update.
        partners: On the roster.
        people: Largest weight of one partner.
    """
    steps = (_RING - 1) // (partners * people) - 1
    return Layout(
        (
            Section(UPDATE, size, -steps, steps, people=people, scale=limit / (steps - 1)),
            Section(WEIGHT, 1, 0, 1, people=people),
        )
    )


def noised_layout(size: int, mechanism: SampledGaussian, grid: Grid, *, people: int) -> Layout:
    """Clipped sums on the grid with their noise.

    Args:
        size: Coordinates of the sum.
        mechanism: Whose noise every partner adds: all of it, or one of its shares.
        grid: Of the sum.
        people: Most people who are in one partner's sum.
    """
    bound = math.ceil(mechanism.clip_norm / grid.step)
    tails = math.sqrt(2 * math.log(2 * size / _NEVER))
    noise = mechanism.noise_std / math.sqrt(mechanism.shares) / grid.step
    return Layout(
        (
            Section(
                SUM,
                size,
                -bound,
                bound,
                people=people,
                slack=math.ceil(tails * noise) + 1,  # one for the rounding of the sum and of the noise
                scale=grid.step,
            ),
        )
    )


def training_layout(plan: Plan, size: int, mechanism: SampledGaussian | None, *, partners: int, people: int) -> Layout:
    """The layout of a round of training.

    Args:
        plan: Both sides' plan.
        size: Parameters D.
        mechanism: Of the round, on its grid; None without privacy.
        partners: On the roster.
        people: Largest declared size of a partner.
    """
    if mechanism is not None and plan.privacy.mode == "distributed":
        return noised_layout(size, mechanism, Grid.of(mechanism.clip_norm, plan.privacy.grid_bits), people=people)
    schedule = plan.training if mechanism is None else plan.privacy
    return weighted_layout(size, limit=schedule.update_limit, partners=partners, people=people)


def round_terms(
    plan: Plan,
    vocabulary: Vocabulary,
    *,
    purpose: str,
    number: int,
    layout: Layout,
    inputs: Mapping[str, Vector],
    mechanism: SampledGaussian | None,
) -> Terms:
    """What a round is about.

    Args:
        plan: Both sides' plan.
        vocabulary: Both sides' public catalogue.
        purpose: What the sum is for.
        number: Of the round, as the plan counts for this purpose.
        layout: Of the vector.
        inputs: What the coordinator sent along: the model, or which items are asked for.
        mechanism: What a partner charges for the round; None without privacy.
    """
    return Terms(
        purpose=f"{purpose}/{number}",
        layout=layout,
        model=inputs_digest(inputs),
        catalogue=vocabulary_digest(vocabulary),
        privacy=privacy_digest(plan, mechanism),
    )


def privacy_digest(plan: Plan, mechanism: SampledGaussian | None) -> bytes:
    """SHA-256 of the privacy terms of a round, 32 bytes: the plan, and what every partner charges for it."""
    privacy = {
        "plan": plan.digest,
        "mode": plan.privacy.mode if mechanism is not None else "none",
        "delta": plan.privacy.delta,
        "mechanism": None if mechanism is None else mechanism.describe(),
    }
    return hashlib.sha256(json.dumps(privacy, sort_keys=True).encode()).digest()


def inputs_digest(inputs: Mapping[str, Vector]) -> bytes:
    """SHA-256 over names, dtypes, lengths and bytes of vectors, 32 bytes."""
    found = hashlib.sha256()
    for name in sorted(inputs):
        value = np.ascontiguousarray(inputs[name])
        found.update(f"{len(name)}:{name}{value.dtype.str}{len(value)};".encode())
        found.update(value.data)
    return found.digest()


def vocabulary_digest(vocabulary: Vocabulary) -> bytes:
    """SHA-256 over the public catalogue that an encoder is built on, 32 bytes."""
    found = hashlib.sha256(json.dumps(vocabulary.attributes).encode())
    for tensor in (vocabulary.categories, vocabulary.content):
        found.update(str(tuple(tensor.shape)).encode())
        found.update(tensor.cpu().contiguous().numpy().data)
    return found.digest()
