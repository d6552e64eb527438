"""A finished model and transition counts together: two chances of the next item, mixed.

The counts know what most often followed each of the last events, the encoder knows the person. A chance is a part of
one and the rest of the other. Counts of several partners add up to those of all their people, so federating costs them
nothing; this is about data without privacy. What the counts are worth under privacy, the statistics of a plan say.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from silhouette_client.profiles.build import seen_items
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.evaluation import mean_interval, paired_bootstrap, person_figures, pessimistic_ranks
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.baselines import TransitionCounts
from silhouette_simulations.rows import CUTOFF
from silhouette_simulations.studies.bench import StudyTable
from silhouette_simulations.world import PartnerData

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = ("part of the counts", "people", "HR@10", "NDCG@10", "interval", "above the model alone")
_PEOPLE_AT_ONCE = 256


def mixed_chances(model: Tensor, counts: Tensor, share: float) -> Tensor:
    """Chances of the items, (B, V + 1), from scores of a model and of transition counts, column 0 never a candidate.

    >>> model, counts = torch.tensor([[-torch.inf, 0.0, 0.0]]), torch.tensor([[-torch.inf, 3.0, 1.0]])
    >>> mixed_chances(model, counts, 0.5)
    tensor([[0.0000, 0.6250, 0.3750]])
    """
    counted = counts.clamp(min=0.0)
    counted = counted / counted.sum(1, keepdim=True).clamp(min=torch.finfo(counted.dtype).tiny)
    return torch.lerp(model.softmax(1), counted, share)


@torch.no_grad()
def mixed_ranks(
    encoder: ProfileEncoder, everybody: PartnerData, shares: Sequence[float], device: torch.device
) -> list[Tensor]:
    """Ranks of everybody's targets for each part of the counts, (N,) each.

    Args:
        encoder: Trained.
        everybody: The people, whose known events are counted, too.
        shares: Parts of the counts.
        device: Of the encoder.
    """
    encoder.eval()
    known = everybody.known.to(device)
    offsets, items = everybody.known.offsets.tolist(), everybody.known.items.numpy()
    histories = [items[start:end] for start, end in pairwise(offsets)]
    counts = TransitionCounts.fit(histories, len(encoder.item.weight) - 1)
    found: list[list[Tensor]] = [[] for _ in shares]
    for lines in torch.arange(len(everybody.asked)).split(_PEOPLE_AT_ONCE):
        people = everybody.asked[lines].to(device)
        batch = known.batch(people, encoder.history_length)
        scores = encoder.item_scores(at_last(encoder(batch).state, batch.lengths))
        counted = torch.from_numpy(counts.scores([histories[row] for row in people.tolist()])).to(scores)
        seen, targets = seen_items(known, people), everybody.targets[lines].to(device)
        for part, share in zip(found, shares, strict=True):
            part.append(pessimistic_ranks(mixed_chances(scores, counted, share), targets, seen).cpu())
    return [torch.cat(part) for part in found]


def mix(
    encoder: ProfileEncoder, everybody: PartnerData, device: torch.device, shares: Sequence[float] = SHARES
) -> StudyTable:
    """A line for each part of the counts, the model alone first.

    Raises:
        UsageError: If a part is none, or several things are asked of a person.
    """
    if any(not 0 <= share <= 1 for share in shares):
        raise UsageError(f"expected parts from 0 to 1, got {', '.join(map(str, shares))}; change --share")
    if len(everybody.asked.unique()) != len(everybody.asked):
        raise UsageError("expected one held-out event a person, got several; choose a run with another split")
    parts = (0.0, *(share for share in dict.fromkeys(shares) if share != 0))
    rows: list[dict[str, object]] = []
    alone: Tensor | None = None
    for share, ranks in zip(parts, mixed_ranks(encoder, everybody, parts, device), strict=True):
        hits, gains = person_figures(ranks, everybody.asked, CUTOFF)
        alone = gains if alone is None else alone
        draws = [ReproducibleSource(0).child("mix", name).torch_generator() for name in ("interval", "less")]
        interval = mean_interval(gains, generator=draws[0])
        rows.append(
            {
                "part of the counts": share,
                "people": len(gains),
                "HR@10": float(hits.mean()),
                "NDCG@10": float(gains.mean()),
                "interval": f"{interval.low:.4f} to {interval.high:.4f}",
                "above the model alone": paired_bootstrap(gains, alone, generator=draws[1]) if share else None,
            }
        )
    return StudyTable(
        "The model and transition counts together",
        COLUMNS,
        tuple(rows),
        ("intervals are bootstraps over people, 95 %; above the model alone they are paired",),
    )
