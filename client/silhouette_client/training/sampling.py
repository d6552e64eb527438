"""Which people a step looks at.

Without privacy: every person once an epoch, in shuffled batches. With privacy: a Poisson sample, every person
independently with the same probability, because that is what the accounting of amplification assumes (a
shuffled batch reported as Poisson understates epsilon, https://arxiv.org/abs/2411.10614).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

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


def poisson_sample(people: int, rate: float, generator: torch.Generator) -> Tensor:
    """Every person independently with probability `rate`; the sample may be empty.

    Args:
        people: Number of people U.
        rate: Probability, above 0 and at most 1.
        generator: Its device is that of the result.

    Returns:
        Row numbers in ascending order, shape (sampled,).
    """
    draw = torch.rand(people, generator=generator, device=generator.device, dtype=torch.float64)
    return torch.nonzero(draw < rate).flatten()
