"""Clipped gradients of single people, computed a second time by plain autograd.

The engine is asked for sums over one person, over several, and over several less one; what it should have given is put
together here from each person's own gradient, by the ordinary softmax and one backward pass a person.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_client.audit.rehearsal import CanaryEncoder
from silhouette_client.training.engine import Engine, EngineName, Losses
from silhouette_client.training.step import make_engine
from silhouette_shared.config import Plan, Privacy
from silhouette_shared.model.encoder import Block, Fusion
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import draw_negatives, person_losses
from silhouette_shared.model.softmax import Tape
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.audit.evidence import Norms
from silhouette_shared.randomness import ReproducibleSource

_TOGETHER = 8
_GROUPS = 20
FEWEST = _TOGETHER * _GROUPS
"""People needed, however few of them are examined alone."""

_FIRST_PART = 5  # of a group; the rest is a second virtual batch
_ENLARGED = 4.0  # norm, in clip norms, to which most people's losses are scaled: there a wrong norm shows
_AS_IT_IS = 10  # every tenth person's loss is left as it is


@dataclass(frozen=True)
class _Own:
    """What one person should add."""

    scale: float  # of the loss
    clipped: Tensor  # (D,) float64
    exceeded: bool


def examine(
    encoder: CanaryEncoder,
    histories: Histories,
    plan: Plan,
    *,
    alone: int,
    engine: EngineName,
    source: ReproducibleSource,
    progress: Callable[[], None] = lambda: None,
) -> Norms:
    """Compare the engine's sums with plain autograd.

    Dropout is off, because its draws would differ between one person alone and the same person among others.

    Args:
        encoder: At the parameters to examine; left as it came.
        histories: At least `alone` people, and `FEWEST`.
        plan: The objective and clipping.
        alone: People examined one at a time.
        engine: Under examination.
        source: Reproducible.
        progress: Called after every person.
    """
    watched, plain = (_without_dropout(copy.deepcopy(encoder)) for _ in range(2))
    generator = source.child("negatives").torch_generator()
    negatives = draw_negatives(len(encoder.item.weight) - 1, plan.training.negatives, generator)
    layout, privacy = Layout.of(encoder), plan.privacy

    def losses_of(model: CanaryEncoder, rows: Sequence[int], scales: Sequence[float], masking: float) -> Losses:
        batch = histories.training_batch(torch.tensor(rows), encoder.history_length, None)

        def run(tape: Tape | None) -> Tensor:
            found = person_losses(
                model,
                batch,
                attribute_weight=plan.training.attribute_weight,
                behaviour_weight=plan.training.behaviour_weight,
                attribute_masking=masking,
                generator=source.child("hiding", rows[0]).torch_generator(),
                negatives=negatives,
                per_person=True,
                tape=tape,
            )
            return found * torch.tensor(scales, dtype=found.dtype)

        return run

    def own(row: int, masking: float) -> _Own:
        loss = losses_of(plain, [row], [1.0], masking)(None).sum()
        gradient = _gradient(loss, plain, layout)
        norm = float(gradient.norm())
        scale = 1.0 if row % _AS_IT_IS == 0 or norm == 0 else _ENLARGED * privacy.clip_norm / norm
        gradient, norm = gradient * scale, norm * scale
        return _Own(scale, gradient * _factor(norm, privacy), norm > privacy.clip_norm)

    asked = make_engine(
        engine, watched, clip_norm=privacy.clip_norm, clipping=privacy.clipping, stability=privacy.clip_stability
    )
    try:
        largest = difference = 0.0
        clipped = 0
        for row in range(alone):
            expected = own(row, plan.training.attribute_masking)
            part = losses_of(watched, [row], [expected.scale], plan.training.attribute_masking)
            found = _sum(asked, layout, [part])
            largest = max(largest, float(found.norm()))
            difference = max(difference, float((found - expected.clipped).norm()))
            clipped += expected.exceeded
            progress()
        apart = change = 0.0
        for group in range(_GROUPS):
            rows = list(range(group * _TOGETHER, (group + 1) * _TOGETHER))
            # All attributes hidden, so that the draws are the same whoever else is there.
            owns = [own(row, 1.0) for row in rows]

            def parts(count: int, rows: list[int] = rows, owns: list[_Own] = owns) -> list[Losses]:
                scales = [one.scale for one in owns]
                pieces = [slice(0, _FIRST_PART), slice(_FIRST_PART, count)]
                return [losses_of(watched, rows[piece], scales[piece], 1.0) for piece in pieces]

            together = _sum(asked, layout, parts(_TOGETHER))
            expected_sum = torch.stack([one.clipped for one in owns]).sum(0)
            apart = max(apart, float((together - expected_sum).norm()))
            without = _sum(asked, layout, parts(_TOGETHER - 1))
            change = max(change, float((together - without).norm()))
    finally:
        asked.close()
    lengths = histories.lengths[:alone]
    return Norms(
        alone=alone,
        one_item=int((lengths == 1).sum()),
        repeated=_with_a_repeated_item(histories, alone, encoder.history_length),
        longest=int((lengths > encoder.history_length).sum()),
        clipped=clipped,
        largest_alone=largest / privacy.clip_norm,
        difference_alone=difference / privacy.clip_norm,
        together=_GROUPS * _TOGETHER,
        difference_together=apart / privacy.clip_norm / _TOGETHER,
        neighbours=_GROUPS,
        largest_neighbour=change / privacy.clip_norm,
    )


def _without_dropout(encoder: CanaryEncoder) -> CanaryEncoder:
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, Block | Fusion):
            module.dropout = 0.0
    encoder.shape = type(encoder.shape)(**{**vars(encoder.shape), "dropout": 0.0})
    return encoder


def _gradient(loss: Tensor, model: CanaryEncoder, layout: Layout) -> Tensor:
    """The gradient of a loss as one vector, float64 (D,)."""
    named = dict(model.named_parameters())
    if not loss.requires_grad:
        return torch.zeros(layout.size, dtype=torch.float64)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    parts = {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }
    return layout.flatten(parts).double()


def _factor(norm: float, privacy: Privacy) -> float:
    """What clipping multiplies a gradient of this norm by; written here again, because it is what is examined."""
    if privacy.clipping == "automatic":
        return privacy.clip_norm / (norm + privacy.clip_stability)
    return min(1.0, privacy.clip_norm / norm) if norm > 0 else 1.0


def kept(privacy: Privacy, length: float) -> float:
    """What clipping leaves of a gradient of `length` clip norms, in clip norms."""
    return length * _factor(length * privacy.clip_norm, privacy)


def _sum(engine: Engine, layout: Layout, parts: Sequence[Losses]) -> Tensor:
    for part in parts:
        engine.add(part)
    total = layout.flatten(engine.take()).detach().double()
    if not bool(total.isfinite().all()):
        return torch.full_like(total, math.inf)
    return total


def _with_a_repeated_item(histories: Histories, people: int, window: int) -> int:
    batch = histories.training_batch(torch.arange(people), window, None)
    ordered = batch.items.sort(dim=1).values
    return int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(1).sum())
