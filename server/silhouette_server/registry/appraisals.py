"""From the released sums of a federated evaluation to what a card says of a model."""

from __future__ import annotations

from silhouette_shared.cards.documents import Evaluation, Figure, Quality
from silhouette_shared.model.appraisal import METRIC, Appraised
from silhouette_shared.model.figures import mean_of


def evaluation_of(appraised: Appraised, beside: str) -> Evaluation | None:
    """What goes onto a card; None if noise leaves nobody over all partners.

    The figure of the worst partner is left out if noise leaves nobody at one of them: it might be the worst.

    Args:
        appraised: The figures.
        beside: SHA-256 of the file of the other model, empty without one.
    """
    found = _quality(appraised, "ndcg")
    if found is None:
        return None
    other = _quality(appraised, "ndcg beside") if beside and appraised.beside else None
    return Evaluation(metric=METRIC, quality=found, beside={} if other is None else {beside: other})


def _quality(appraised: Appraised, cell: str) -> Quality | None:
    overall, worst = mean_of(appraised.together, cell), appraised.worst(cell)
    if overall is None:
        return None
    return Quality(
        overall=Figure(value=overall[0], noise_std=overall[1]),
        worst=None if worst is None else Figure(value=worst[0], noise_std=worst[1]),
    )
