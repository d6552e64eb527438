"""How good recommendations and trait scores are, counted so that nothing flatters the model.

Ranks are taken over the whole catalogue, ties count against us, and every metric is computed in
float64. Sampled metrics are not offered: they order models differently (Krichene and Rendle 2020,
https://dl.acm.org/doi/10.1145/3394486.3403226).

Items are numbered 1..V; 0 is padding. A function that draws takes a generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 2**22  # float64 scratch stays near 32 MiB


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class AttributeScore:
    """How well one attribute of people is told from their profiles.

    `precision`, `recall` and `f1` are macro averages over the classes that occur among the known
    or the predicted labels; a class never predicted has precision 0. `auc` is the one-vs-rest
    macro average over the classes that have both positives and negatives (with two classes: of the
    last one), None where no class has both.
    """

    attribute: str
    people: int  # with a known label
    classes: int  # declared, K
    majority_rate: float  # share of the most frequent class: what a constant answer reaches
    accuracy: float
    precision: float
    recall: float
    f1: float
    auc: float | None


def pessimistic_ranks(scores: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """Rank every target among the items its user has not seen, from 0 for the best.

    An item with the target's score is ranked before it, so a constant scorer comes last. Seen
    items and the padding column are left out, except that a target stays in even if it was seen
    before.

    Args:
        scores: Shape (B, V + 1), any floating type; column 0 is ignored.
        targets: Item ids in 1..V, shape (B,).
        seen: Item ids padded with 0, shape (B, S); S may be 0, ids may repeat.

    Returns:
        int64 ranks in 0..V - 1, shape (B,).

    Raises:
        ValueError: If shapes or ids do not fit, or a score is NaN.

    >>> pessimistic_ranks(torch.tensor([[9.0, 3.0, 2.0, 2.0]]), torch.tensor([2]), torch.tensor([[1]]))
    tensor([1])
    """
    allowed = _allowed(scores, seen)
    if targets.ndim != 1 or len(targets) != len(scores):
        raise ValueError(f"expected one target per row of scores, shape ({len(scores)},), got {tuple(targets.shape)}")
    _check_ids("targets", targets, lowest=1, highest=scores.shape[1] - 1)
    column = targets.long().unsqueeze(1)  # (B, 1)
    allowed.scatter_(1, column, True)
    ahead = (scores >= scores.gather(1, column)).logical_and_(allowed)  # (B, V + 1)
    return ahead.sum(dim=1) - 1


def hit_rate(ranks: Tensor, cutoff: int = 10) -> float:
    """Share of users whose target is among the first `cutoff` items; `ranks` has shape (U,).

    >>> hit_rate(torch.tensor([0, 9, 10, 50]))
    0.5
    """
    _check_ranks(ranks, cutoff)
    return float((ranks < cutoff).double().mean())


def ndcg(ranks: Tensor, cutoff: int = 10) -> float:
    """Mean normalised discounted cumulative gain at `cutoff`; `ranks` has shape (U,).

    >>> ndcg(torch.tensor([0, 2, 10]))
    0.5
    """
    return float(ndcg_gains(ranks, cutoff).mean())


def ndcg_gains(ranks: Tensor, cutoff: int = 10) -> Tensor:
    """Every user's part in `ndcg`: 1 / log2(rank + 2) below `cutoff`, else 0.

    Float64 of shape (U,). One item is relevant per user, so the ideal gain is 1. This is what the
    intervals resample.

    Raises:
        ValueError: If `ranks` is empty, not 1-D, not integer or negative, or `cutoff` is below 1.
    """
    _check_ranks(ranks, cutoff)
    gains = 1.0 / torch.log2(ranks.double() + 2.0)
    return gains.where(ranks < cutoff, torch.zeros_like(gains))


def person_figures(ranks: Tensor, owner: Tensor, cutoff: int = 10) -> tuple[Tensor, Tensor]:
    """Hits and NDCG at `cutoff` of everybody who is asked for something, whatever the number of things.

    Hits are the targets among the first `cutoff`, over as many as could be there. The gain is the sum of
    1 / log2(rank + 2) over these targets, over that of the best order. For one target a person both are as
    `hit_rate` and `ndcg` have them.

    Args:
        ranks: From `pessimistic_ranks`, shape (N,).
        owner: Whose each target is, ascending, shape (N,).
        cutoff: Ranks from here on count nothing.

    Returns:
        Two tensors of float64, one entry for each person that occurs in `owner`, in that order.

    Raises:
        ValueError: As `ndcg_gains`, or if the owners do not fit.

    >>> person_figures(torch.tensor([0, 1, 12]), torch.tensor([3, 3, 5]))[1]
    tensor([1., 0.], dtype=torch.float64)
    """
    gains = ndcg_gains(ranks, cutoff)
    if owner.shape != ranks.shape or bool((owner.diff() < 0).any()):
        raise ValueError(f"expected one owner a rank, ascending, got {tuple(owner.shape)} for {tuple(ranks.shape)}")
    _, place, counts = owner.unique_consecutive(return_inverse=True, return_counts=True)
    best = (1.0 / torch.log2(torch.arange(cutoff, dtype=torch.float64) + 2.0)).cumsum(0).to(gains)
    most = counts.clamp(max=cutoff)

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(len(counts)).index_add(0, place, values)

    return summed((ranks < cutoff).double()) / most, summed(gains) / best[most - 1]


def top_items(scores: Tensor, seen: Tensor, cutoff: int = 10) -> Tensor:
    """The `cutoff` best unseen items of every row, best first; ties go to the smaller item id.

    Args:
        scores: Shape (B, V + 1); column 0 is ignored.
        seen: Item ids padded with 0, shape (B, S).
        cutoff: How many items, k.

    Returns:
        int64 item ids in 1..V, shape (B, k), never padding and never a seen item.

    Raises:
        ValueError: If shapes or ids do not fit, a score is NaN, or a row has fewer than k unseen
            items.

    >>> top_items(torch.tensor([[9.0, 1.0, 2.0, 2.0]]), torch.tensor([[0]]), cutoff=2)
    tensor([[2, 3]])
    """
    allowed = _allowed(scores, seen)
    _check_cutoff(cutoff)
    fewest = int(unseen_counts(seen, scores.shape[1] - 1).min()) if len(scores) else cutoff
    if fewest < cutoff:
        raise ValueError(f"expected at least {cutoff} unseen items in every row, got {fewest}; lower the cutoff")
    masked = scores.masked_fill(~allowed, -math.inf)
    # topk alone leaves the order of ties open. Where the next score is below the k-th it has the right items, which is
    # nearly everywhere and costs a fraction of what settling ties by id does.
    values, items = masked.topk(cutoff + 1, dim=1)
    unclear = (values[:, cutoff - 1] == values[:, cutoff]).nonzero()[:, 0]
    items = items[:, :cutoff].sort(dim=1).values  # ids ascending
    items[unclear] = _settled(masked[unclear], allowed[unclear], values[unclear, cutoff - 1 : cutoff], cutoff)
    order = masked.gather(1, items).sort(dim=1, descending=True, stable=True).indices
    return items.gather(1, order)


def unseen_counts(seen: Tensor, items: int) -> Tensor:
    """How many of the items 1..`items` each row has not seen, (B,); `seen` as in `top_items`.

    >>> unseen_counts(torch.tensor([[2, 0, 2, 1], [0, 0, 0, 0]]), items=3)
    tensor([1, 3])
    """
    ordered = seen.sort(dim=1).values
    fresh = torch.nn.functional.pad(ordered, (1, 0)).diff(dim=1) > 0  # the padding 0 comes first and is none
    return items - fresh.sum(dim=1)


def _settled(masked: Tensor, allowed: Tensor, threshold: Tensor, cutoff: int) -> Tensor:
    """The `cutoff` best of every row, ids ascending; of those that have the k-th best score the smaller ids, (B, k)."""
    above = masked > threshold
    tied = (masked == threshold) & allowed
    places = cutoff - above.sum(dim=1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(dim=1) <= places))  # exactly k in every row
    return chosen.nonzero()[:, 1].view(len(masked), cutoff)


def coverage(top: Tensor, items: int) -> float:
    """Share of the catalogue that is recommended to anybody.

    Args:
        top: Recommended item ids in 1..items, shape (U, k).
        items: Size of the catalogue, V.

    Raises:
        ValueError: If `top` is empty, not 2-D or has an id outside 1..items.
    """
    _check_top(top, items)
    return len(top.unique()) / items


def novelty(top: Tensor, popularity: Tensor) -> float:
    """Mean self-information of the recommended items, in bits: -log2 of the share of people.

    An item that nobody has counts as the rarest item that somebody has, so that the mean stays
    finite.

    Args:
        top: Recommended item ids, shape (U, k).
        popularity: Share of people in 0..1 for every id, shape (V + 1,); entry 0 is ignored.

    Raises:
        ValueError: If shapes or ids do not fit, a share is outside 0..1, or every share is 0.

    >>> novelty(torch.tensor([[1, 2]]), torch.tensor([0.0, 0.5, 0.125]))
    2.0
    """
    if popularity.ndim != 1:
        raise ValueError(f"expected one share per item, shape (V + 1,), got {tuple(popularity.shape)}")
    _check_top(top, len(popularity) - 1)
    shares = popularity[1:].double()
    if not bool(((shares >= 0) & (shares <= 1)).all()):  # NaN fails too
        raise ValueError("expected shares of people between 0 and 1, got one outside; divide by the people counted")
    held = shares[shares > 0]
    if len(held) == 0:
        raise ValueError("expected somebody to have some item, got only shares of 0; count the training events")
    return float(-shares.clamp(min=float(held.min())).log2()[top.long() - 1].mean())


def diversity(top: Tensor, category_matrix: Tensor) -> float:
    """Mean over users of the mean cosine distance between the categories of two recommended items.

    An item without any category shares nothing with any other: its distance is 1.

    Args:
        top: Recommended item ids, shape (U, k), k at least 2.
        category_matrix: Finite weights per item and category, shape (V + 1, G); row 0 is ignored.

    Raises:
        ValueError: If shapes or ids do not fit, a weight is not finite, or k is 1.
    """
    if category_matrix.ndim != 2:
        raise ValueError(f"expected categories of shape (V + 1, G), got {tuple(category_matrix.shape)}")
    _check_top(top, len(category_matrix) - 1)
    people, length = top.shape
    if length < 2:
        raise ValueError("expected at least 2 items per user to compare, got 1; raise the cutoff")
    weights = category_matrix.double()
    if not bool(weights.isfinite().all()):
        raise ValueError("expected finite category weights, got NaN or infinity; check the catalogue")
    norms = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
    directions = weights / norms.where(norms > 0, torch.ones_like(norms))  # (V + 1, G)
    size = max(1, _CHUNK_ELEMENTS // max(1, length * weights.shape[1]))
    similarity = 0.0
    for part in top.long().split(size):
        rows = directions[part]  # (u, k, G)
        # The square of the sum holds every ordered pair plus every item with itself.
        similarity += float(rows.sum(dim=1).square().sum() - rows.square().sum())
    return 1.0 - similarity / (people * length * (length - 1))


def mean_interval(
    values: Tensor, *, generator: torch.Generator, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of `values` with a percentile bootstrap interval over users.

    The draws are made on the generator's device. Memory stays bounded however many users there are.

    Args:
        values: One finite number per user, shape (U,).
        generator: Reproducible source of the resamples.
        resamples: How many times the users are drawn again, with replacement.
        level: Probability inside the interval, between 0 and 1.

    Raises:
        ValueError: If `values` is empty, not 1-D or not finite, or a setting is out of range.
    """
    _check_values("values", values)
    if resamples < 1:
        raise ValueError(f"expected at least 1 resample, got {resamples=}")
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level=}")
    values = values.to(generator.device, torch.float64)
    people = len(values)
    means = []
    for done in range(0, resamples, step := max(1, _CHUNK_ELEMENTS // people)):
        draws = torch.randint(
            people,
            (min(step, resamples - done), people),
            generator=generator,
            device=generator.device,
        )
        means.append(values[draws].mean(dim=1))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64).to(values.device)
    low, high = torch.cat(means).quantile(ends).tolist()
    return Interval(float(values.mean()), low, high)


def paired_bootstrap(
    a: Tensor, b: Tensor, *, generator: torch.Generator, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of a - b over the same users, with a percentile bootstrap interval.

    Pairing removes what makes one user harder than another, which is most of the spread.

    Args:
        a: One number per user, shape (U,), for example from `ndcg_gains`.
        b: The same users in the same order, shape (U,).
        generator: Reproducible source of the resamples.
        resamples: How many times the users are drawn again.
        level: Probability inside the interval.

    Raises:
        ValueError: As `mean_interval`, or if `a` and `b` differ in shape.
    """
    _check_values("a", a)
    _check_values("b", b)
    if a.shape != b.shape:
        raise ValueError(f"expected the same users in a and b, got {len(a)} and {len(b)}; align them by user")
    difference = a.double() - b.double()
    return mean_interval(difference, generator=generator, resamples=resamples, level=level)


def attribute_scores(name: str, probabilities: Tensor, truth: Tensor) -> AttributeScore:
    """Score the predictions of one attribute over the people whose label is known.

    The predicted class is the most probable one, the first of them if several tie.

    Args:
        name: The attribute.
        probabilities: Finite score of every class, shape (U, K), K at least 2.
        truth: Class index in 0..K - 1, or -1 where unknown, shape (U,).

    Raises:
        ValueError: If shapes or labels do not fit, a score is not finite, or no label is known.

    >>> attribute_scores("gender", torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])).auc
    1.0
    """
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(
            f"expected {name} probabilities of shape (U, K) with K at least 2, got {tuple(probabilities.shape)}"
        )
    if truth.ndim != 1 or len(truth) != len(probabilities):
        raise ValueError(f"expected one {name} label per row, shape ({len(probabilities)},), got {tuple(truth.shape)}")
    classes = probabilities.shape[1]
    _check_ids(f"{name} labels", truth, lowest=-1, highest=classes - 1)
    known = truth >= 0
    labels = truth[known].long()  # (N,)
    scores = probabilities[known].double()  # (N, K)
    people = len(labels)
    if people == 0:
        raise ValueError(f"expected somebody with a known {name}, got nobody; leave the attribute out")
    if not bool(scores.isfinite().all()):
        raise ValueError(f"expected finite {name} probabilities, got NaN or infinity; check the model")
    predicted = scores.argmax(dim=1)
    actual_counts = labels.bincount(minlength=classes).double()  # (K,)
    predicted_counts = predicted.bincount(minlength=classes).double()
    right = labels[predicted == labels].bincount(minlength=classes).double()
    present = (actual_counts + predicted_counts) > 0

    def macro(numerator: Tensor, denominator: Tensor) -> float:
        # A numerator over an empty denominator is 0 as well, so the clamp gives 0, as
        # scikit-learn's zero_division.
        return float((numerator / denominator.clamp(min=1.0))[present].mean())

    return AttributeScore(
        attribute=name,
        people=people,
        classes=classes,
        majority_rate=float(actual_counts.max()) / people,
        accuracy=float(right.sum()) / people,
        precision=macro(right, predicted_counts),
        recall=macro(right, actual_counts),
        f1=macro(2 * right, actual_counts + predicted_counts),
        auc=_area_under_curve(scores, labels),
    )


def _area_under_curve(scores: Tensor, labels: Tensor) -> float | None:
    """One-vs-rest area from the rank statistic of Mann and Whitney, ties counted half."""
    people, classes = scores.shape
    columns = scores.T.contiguous()  # (K, N)
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns)
    up_to = torch.searchsorted(ordered, columns, right=True)
    ranks = (below + up_to + 1).double() / 2  # mean rank of the ties, from 1
    positive = labels.unsqueeze(0) == torch.arange(classes, device=labels.device).unsqueeze(1)  # (K, N)
    positives = positive.sum(dim=1).double()
    negatives = people - positives
    wins = (ranks * positive).sum(dim=1) - positives * (positives + 1) / 2
    defined = (positives > 0) & (negatives > 0)
    if classes == 2:
        defined[0] = False  # the binary convention: the last class is the positive one
    if not bool(defined.any()):
        return None
    return float((wins[defined] / (positives * negatives)[defined]).mean())


def _allowed(scores: Tensor, seen: Tensor) -> Tensor:
    """Which columns may be ranked, neither padding nor seen: a new bool tensor (B, V + 1)."""
    if scores.ndim != 2 or scores.shape[1] < 2 or not scores.is_floating_point():
        raise ValueError(
            "expected floating scores of shape (B, V + 1) with V at least 1, "
            f"got {tuple(scores.shape)} of {scores.dtype}"
        )
    if seen.ndim != 2 or len(seen) != len(scores):
        raise ValueError(f"expected seen items of shape ({len(scores)}, S), got {tuple(seen.shape)}")
    _check_ids("seen items", seen, lowest=0, highest=scores.shape[1] - 1)
    if scores.numel() and bool(scores.amax().isnan()):  # the largest of numbers and NaN is NaN
        raise ValueError("expected scores that are numbers, got NaN; the model has diverged")
    allowed = torch.ones_like(scores, dtype=torch.bool)
    allowed[:, 0] = False
    return allowed.scatter_(1, seen.long(), False)


def _check_ids(what: str, ids: Tensor, *, lowest: int, highest: int) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"expected integer {what}, got {ids.dtype}")
    if ids.numel() and not (lowest <= int(ids.min()) and int(ids.max()) <= highest):
        raise ValueError(f"expected {what} in {lowest}..{highest}, got one outside")


def _check_cutoff(cutoff: int) -> None:
    if cutoff < 1:
        raise ValueError(f"expected a cutoff of at least 1, got {cutoff}")


def _check_ranks(ranks: Tensor, cutoff: int) -> None:
    _check_cutoff(cutoff)
    if ranks.ndim != 1 or len(ranks) == 0:
        raise ValueError(f"expected one rank per user and at least one user, got shape {tuple(ranks.shape)}")
    if ranks.is_floating_point() or ranks.dtype == torch.bool or int(ranks.min()) < 0:
        raise ValueError("expected integer ranks counted from 0; take them from pessimistic_ranks")


def _check_top(top: Tensor, items: int) -> None:
    if top.ndim != 2 or top.numel() == 0:
        raise ValueError(f"expected recommended items of shape (U, k), not empty, got {tuple(top.shape)}")
    _check_ids("recommended items", top, lowest=1, highest=items)


def _check_values(what: str, values: Tensor) -> None:
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected {what} of shape (U,) with at least one user, got {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"expected finite {what}, got NaN or infinity")
