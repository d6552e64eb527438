"""What friends at the same partner add: the same frozen encoder alone, with people's friends, and with random ones.

The encoder is trained by all partners together and then frozen. Each partner trains its social dimension on its own
people and their friends there. For random friends the same graph is laid over the people in another order.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from silhouette_client.profiles.social import SocialDimension, SocialSettings, social_scores, train_social
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.evaluation import person_figures
from silhouette_simulations.rows import CUTOFF, rank_quickly, ranks_of_targets
from silhouette_simulations.studies.bench import Bench, StudyTable
from silhouette_simulations.world import PartnerData, build_world

COLUMNS = ("friends", "people", "HR@10", "NDCG@10", "above none", "with friends", "above none, with friends")


def social(bench: Bench) -> StudyTable:
    """Train once, then twice at every partner, and rank what was held out."""
    world = build_world(bench.plan, bench.dataset)
    if world.edges == 0:
        raise UsageError(f"{bench.dataset.name}: expected connections between people, got none; take lastfm-2k")
    encoder = bench.train("social", world, world.partners)
    settings = SocialSettings()
    settings = replace(settings, negatives=min(settings.negatives, world.vocabulary.items))
    none = [rank_quickly(encoder, partner, bench.machine.device) for partner in world.partners]
    ranks = {"none": none, "own": [], "drawn at random": []}
    for partner in world.partners:
        draw = bench.draw("social", partner.name)
        place = torch.randperm(len(partner), generator=draw, device=draw.device).cpu()
        for name, edges in (("own", partner.edges), ("drawn at random", place[partner.edges])):
            trained = train_social(
                encoder,
                partner.known.to(bench.machine.device),
                edges.to(bench.machine.device),
                settings,
                bench.draw("social", partner.name, "training"),
            )
            ranks[name].append(_ranks(encoder, trained, partner, edges))
        bench.say(f"{partner.name}: {len(partner):,} people, {len(partner.edges) // 2:,} connections")
    return StudyTable(
        "the social dimension",
        COLUMNS,
        tuple(_rows(bench, world.partners, ranks)),
        (
            f"{world.edges:,} connections, {world.edges_cut:,} of them between people of different partners and cut",
            "intervals are paired bootstraps over people, 95 %",
        ),
    )


def _ranks(encoder: ProfileEncoder, trained: SocialDimension, partner: PartnerData, edges: Tensor) -> Tensor:
    known = partner.known.to(encoder.item.weight.device)
    found = [
        ranks_of_targets(scores, partner, known, people)
        for people, scores in social_scores(encoder, trained, known, edges.to(known.items.device))
    ]
    return torch.cat(found).cpu()


def _rows(bench: Bench, partners: Sequence[PartnerData], ranks: dict[str, list[Tensor]]) -> list[dict[str, object]]:
    has = torch.cat([_has_friends(p) for p in partners])
    figures = {
        name: [
            torch.cat(part)
            for part in zip(
                *(person_figures(r, p.asked, CUTOFF) for r, p in zip(own, partners, strict=True)), strict=True
            )
        ]
        for name, own in ranks.items()
    }
    base = figures["none"][1]
    return [
        {
            "friends": name,
            "people": len(gains),
            "HR@10": float(hits.mean()),
            "NDCG@10": float(gains.mean()),
            "above none": None if name == "none" else bench.difference(gains, base),
            "with friends": float(gains[has].mean()),
            "above none, with friends": None if name == "none" else bench.difference(gains[has], base[has]),
        }
        for name, (hits, gains) in figures.items()
    ]


def _has_friends(partner: PartnerData) -> Tensor:
    """Of the people of whom something is asked, in their order: who has a friend at the partner."""
    return torch.isin(partner.asked.unique_consecutive(), partner.edges[:, 1])
