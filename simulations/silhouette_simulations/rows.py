"""The rows of the comparison: for every person, how high a method ranked the event that came next."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from silhouette_client.profiles.build import build_profiles, seen_items
from silhouette_client.profiles.transitions import OwnTransitions
from silhouette_shared.config import RowName
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.evaluation import (
    AttributeScore,
    attribute_scores,
    coverage,
    diversity,
    mean_interval,
    novelty,
    person_figures,
    pessimistic_ranks,
    top_items,
)
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.baselines import Ease, Popularity, Scorer, TransitionCounts
from silhouette_simulations.world import PartnerData, World

CUTOFF = 10
_PEOPLE_AT_ONCE = 256
_CPU = torch.device("cpu")

LABELS: dict[RowName, str] = {
    "popularity": "Popularity",
    "transition_counts": "Transition counts",
    "ease": "EASE",
    "local_only": "Local only",
    "federated": "Federated",
    "private_statistics": "Private statistics",
    "federated_private": "Federated with privacy",
    "pooled": "Pooled",
    "local_only_with_counts": "Local only, with counts",
    "federated_with_counts": "Federated, with counts",
    "pooled_with_counts": "Pooled, with counts",
    "own_counts": "Own counts",
    "federated_with_own_counts": "Federated, with own counts",
    "private_statistics_with_own_counts": "Private statistics, with own counts",
    "federated_private_with_own_counts": "Federated with privacy, with own counts",
}

PRIVATE_ROWS: frozenset[RowName] = frozenset(
    {
        "private_statistics",
        "federated_private",
        "private_statistics_with_own_counts",
        "federated_private_with_own_counts",
    }
)
"""Rows of which nothing left a partner but under privacy."""

WITH_COUNTS: Mapping[RowName, RowName] = {
    "local_only_with_counts": "local_only",
    "federated_with_counts": "federated",
    "pooled_with_counts": "pooled",
}
"""Rows whose scores have exact transition counts added, and whose model it is."""

WITH_OWN_COUNTS: Mapping[RowName, RowName] = {
    "federated_with_own_counts": "federated",
    "private_statistics_with_own_counts": "private_statistics",
    "federated_private_with_own_counts": "federated_private",
}
"""Rows whose scores have what each partner counted of its own people added, and whose model it is."""


@dataclass(frozen=True)
class Ranking:
    """What one method answers for the people of one partner."""

    ranks: Tensor  # (N,) int64, 0 is best, one for each of the partner's targets
    top: Tensor  # (U, CUTOFF) item numbers


@dataclass(frozen=True)
class ModelRanking:
    """A trained model's rankings and its guesses of the declared attributes."""

    ranking: Ranking
    attributes: tuple[Tensor, ...]  # each (U, classes), probabilities


def rank_model(
    encoder: ProfileEncoder, partner: PartnerData, device: torch.device, own: OwnTransitions | None = None
) -> ModelRanking:
    """Rank the next event of a partner's people by a trained encoder, with the partner's own transitions if given."""
    known = partner.known.to(device)
    ranks, top, guesses = [], [], []
    for batch in build_profiles(encoder, known, cutoff=CUTOFF, rescored=own):
        ranks.append(ranks_of_targets(batch.scores, partner, known, batch.people))
        top.append(batch.recommended)
        guesses.append(batch.attributes)
    return ModelRanking(
        ranking=Ranking(ranks=torch.cat(ranks).cpu(), top=torch.cat(top).cpu()),
        attributes=tuple(torch.cat(parts).cpu() for parts in zip(*guesses, strict=True)),
    )


@torch.no_grad()
def rank_quickly(encoder: ProfileEncoder, partner: PartnerData, device: torch.device) -> Tensor:
    """Ranks (N,) alone, for watching a training."""
    encoder.eval()
    known = partner.known.to(device)
    ranks = []
    if not len(partner.asked):
        return torch.zeros(0, dtype=torch.int64)
    for people in partner.asked.unique_consecutive().to(device).split(_PEOPLE_AT_ONCE):
        batch = known.batch(people, encoder.history_length)
        scores = encoder.next_item_scores(batch)
        ranks.append(ranks_of_targets(scores, partner, known, people))
    return torch.cat(ranks).cpu()


def mean_figures(partners: Sequence[PartnerData], ranks: Sequence[Tensor]) -> tuple[float, float]:
    """Mean hits and NDCG over all people of some partners of whom something is asked."""
    found = [person_figures(own, p.asked, CUTOFF) for p, own in zip(partners, ranks, strict=True) if len(p.asked)]
    return float(torch.cat([hits for hits, _ in found]).mean()), float(torch.cat([gains for _, gains in found]).mean())


def ranks_of_targets(scores: Tensor, partner: PartnerData, known: Histories, people: Tensor) -> Tensor:
    """Ranks of all targets of some people, in the order of the partner's targets.

    What else is asked for of the same person counts as any other item.

    Args:
        scores: Of the items for each of the people, (B, V + 1).
        partner: Whose people they are.
        known: Its histories, on the device of the scores.
        people: Row numbers, ascending, (B,).
    """
    own = (partner.asked >= int(people[0])) & (partner.asked <= int(people[-1]))
    line = torch.searchsorted(people, partner.asked[own].to(people.device))
    targets = partner.targets[own].to(people.device)
    return pessimistic_ranks(scores[line], targets, seen_items(known, people)[line])


def rank_baseline(row: RowName, world: World) -> dict[str, Ranking]:
    """Fit a counting method on all partners' people together and rank everybody's next event.

    `own_counts` is fitted at each partner on its own people, smoothed as profiles have it.
    """
    items = len(world.catalogue.items)
    if row == "own_counts":
        return {partner.name: _rank_own(partner, items) for partner in world.partners}
    histories = {partner.name: sequences(partner) for partner in world.partners}
    everybody = [sequence for part in histories.values() for sequence in part]
    scorer: Scorer
    if row == "popularity":
        scorer = Popularity.fit(everybody, items)
    elif row == "transition_counts":
        scorer = TransitionCounts.fit(everybody, items)
    elif row == "ease":
        scorer = Ease.fit(everybody, items)
    else:
        raise ValueError(f"expected a counting method, got {row}")

    def rank(partner: PartnerData, own: Sequence[np.ndarray]) -> Ranking:
        return rank_by(
            partner, lambda _, people: torch.from_numpy(scorer.scores([own[row] for row in people.tolist()]))
        )

    return {partner.name: rank(partner, histories[partner.name]) for partner in world.partners}


def _rank_own(partner: PartnerData, items: int) -> Ranking:
    own = OwnTransitions.count(partner.known, items)
    return rank_by(partner, lambda known, people: own.log_chances(known.of_people(people)))


def rank_by(
    partner: PartnerData, scores_of: Callable[[Histories, Tensor], Tensor], device: torch.device = _CPU
) -> Ranking:
    """Rank the next event of a partner's people by scores of all items, a few hundred people at a time.

    Args:
        partner: The people who are asked.
        scores_of: From everybody's histories and row numbers (B,) to scores (B, V + 1), all on the device.
        device: Where to rank.
    """
    known, ranks, top = partner.known.to(device), [], []
    for people in torch.arange(len(partner), device=device).split(_PEOPLE_AT_ONCE):
        scores = scores_of(known, people)
        ranks.append(ranks_of_targets(scores, partner, known, people).cpu())
        top.append(top_items(scores, seen_items(known, people), CUTOFF).cpu())
    return Ranking(ranks=torch.cat(ranks), top=torch.cat(top))


def sequences(partner: PartnerData) -> list[np.ndarray]:
    """Everybody's known items, oldest first."""
    offsets = partner.known.offsets.tolist()
    items = partner.known.items.numpy()
    return [items[start:end] for start, end in pairwise(offsets)]


def popularity_shares(world: World) -> Tensor:
    """Share of all people who have each item, shape (V + 1,)."""
    counts = torch.zeros(len(world.catalogue.items) + 1, dtype=torch.float64)
    for partner in world.partners:
        for sequence in sequences(partner):
            counts[torch.from_numpy(np.unique(sequence))] += 1
    return counts / world.people


def summarise(
    row: RowName, rankings: dict[str, Ranking], world: World, shares: Tensor
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """One line of `rows.csv` and the lines of `partners.csv` for one method.

    The interval is a percentile bootstrap over people, at 95 %. The gap is the best partner's NDCG less the worst's.
    """
    names = [partner.name for partner in world.partners]
    figures = {
        partner.name: person_figures(rankings[partner.name].ranks, partner.asked, CUTOFF)
        for partner in world.partners
        if len(partner.asked)
    }
    hits, gains = (torch.cat([figures[name][number] for name in figures]) for number in (0, 1))
    top = torch.cat([rankings[name].top for name in names])
    generator = ReproducibleSource(0).child("bootstrap", row).torch_generator()
    interval = mean_interval(gains, generator=generator)
    per_partner: list[dict[str, object]] = [
        {
            "row": row,
            "partner": name,
            "users": len(found[0]),
            "hr_at_10": float(found[0].mean()),
            "ndcg_at_10": float(found[1].mean()),
        }
        for name, found in figures.items()
    ]
    by_name = {name: float(found[1].mean()) for name, found in figures.items()}
    worst = min(by_name, key=lambda name: (by_name[name], name))
    categories = torch.from_numpy(world.catalogue.category_matrix)
    padded = torch.cat([categories.new_zeros(1, categories.shape[1]), categories])
    line: dict[str, object] = {
        "name": row,
        "label": LABELS[row],
        "hr_at_10": float(hits.mean()),
        "ndcg_at_10": float(gains.mean()),
        "ndcg_low": interval.low,
        "ndcg_high": interval.high,
        "coverage_at_10": coverage(top, len(world.catalogue.items)),
        "novelty_at_10": novelty(top, shares),
        "diversity_at_10": diversity(top, padded) if categories.shape[1] else None,
        "worst_partner": worst,
        "worst_partner_ndcg": by_name[worst],
        "gap": max(by_name.values()) - by_name[worst],
        "private": row in PRIVATE_ROWS,
        "users": len(gains),
    }
    return line, per_partner


def summarise_attributes(guesses: dict[str, tuple[Tensor, ...]], world: World) -> Iterable[AttributeScore]:
    """Quality of the attribute heads over all people, guessed without the declared attributes."""
    for column, name in enumerate(world.attribute_classes):
        probabilities = torch.cat([guesses[p.name][column] for p in world.partners])
        truth = torch.cat([p.known.attributes[:, column] for p in world.partners]) - 1
        yield attribute_scores(name, probabilities, truth)
