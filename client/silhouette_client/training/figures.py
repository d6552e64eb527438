"""Figures over a partner's people: histograms, and hits and NDCG of a model, each person bounded.

Each function here gives one row a person, from that person's record, the public vocabulary and the model alone. What
makes the bound is in one place, `_bounded`: a row that is too long is scaled down to it and one that is no number
adds nothing, so no function can let a person weigh more, however many events there are.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from silhouette_client.profiles.build import seen_items
from silhouette_client.training.release import ClippedSum
from silhouette_shared.config import FigureName, ReleaseName
from silhouette_shared.model.appraisal import Sheet
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.evaluation import ndcg_gains, pessimistic_ranks
from silhouette_shared.model.figures import CUTOFF, DAILY_EDGES, FIGURES, LENGTH_EDGES
from silhouette_shared.model.histories import VALUE_BUCKETS, Histories
from silhouette_shared.privacy.budget import STATISTIC_NORM
from silhouette_shared.schema import BEHAVIOURS

_WITHIN = STATISTIC_NORM * (1 - 1e-12)  # so that rounding never passes the bound
_PEOPLE_AT_ONCE = 256
_SECONDS_PER_DAY = 86_400

Rows = Callable[[Histories, Vocabulary], Tensor]


def figure_sum(name: FigureName, histories: Histories, vocabulary: Vocabulary) -> ClippedSum:
    """The sum of a figure over people, each with a vector of norm at most one, float64.

    Args:
        name: Of the figure.
        histories: The partner's people.
        vocabulary: Public.
    """
    return bounded_sum(name, _ROWS[name](histories, vocabulary), vocabulary)


def evaluation_rows(encoder: ProfileEncoder, histories: Histories) -> Tensor:
    """A hit and NDCG at ten on everybody's newest event, and a one for having been asked for, (U, 3) float64.

    The full catalogue is ranked from the events before it, seen items removed, ties against the model. Whoever has one
    event only has nothing to be ranked from and has zeros.

    Args:
        encoder: With the model that is evaluated.
        histories: The partner's people with the event that was held out.
    """
    encoder.eval()
    rows = torch.zeros(len(histories), 3, dtype=torch.float64, device=histories.items.device)
    held_out = histories.lengths > 1
    if bool(held_out.any()):
        known = histories.without_last(held_out.long())
        newest = histories.items[histories.offsets[1:] - 1]
        with torch.no_grad():
            for people in held_out.nonzero()[:, 0].split(_PEOPLE_AT_ONCE):
                batch = known.batch(people, encoder.history_length)
                scores = encoder.next_item_scores(batch)
                ranks = pessimistic_ranks(scores, newest[people], seen_items(known, people))
                rows[people, 0] = (ranks < CUTOFF).double()
                rows[people, 1] = ndcg_gains(ranks, CUTOFF).double()
                rows[people, 2] = 1.0
    return rows


def evaluation_sum(rows: Sequence[Tensor], sheet: Sheet) -> ClippedSum:
    """The cells of a partner's place, each person bounded.

    Args:
        rows: As `evaluation_rows` gives them for each model, on the same people.
        sheet: Of the evaluation, with as many models.

    Raises:
        ValueError: If there are others.
    """
    if len(rows) != sheet.models:
        raise ValueError(f"expected rows of {sheet.models} models, got {len(rows)}")
    first, *others = rows
    return _bounded(torch.cat([first, *(one[:, :2] for one in others)], dim=1) * sheet.weight)


def bounded_sum(name: ReleaseName, rows: Tensor, vocabulary: Vocabulary) -> ClippedSum:
    """The sum of one row a person, each scaled down to the bound where it is longer.

    Args:
        name: Of the figure, for its weight.
        rows: Shape (U, cells); a row with an entry that is no number counts as zeros.
        vocabulary: Public.
    """
    return _bounded(rows.double() * FIGURES[name].weight(vocabulary))


def _bounded(weighted: Tensor) -> ClippedSum:
    norms = torch.linalg.vector_norm(weighted, dim=1)
    factors = (_WITHIN / norms).clamp(max=1.0)  # a zero norm gives inf, hence 1
    bounded = torch.where(norms.isfinite()[:, None], weighted * factors[:, None], 0.0)
    return ClippedSum(bounded.sum(0), STATISTIC_NORM)


def _attributes(histories: Histories, vocabulary: Vocabulary) -> Tensor:
    columns = [
        torch.nn.functional.one_hot(histories.attributes[:, number], count + 1)
        for number, (_, count) in enumerate(vocabulary.attributes)
    ]
    return torch.cat(columns, dim=1) if columns else histories.attributes.new_zeros(len(histories), 0)


def _behaviours(histories: Histories, vocabulary: Vocabulary) -> Tensor:
    """The share of each kind of event in a person's."""
    counts = _counts(histories, histories.behaviours, len(BEHAVIOURS) + 1)
    return counts / histories.lengths[:, None]


def _lengths(histories: Histories, vocabulary: Vocabulary) -> Tensor:
    return _binned(histories.lengths.double(), LENGTH_EDGES)


def _pace(histories: Histories, vocabulary: Vocabulary) -> Tensor:
    """Events a day on days (UTC) with any. Without times nobody is counted."""
    if not histories.has_times:
        return histories.items.new_zeros(len(histories), len(DAILY_EDGES))
    owner, day = _owners(histories), torch.div(histories.timestamps, _SECONDS_PER_DAY, rounding_mode="floor")
    pairs = torch.unique(torch.stack([owner, day]), dim=1)
    days = torch.bincount(pairs[0], minlength=len(histories))
    return _binned(histories.lengths.double() / days, DAILY_EDGES)


def _value(histories: Histories, vocabulary: Vocabulary) -> Tensor:
    """The mean bucket of a person's values, rounded; whoever has none is not counted."""
    known = (histories.values > 0).double()
    total = known.new_zeros(len(histories)).index_add_(0, _owners(histories), histories.values.double())
    count = known.new_zeros(len(histories)).index_add_(0, _owners(histories), known)
    bucket = (total / count.clamp(min=1)).round().long().clamp(0, VALUE_BUCKETS)
    return torch.nn.functional.one_hot(bucket, VALUE_BUCKETS + 1)[:, 1:]  # bucket 0 is unknown


_ROWS: Mapping[FigureName, Rows] = {
    "attributes": _attributes,
    "behaviours": _behaviours,
    "lengths": _lengths,
    "pace": _pace,
    "value": _value,
}


def _binned(values: Tensor, edges: tuple[float, ...]) -> Tensor:
    """One-hot over bins; what is below the first edge counts in the first."""
    bins = torch.searchsorted(values.new_tensor(edges), values.contiguous(), right=True) - 1
    return torch.nn.functional.one_hot(bins.clamp(min=0), len(edges))


def _counts(histories: Histories, numbers: Tensor, classes: int) -> Tensor:
    """How many events of each class a person has, (U, classes) float64."""
    cells = torch.bincount(_owners(histories) * classes + numbers, minlength=len(histories) * classes)
    return cells.view(len(histories), classes).double()


def _owners(histories: Histories) -> Tensor:
    """Row number of the person of every event, (E,)."""
    rows = torch.arange(len(histories), device=histories.items.device)
    return torch.repeat_interleave(rows, histories.lengths)
