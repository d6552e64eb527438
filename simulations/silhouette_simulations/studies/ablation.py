"""What each part of the encoder is worth: the plan as it is, and the plan without one part, on the same people."""

from silhouette_shared.config import Plan, with_changes
from silhouette_shared.errors import UsageError
from silhouette_simulations.rows import rank_quickly
from silhouette_simulations.studies.bench import Bench, StudyTable
from silhouette_simulations.studies.people import Figures, by_seed, difference, over_seeds, seeds_told
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
    behaviours = tuple(sorted(bench.dataset.events["behaviour"].unique()))
    measured: dict[str, list[Figures]] = {}
    for one in bench.each_seed():
        for name, plan in _chosen(variants(one.plan, behaviours), bench.without).items():
            measured.setdefault(name, []).append(_figures(one, name, plan))
    means = {name: over_seeds(found) for name, found in measured.items()}
    whole = means["nothing"]
    rows: list[dict[str, object]] = []
    for name, found in means.items():
        both = set(whole.people) & set(found.people)
        own, all_of_it = found.among(both), whole.among(both)
        rows.append(
            {
                "without": name,
                "people": len(own.people),
                "HR@10": own.hr,
                "NDCG@10": own.ndcg,
                "the whole less it": None if name == "nothing" else difference(bench, all_of_it, own),
            }
        )
    return StudyTable(
        "what each part is worth",
        COLUMNS,
        tuple(rows),
        (
            f"split {bench.plan.evaluation.split}, {bench.plan.evaluation.target} events, {seeds_told(bench)}",
            "paired bootstraps over people, 95 %; people of whom a variant is not asked are left out of its row",
            *by_seed(measured),
        ),
    )


def _chosen(found: dict[str, Plan], names: tuple[str, ...]) -> dict[str, Plan]:
    """The whole and what was asked for; all variants if nothing was.

    Raises:
        UsageError: If there is no such variant.
    """
    for name in names:
        if name not in found or name == "nothing":
            there = ", ".join(other for other in found if other != "nothing")
            raise UsageError(f"--without: expected some of {there}, got {name!r}")
    return found if not names else {name: plan for name, plan in found.items() if name in ("nothing", *names)}


def _figures(bench: Bench, name: str, plan: Plan) -> Figures:
    if name != "nothing" and name in plan.model.dimensions:
        raise ValueError(f"expected a plan without {name}")
    world = build_world(plan, bench.dataset)
    everybody = world.pooled()
    encoder = bench.train(f"ablation/{name}", world, [everybody], plan)
    found = Figures.of([everybody], [rank_quickly(encoder, everybody, bench.machine.device)])
    bench.say(f"without {name}: NDCG@10 {found.ndcg:.4f}, seed {plan.seed}")
    return found
