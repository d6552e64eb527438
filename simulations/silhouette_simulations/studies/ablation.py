"""What each part of the encoder is worth: the plan as it is, and the plan without one part, on the same people."""

import torch
from torch import Tensor

from silhouette_shared.config import Plan, with_changes
from silhouette_shared.model.evaluation import person_figures
from silhouette_simulations.rows import CUTOFF, rank_quickly
from silhouette_simulations.studies.bench import Bench, StudyTable
from silhouette_simulations.world import build_world

COLUMNS = ("without", "people", "HR@10", "NDCG@10", "the whole less it")


def variants(plan: Plan, behaviours: tuple[str, ...]) -> dict[str, Plan]:
    """The plan, and the plan without each of its dimensions; with several behaviours also with purchases alone.

    Args:
        plan: The whole.
        behaviours: That occur in the data.
    """
    found = {"nothing": plan}
    names = plan.model.dimensions
    for name in names:
        if len(names) > 1:
            found[name] = with_changes(plan, {"model.dimensions": [other for other in names if other != name]})
    if len(behaviours) > 1 and "purchase" in behaviours:
        found["all but purchases"] = with_changes(plan, {"data.behaviours": ["purchase"]})
    return found


def ablation(bench: Bench) -> StudyTable:
    """Train every variant on everybody's events in one place and compare person by person."""
    events = bench.dataset.events
    behaviours = tuple(sorted(events["behaviour"].unique()))
    rows: list[dict[str, object]] = []
    whole: dict[str, tuple[float, float]] = {}
    for name, plan in variants(bench.plan, behaviours).items():
        world = build_world(plan, bench.dataset)
        everybody = world.pooled()
        encoder = bench.train(f"ablation/{name}", world, [everybody], plan)
        if name != "nothing" and name in plan.model.dimensions:
            raise ValueError(f"expected a plan without {name}")
        hits, gains = person_figures(rank_quickly(encoder, everybody, bench.machine.device), everybody.asked, CUTOFF)
        users = [everybody.users[row] for row in everybody.asked.unique_consecutive().tolist()]
        found = {user: (hit, gain) for user, hit, gain in zip(users, hits.tolist(), gains.tolist(), strict=True)}
        whole = whole or found
        both = [user for user in whole if user in found]

        def column(of: dict[str, tuple[float, float]], people: list[str] = both) -> Tensor:
            return torch.tensor([of[user][1] for user in people], dtype=torch.float64)

        rows.append(
            {
                "without": name,
                "people": len(both),
                "HR@10": sum(found[user][0] for user in both) / len(both),
                "NDCG@10": float(column(found).mean()),
                "the whole less it": None if name == "nothing" else bench.difference(column(whole), column(found)),
            }
        )
        bench.say(f"without {name}: NDCG@10 {rows[-1]['NDCG@10']:.4f}")
    return StudyTable(
        "what each part is worth",
        COLUMNS,
        tuple(rows),
        (
            f"split {bench.plan.evaluation.split}, {bench.plan.evaluation.target} events, one seed ({bench.plan.seed})",
            "paired bootstraps over people, 95 %; people of whom a variant is not asked are left out of its row",
        ),
    )
