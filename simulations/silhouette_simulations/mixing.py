"""A trained model and transition counts together: the logarithm of what was counted, added to the scores.

The counts know what most often followed each of the last events, the encoder knows the person. Added in the logits the
two are a product of experts, as the prior of a private run is (Hinton 2002, section 1). Counts of several partners add
up to those of all their people, so federating costs them nothing; they are exact here, so this is about data without
privacy. What counts are worth under privacy, the statistics of a plan say.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.evaluation import mean_interval, paired_bootstrap, person_figures
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.baselines import TransitionCounts
from silhouette_simulations.rows import CUTOFF, Ranking, rank_by, sequences
from silhouette_simulations.studies.bench import StudyTable
from silhouette_simulations.world import PartnerData

WEIGHTS = (0.5, 1.0, 1.5, 2.0)
COLUMNS = ("weight of the counts", "people", "HR@10", "NDCG@10", "interval", "above the model alone")
_UNCOUNTED = 0.01  # chance of everything that no transition leads to, evenly divided
_BYTES_A_COUNT = 8


def with_counts(scores: Tensor, counted: Tensor, weight: float) -> Tensor:
    """Log-chances by a model and `weight` times those by counts, (B, V + 1), column 0 never a candidate.

    >>> model, counts = torch.tensor([[-torch.inf, 0.0, 0.0]]), torch.tensor([[-torch.inf, 3.0, 1.0]])
    >>> with_counts(model, counts, 1.0).softmax(1)
    tensor([[0.0000, 0.7475, 0.2525]])
    """
    positive = counted.clamp(min=0.0)
    total = positive.sum(1, keepdim=True)
    items = counted.shape[1] - 1
    chances = positive / total.clamp(min=torch.finfo(counted.dtype).tiny)
    chances = torch.where(total > 0, (1 - _UNCOUNTED) * chances + _UNCOUNTED / items, 1.0 / items)
    return scores.log_softmax(1) + weight * chances.log()


def counts_of(parts: Sequence[PartnerData], items: int) -> TransitionCounts:
    """Transition counts of all people of some partners."""
    return TransitionCounts.fit([sequence for part in parts for sequence in sequences(part)], items)


def counts_traffic(partners: Sequence[PartnerData], items: int) -> dict[str, tuple[int, int]]:
    """Bytes down to and up from each partner, to have the counts of all: 4 for an item's number, 4 for a count.

    Up goes what the partner's own people did, down what all of them did, each once.
    """
    down = _BYTES_A_COUNT * counts_of(partners, items).transitions.nnz
    return {p.name: (down, _BYTES_A_COUNT * counts_of([p], items).transitions.nnz) for p in partners}


@torch.no_grad()
def rank_with_counts(
    encoder: ProfileEncoder, partner: PartnerData, counts: TransitionCounts, weight: float, device: torch.device
) -> Ranking:
    """Rank the next event of a partner's people by a trained encoder and by transition counts together.

    Args:
        encoder: Trained, on the device.
        partner: The people who are asked.
        counts: Of whoever's events may be counted.
        weight: Of the counts' logarithm; 0 ranks by the encoder alone.
        device: Of the encoder.
    """
    encoder.eval()
    histories = sequences(partner)

    def both(known: Histories, people: Tensor) -> Tensor:
        batch = known.batch(people, encoder.history_length)
        scores = encoder.next_item_scores(batch)
        counted = torch.from_numpy(counts.scores([histories[row] for row in people.tolist()])).to(scores)
        return with_counts(scores, counted, weight)

    return rank_by(partner, both, device)


def mix(
    encoder: ProfileEncoder, everybody: PartnerData, device: torch.device, weights: Sequence[float] = WEIGHTS
) -> StudyTable:
    """A line for each weight of the counts, the model alone first.

    Raises:
        UsageError: If a weight is negative.
    """
    if any(not 0 <= weight < float("inf") for weight in weights):
        raise UsageError(f"expected weights of 0 or more, got {', '.join(map(str, weights))}; change --weight")
    counts = counts_of([everybody], len(encoder.item.weight) - 1)
    rows: list[dict[str, object]] = []
    alone: Tensor | None = None
    for weight in (0.0, *(weight for weight in dict.fromkeys(weights) if weight != 0)):
        ranks = rank_with_counts(encoder, everybody, counts, weight, device).ranks
        hits, gains = person_figures(ranks, everybody.asked, CUTOFF)
        alone = gains if alone is None else alone
        draws = [ReproducibleSource(0).child("mix", name).torch_generator() for name in ("interval", "less")]
        interval = mean_interval(gains, generator=draws[0])
        rows.append(
            {
                "weight of the counts": weight,
                "people": len(gains),
                "HR@10": float(hits.mean()),
                "NDCG@10": float(gains.mean()),
                "interval": f"{interval.low:.4f} to {interval.high:.4f}",
                "above the model alone": paired_bootstrap(gains, alone, generator=draws[1]) if weight else None,
            }
        )
    return StudyTable(
        "The model and transition counts together",
        COLUMNS,
        tuple(rows),
        ("intervals are bootstraps over people, 95 %; above the model alone they are paired",),
    )
