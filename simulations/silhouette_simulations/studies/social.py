"""What friends at the same partner add: the same frozen encoder alone, with people's friends, and with random ones.

The encoder is trained by all partners together and then frozen. Each partner trains its social dimension on its own
people and their friends there. For random friends the same graph is laid over the people in another order.
"""

from dataclasses import replace

import torch
from torch import Tensor

from silhouette_client.profiles.social import SocialDimension, SocialSettings, social_scores, train_social
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_simulations.rows import rank_quickly, ranks_of_targets
from silhouette_simulations.studies.bench import Bench, StudyTable
from silhouette_simulations.studies.people import Figures, by_seed, difference, over_seeds, seeds_told
from silhouette_simulations.world import PartnerData, World, build_world

COLUMNS = ("friends", "people", "HR@10", "NDCG@10", "above none", "with friends", "above none, with friends")


def social(bench: Bench) -> StudyTable:
    """Train once, then twice at every partner, and rank what was held out."""
    measured: dict[str, list[Figures]] = {}
    befriended: dict[str, list[Figures]] = {}
    connections = 0
    cut: list[str] = []
    for one in bench.each_seed():
        world = build_world(one.plan, one.dataset)
        if world.edges == 0:
            raise UsageError(f"{one.dataset.name}: expected connections between people, got none; take lastfm-2k")
        connections = world.edges
        cut.append(f"{world.edges_cut:,}")
        friends = {user for partner in world.partners for user in _with_friends(partner)}
        for name, ranks in _ranked(one, world).items():
            found = Figures.of(world.partners, ranks)
            measured.setdefault(name, []).append(found)
            befriended.setdefault(name, []).append(found.among(friends))
    everybody = {name: over_seeds(found) for name, found in measured.items()}
    some = {name: over_seeds(found) for name, found in befriended.items()}
    return StudyTable(
        "the social dimension",
        COLUMNS,
        tuple(
            {
                "friends": name,
                "people": len(found.people),
                "HR@10": found.hr,
                "NDCG@10": found.ndcg,
                "above none": None if name == "none" else difference(bench, found, everybody["none"]),
                "with friends": some[name].ndcg,
                "above none, with friends": None if name == "none" else difference(bench, some[name], some["none"]),
            }
            for name, found in everybody.items()
        ),
        (
            f"{connections:,} connections, {'; '.join(cut)} of them between people of different partners and cut",
            f"intervals are paired bootstraps over people, 95 %; {seeds_told(bench)}",
            *by_seed(measured),
        ),
    )


def _ranked(bench: Bench, world: World) -> dict[str, list[Tensor]]:
    """Ranks of what was held out, a tensor a partner, without friends, with them, and with random ones."""
    encoder = bench.train("social", world, world.partners)
    settings = SocialSettings()
    settings = replace(settings, negatives=min(settings.negatives, world.vocabulary.items))
    none = [rank_quickly(encoder, partner, bench.machine.device) for partner in world.partners]
    ranks: dict[str, list[Tensor]] = {"none": none, "own": [], "drawn at random": []}
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
    return ranks


def _ranks(encoder: ProfileEncoder, trained: SocialDimension, partner: PartnerData, edges: Tensor) -> Tensor:
    known = partner.known.to(encoder.item.weight.device)
    found = [
        ranks_of_targets(scores, partner, known, people)
        for people, scores in social_scores(encoder, trained, known, edges.to(known.items.device))
    ]
    return torch.cat(found).cpu()


def _with_friends(partner: PartnerData) -> list[str]:
    """Who has a friend at the partner."""
    return [partner.users[row] for row in partner.edges[:, 1].unique().tolist()]
