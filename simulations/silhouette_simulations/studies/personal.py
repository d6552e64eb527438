"""What fine-tuning local parameters on a partner's own people gives, partner by partner."""

import torch

from silhouette_client.training.personal import PersonalSettings, fine_tune, personalised
from silhouette_shared.model.evaluation import person_figures
from silhouette_simulations.rows import CUTOFF, rank_quickly
from silhouette_simulations.studies.bench import Bench, StudyTable
from silhouette_simulations.world import build_world

COLUMNS = ("partner", "people", "epochs", "NDCG@10 global", "NDCG@10 fine-tuned", "gain")


def personal(bench: Bench) -> StudyTable:
    """Train together, then fine-tune at every partner; how long is chosen on an event that is not asked for."""
    world = build_world(bench.plan, bench.dataset)
    encoder = bench.train("personal", world, world.partners)
    rows: list[dict[str, object]] = []
    before, after = [], []
    for partner in world.partners:
        tuned = fine_tune(
            encoder,
            partner.known.to(bench.machine.device),
            bench.plan.training,
            PersonalSettings(),
            bench.draw("personal", partner.name),
        )
        _, global_gains = person_figures(rank_quickly(encoder, partner, bench.machine.device), partner.asked, CUTOFF)
        with personalised(encoder, tuned):
            ranks = rank_quickly(encoder, partner, bench.machine.device)
        _, own_gains = person_figures(ranks, partner.asked, CUTOFF)
        before.append(global_gains)
        after.append(own_gains)
        rows.append(
            {
                "partner": partner.name,
                "people": len(own_gains),
                "epochs": tuned.epochs,
                "NDCG@10 global": float(global_gains.mean()),
                "NDCG@10 fine-tuned": float(own_gains.mean()),
                "gain": bench.difference(own_gains, global_gains, partner.name),
            }
        )
        bench.say(f"{partner.name}: {tuned.epochs} epochs")
    everybody = [torch.cat(part) for part in (before, after)]
    rows.append(
        {
            "partner": "all",
            "people": len(everybody[0]),
            "epochs": None,
            "NDCG@10 global": float(everybody[0].mean()),
            "NDCG@10 fine-tuned": float(everybody[1].mean()),
            "gain": bench.difference(everybody[1], everybody[0]),
        }
    )
    return StudyTable("fine-tuned at the partner", COLUMNS, tuple(rows), ("paired bootstraps over people, 95 %",))
