"""Which people a step looks at.

Without privacy: every person once an epoch, in shuffled batches. With privacy: a Poisson sample, every person
independently with the same probability, because that is what the accounting of amplification assumes (a
shuffled batch reported as Poisson understates epsilon, https://arxiv.org/abs/2411.10614).
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from silhouette_shared.errors import UsageError
from silhouette_shared.randomness import SecretBytes

_BATCHES_SORTED_TOGETHER = 8


def shuffled_batches(lengths: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Every person once, in batches of people with similar histories so that little is padding.

    Args:
        lengths: Events of each person, shape (U,).
        batch_size: People a batch, the last ones of a stretch may be fewer.
        generator: Reproducible; on the device of `lengths`.

    Yields:
        Row numbers, shape (batch_size,) or less.
    """
    order = torch.randperm(len(lengths), generator=generator, device=lengths.device)
    batches: list[Tensor] = []
    for stretch in order.split(batch_size * _BATCHES_SORTED_TOGETHER):
        by_length = stretch[lengths[stretch].argsort(stable=True)]
        batches.extend(by_length.split(batch_size))
    turn = torch.randperm(len(batches), generator=generator, device=lengths.device)
    for number in turn.tolist():
        yield batches[number]


def poisson_sample(
    people: int,
    rate: float,
    secret: SecretBytes,
    *,
    cap: int | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Every person independently with probability `rate`, drawn where nobody can look; the sample may be empty.

    Each person has a word of 64 bits and takes part if it is below rate x 2^64, a whole number from a rate of 2^-11
    on and rounded down below: exact, or less often than accounting assumes by 2^-64. A sample larger than the cap
    keeps a uniformly random part of it. The cap is right only where that practically never happens, and what is left
    of the probability is charged to delta (`silhouette_shared.privacy.cap`).

    Args:
        people: Number of people U.
        rate: Probability, above 0 and at most 1.
        secret: Where the bytes come from: 8 a person.
        cap: Largest sample, at least 1; None keeps every sample whole.
        device: Of the result.

    Returns:
        Row numbers in ascending order, shape (sampled,).

    Raises:
        UsageError: If the rate or the cap is out of range.
    """
    if not 0 < rate <= 1:
        raise UsageError(f"expected a sampling rate above 0 and at most 1, got {rate!r}; change it")
    if cap is not None and cap < 1:
        raise UsageError(f"expected a batch cap of at least 1 person, got {cap}; change it")
    words = np.frombuffer(secret.bytes(8 * people), dtype="<u8")
    limit = int(rate * 2.0**64)  # a product with a power of two is exact
    rows = np.flatnonzero(words < np.uint64(limit)) if limit < 2**64 else np.arange(people)
    if cap is not None and len(rows) > cap:
        keys = np.frombuffer(secret.bytes(8 * len(rows)), dtype="<u8")
        rows = np.sort(rows[np.argsort(keys, kind="stable")[:cap]])
    return torch.from_numpy(rows).to(device)
