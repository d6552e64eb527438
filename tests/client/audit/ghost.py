"""Opacus' ghost clipping with the scoring head tied by a product, as RecBole's SASRec writes it.

Opacus computes norms in hooks of modules, and a product with `embedding.weight` is none: the norm misses the scoring
side of the item table, the gradient has it.
"""

from __future__ import annotations

from functools import partial

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor
from torch.nn import functional as F

from silhouette_client.training.engine import Losses
from silhouette_shared.model.encoder import ProfileEncoder


def _item_scores(encoder: ProfileEncoder, state: Tensor) -> Tensor:
    content = encoder.get_buffer("content")
    scores: Tensor = F.linear(state, encoder.item.weight) + encoder.score_content(state) @ content.T
    return scores.index_fill(-1, scores.new_zeros(1, dtype=torch.long), -torch.inf)


class GhostWithFunctionalTying:
    """An engine as somebody would build it from Opacus' parts in good faith."""

    def __init__(self, encoder: ProfileEncoder, *, clip_norm: float, clipping: str, stability: float) -> None:
        del clipping, stability
        self._encoder = encoder
        self._head = encoder._modules.pop("score_item")
        encoder.item_scores = partial(_item_scores, encoder)  # type: ignore[method-assign]
        self._watched = GradSampleModuleFastGradientClipping(
            encoder, batch_first=True, loss_reduction="sum", max_grad_norm=clip_norm, use_ghost_clipping=True
        )
        self._sums = self._zeros()

    def add(self, losses: Losses) -> None:
        self._encoder.zero_grad()
        per_person = losses(None)
        self._watched.enable_hooks()
        per_person.sum().backward(retain_graph=True)
        for parameter in self._encoder.parameters():
            if getattr(parameter, "_norm_sample", None) is None:  # a layer that these people did not reach
                parameter._norm_sample = torch.zeros(len(per_person))  # type: ignore[attr-defined]
        factors = self._watched.get_clipping_coef().detach()
        self._encoder.zero_grad()
        self._watched.disable_hooks()
        (factors * per_person).sum().backward()
        self._watched.enable_hooks()
        for name, parameter in self._encoder.named_parameters():
            if parameter.grad is not None:
                self._sums[name] += parameter.grad
            parameter._norm_sample = None  # type: ignore[attr-defined]
        self._encoder.zero_grad()

    def take(self) -> dict[str, Tensor]:
        sums, self._sums = self._sums, self._zeros()
        return sums

    def close(self) -> None:
        self._watched.cleanup()
        del self._encoder.item_scores
        self._encoder._modules["score_item"] = self._head

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(p, requires_grad=False) for name, p in self._encoder.named_parameters()}
