"""Cross-entropy of the next item, from states to losses in one piece.

The scores of all items at all positions are by far the largest tensor of a training step, and the ordinary way keeps
several of its size: each part of the scores, their logarithmic softmax, its gradient. Here one is kept. It is turned
in place into the softmax minus the one-hot target, which is all that any gradient needs.

A score is `<state, E_v> + <P state, content_v>` with the trainable item table E and projection P, and the content
public. That is `<state, E_v + P^T content_v>`: one product with the *effective table* gives all of it.

For training with a gradient norm a person, a `Tape` takes what the gradient of the item table and of the projection is
made of, with the person axis in front, instead of that gradient.

Without the tape the functions give ordinary gradients for everything. Nothing here looks across people, and sampled
candidates do not depend on any record: with in-batch negatives one person's record would enter another's gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 2**19
"""Scores computed at a time, 2 MiB of float32: the passes of the softmax then read from the processor's cache."""


@dataclass
class ScoredItems:
    """What one pass through the softmax leaves for gradients a person.

    The gradient of person b's loss by the effective table is, at the rows `candidates` (all rows if None),
    `delta[b].T @ (weights[b, :, None] * states[b])`, plus `weights[b, t] * positive_delta[b, t] * states[b, t]` at
    the row `positives[b, t]` for every t, if there are positives apart. The item table has the same gradient.
    """

    table: Tensor  # the item table, (V + 1, H), the parameter itself
    projection: Tensor | None  # (C, H), the parameter itself
    states: Tensor  # (B, L, H)
    weights: Tensor  # (B, L) gradient of the sum of people's losses by the loss of each position
    delta: Tensor  # (B, L, K), share of each candidate minus one at the target
    content_gradient: Tensor | None  # (B, L, C) gradient by the projected states
    candidates: Tensor | None = None  # (K,) item numbers, all different
    positives: Tensor | None = None  # (B, L) item numbers
    positive_delta: Tensor | None = None  # (B, L)


@dataclass
class Tape:
    """Filled in a backward pass with what the fused softmax did."""

    scored: list[ScoredItems] = field(default_factory=list)


@dataclass(frozen=True)
class Scorer:
    """The trainable and public parts of the scores."""

    table: Tensor  # (V + 1, H); row 0 is padding and never a candidate
    projection: Tensor | None  # (C, H)
    content: Tensor | None  # (V + 1, C) public


@dataclass(frozen=True)
class Prior:
    """A constant part of the scores: `<queries, table_v> + bias_v`, from public or already charged statistics."""

    queries: Tensor  # (B, L, F) a function of the person's own record
    table: Tensor  # (V + 1, F)
    bias: Tensor | None = None  # (V + 1,)


def next_item_losses(
    states: Tensor,
    scorer: Scorer,
    targets: Tensor,
    *,
    negatives: Tensor | None = None,
    prior: Prior | None = None,
    tape: Tape | None = None,
) -> Tensor:
    """Mean cross-entropy over each person's positions with a target, shape (B,).

    With `negatives` the softmax is over the target and these items. They are drawn uniformly without replacement, so
    every item is as likely to be among them and the correction by the logarithm of that chance is one constant for
    all of them, which is left out, as is usual. A negative that is the target itself is not counted a second time.

    Args:
        states: Shape (B, L, H).
        scorer: What scores are made of.
        targets: Shape (B, L), 0 where nothing is to be predicted.
        negatives: Item numbers from 1, all different, the same for everybody, drawn independently of all records,
            shape (K,); None takes the whole catalogue.
        prior: A constant part of the scores.
        tape: Receives what the gradients of `scorer`'s trainable parts are made of; they themselves get none.

    Returns:
        Zero for a person without a target.
    """
    known = targets > 0
    if tape is None:  # positions without a target are left out: faster, and no person axis is needed
        rows = states[known]
        queries = None if prior is None else prior.queries[known]
        losses = _row_losses(rows, scorer, targets[known], negatives, prior, queries, None, targets.shape)
        owner = torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)[known]
        total = losses.new_zeros(len(targets)).index_add(0, owner, losses)
    else:
        queries = None if prior is None else prior.queries.flatten(0, 1)
        # Something has to be scored where there is no target; its loss and its weight are zero.
        target = targets.clamp(min=1).flatten()
        rows = states.flatten(0, 1)
        losses = _row_losses(rows, scorer, target, negatives, prior, queries, tape, targets.shape)
        total = losses.view(targets.shape).masked_fill(~known, 0.0).sum(1)
    return total / known.sum(1).clamp(min=1)


def _row_losses(
    rows: Tensor,
    scorer: Scorer,
    targets: Tensor,
    negatives: Tensor | None,
    prior: Prior | None,
    queries: Tensor | None,
    tape: Tape | None,
    shape: torch.Size,
) -> Tensor:
    settings = _Settings(scorer, prior, queries, tape, shape)
    if negatives is None:
        losses: Tensor = _FullSoftmax.apply(rows, scorer.table, scorer.projection, targets, settings)
    else:
        losses = _SampledSoftmax.apply(rows, scorer.table, scorer.projection, targets, negatives, settings)
    return losses


@dataclass(frozen=True)
class _Settings:
    """What the functions below take that has no gradient."""

    scorer: Scorer
    prior: Prior | None
    queries: Tensor | None  # (M, F) of the prior
    tape: Tape | None
    shape: torch.Size  # (B, L) of the rows, if there is a tape

    def effective(self, table: Tensor, projection: Tensor | None, items: Tensor | None) -> Tensor:
        """Rows of the effective table, shape (K, H), of all items or of these."""
        content = self.scorer.content
        rows = table if items is None else table[items]
        if projection is None or content is None:
            return rows
        return torch.addmm(rows, content if items is None else content[items], projection)

    def with_content(self, effective: Tensor, items: Tensor | None) -> Tensor:
        """The effective rows, and beside them the content if the gradient of the projection is wanted on a tape."""
        content = self.scorer.content
        if self.tape is None or self.scorer.projection is None or content is None:
            return effective
        return torch.cat([effective, content if items is None else content[items]], dim=1)


class _FullSoftmax(torch.autograd.Function):
    """Losses (M,) of rows (M, H) over the whole catalogue."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, table: Tensor, projection: Tensor | None, targets: Tensor, settings: _Settings
    ) -> Tensor:
        effective = settings.effective(table, projection, None)  # (V + 1, H)
        prior, queries = settings.prior, settings.queries
        asked, answers, bias = rows, effective, None
        if prior is not None and queries is not None:
            asked, answers, bias = torch.cat([rows, queries], 1), torch.cat([effective, prior.table], 1), prior.bias

        def score(part: slice, out: Tensor) -> None:
            torch.mm(asked[part], answers.T, out=out)
            if bias is not None:
                out += bias
            out[:, 0] = -torch.inf

        shares = rows.new_empty(len(rows), len(table))  # (M, V + 1)
        losses = _softmax_into(shares, score, targets)
        shares.scatter_add_(1, targets[:, None], shares.new_full((len(rows), 1), -1.0))
        ctx.settings = settings
        ctx.save_for_backward(rows, projection, effective, shares)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        rows, projection, effective, delta = ctx.saved_tensors
        settings: _Settings = ctx.settings
        width = rows.shape[1]
        gradient = torch.mm(delta, settings.with_content(effective, None)).mul_(weights[:, None])  # (M, H [+ C])
        if settings.tape is not None:
            _record(settings, rows, weights, delta, gradient[:, width:])
            return gradient[:, :width], None, None, None, None
        if not any(ctx.needs_input_grad[1:3]):
            return gradient, None, None, None, None
        weighted = rows * weights[:, None]
        by_table = torch.mm(delta.T, weighted)  # (V + 1, H)
        by_projection = None
        if projection is not None and settings.scorer.content is not None:
            by_projection = settings.scorer.content.T @ by_table
        return gradient, by_table, by_projection, None, None


class _SampledSoftmax(torch.autograd.Function):
    """Losses (M,) of rows (M, H) over each one's target, in column 0, and the negatives all share."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        table: Tensor,
        projection: Tensor | None,
        targets: Tensor,
        negatives: Tensor,
        settings: _Settings,
    ) -> Tensor:
        candidates = settings.effective(table, projection, negatives)  # (K, H)
        positives = settings.effective(table, projection, targets)  # (M, H)
        of_target = (rows * positives).sum(1)
        prior, queries = settings.prior, settings.queries
        asked, answers, bias = rows, candidates, None
        if prior is not None and queries is not None:
            asked, answers = torch.cat([rows, queries], 1), torch.cat([candidates, prior.table[negatives]], 1)
            of_target = of_target + (queries * prior.table[targets]).sum(1)
            if prior.bias is not None:
                bias = prior.bias[negatives]
                of_target = of_target + prior.bias[targets]
        column = _column_of(targets, negatives, len(table))  # (M,) where the target is a negative too, else -1

        def score(part: slice, out: Tensor) -> None:
            out[:, 0] = of_target[part]
            others = out[:, 1:]
            torch.mm(asked[part], answers.T, out=others)
            if bias is not None:
                others += bias
            hit = column[part, None]
            at = hit.clamp(min=0)
            others.scatter_(1, at, others.gather(1, at).masked_fill_(hit >= 0, -torch.inf))

        shares = rows.new_empty(len(rows), 1 + len(negatives))
        losses = _softmax_into(shares, score, torch.zeros_like(targets))
        shares[:, 0] -= 1.0
        ctx.settings = settings
        ctx.save_for_backward(rows, projection, candidates, positives, shares, targets, negatives)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        rows, projection, candidates, positives, shares, targets, negatives = ctx.saved_tensors
        settings: _Settings = ctx.settings
        width, content = rows.shape[1], settings.scorer.content
        of_target, delta = shares[:, 0], shares[:, 1:]
        gradient = torch.mm(delta, settings.with_content(candidates, negatives))  # (M, H [+ C])
        gradient[:, :width].addcmul_(positives, of_target[:, None])
        if settings.tape is not None:
            if gradient.shape[1] > width and content is not None:
                gradient[:, width:].addcmul_(content[targets], of_target[:, None])
            gradient *= weights[:, None]
            _record(settings, rows, weights, delta, gradient[:, width:], negatives, targets, of_target)
            return gradient[:, :width], None, None, None, None, None
        gradient *= weights[:, None]
        if not any(ctx.needs_input_grad[1:3]):
            return gradient, None, None, None, None, None
        weighted = rows * weights[:, None]
        by_candidates = torch.mm(delta.T, weighted)  # (K, H)
        by_target = weighted.mul_(of_target[:, None])  # (M, H)
        by_projection = None
        if projection is not None and content is not None:
            by_projection = content[negatives].T @ by_candidates + content[targets].T @ by_target
        by_table = rows.new_zeros(settings.scorer.table.shape)
        by_table.index_add_(0, negatives, by_candidates).index_add_(0, targets, by_target)
        return gradient, by_table, by_projection, None, None, None


def _softmax_into(shares: Tensor, score: Callable[[slice, Tensor], None], targets: Tensor) -> Tensor:
    """Fill `shares` (M, K) with the softmax of what `score` writes for some rows.

    Returns:
        The cross-entropy of each row's column in `targets`, shape (M,).
    """
    count, candidates = shares.shape
    step = min(count, max(16, _CHUNK_ELEMENTS // max(1, candidates)))
    scores = shares.new_empty(step, candidates)
    losses = shares.new_empty(count)
    for start in range(0, count, step or 1):
        part = slice(start, min(count, start + step))
        own = scores[: part.stop - start]
        score(part, own)
        torch.softmax(own, dim=1, out=shares[part])
        # The largest share is one over the sum of exponentials: log-sum-exp without a second pass of exponentials.
        normaliser = own.amax(1) - shares[part].amax(1).log()
        losses[part] = normaliser - own.gather(1, targets[part, None]).squeeze(1)
    return losses


def _column_of(items: Tensor, among: Tensor, count: int) -> Tensor:
    """Where each of `items` stands in `among`, -1 where it does not; item numbers are below `count`."""
    column = among.new_full((count,), -1)
    column[among] = torch.arange(len(among), device=among.device)
    found: Tensor = column[items]
    return found


def _record(
    settings: _Settings,
    rows: Tensor,
    weights: Tensor,
    delta: Tensor,
    content_gradient: Tensor,
    candidates: Tensor | None = None,
    positives: Tensor | None = None,
    positive_delta: Tensor | None = None,
) -> None:
    people, length = settings.shape

    def by_person(value: Tensor) -> Tensor:
        return value.view(people, length, *value.shape[1:])

    if settings.tape is None:
        raise ValueError("expected a tape to record on, got none")
    settings.tape.scored.append(
        ScoredItems(
            table=settings.scorer.table,
            projection=settings.scorer.projection if content_gradient.shape[1] else None,
            states=by_person(rows.detach()),
            weights=by_person(weights),
            delta=by_person(delta),
            content_gradient=by_person(content_gradient) if content_gradient.shape[1] else None,
            candidates=candidates,
            positives=None if positives is None else by_person(positives),
            positive_delta=None if positive_delta is None else by_person(positive_delta),
        )
    )
