"""What fine-tuning local parameters on a partner's own people gives, partner by partner."""

from silhouette_client.training.personal import PersonalSettings, fine_tune, personalised
from silhouette_simulations.rows import rank_quickly
from silhouette_simulations.studies.bench import Bench, StudyTable
from silhouette_simulations.studies.people import Figures, difference, over_seeds, seeds_told
from silhouette_simulations.world import build_world

COLUMNS = ("partner", "people", "epochs", "NDCG@10 global", "NDCG@10 fine-tuned", "gain")


def personal(bench: Bench) -> StudyTable:
    """Train together, then fine-tune at every partner; how long is chosen on an event that is not asked for.

    With several seeds people are dealt to other partners each time, so there is a row a seed instead of one a partner.
    """
    rows: list[dict[str, object]] = []
    before: list[Figures] = []
    after: list[Figures] = []
    several = len(bench.seeds) > 1
    for one in bench.each_seed():
        partners, shared, tuned = _tuned(one)
        before.append(shared)
        after.append(tuned)
        rows += [_row(one, f"all, seed {one.plan.seed}", shared, tuned)] if several else partners
    rows.append(_row(bench, "all", over_seeds(before), over_seeds(after)))
    notes = (f"paired bootstraps over people, 95 %; {seeds_told(bench)}",)
    return StudyTable("fine-tuned at the partner", COLUMNS, tuple(rows), notes)


def _tuned(bench: Bench) -> tuple[list[dict[str, object]], Figures, Figures]:
    """A row a partner, and the figures of everybody before and after."""
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
        before.append(rank_quickly(encoder, partner, bench.machine.device))
        with personalised(encoder, tuned):
            after.append(rank_quickly(encoder, partner, bench.machine.device))
        shared, own = (Figures.of([partner], [ranks]) for ranks in (before[-1], after[-1]))
        rows.append(_row(bench, partner.name, shared, own, tuned.epochs, partner.name))
        bench.say(f"{partner.name}: {tuned.epochs} epochs")
    return rows, Figures.of(world.partners, before), Figures.of(world.partners, after)


def _row(
    bench: Bench, name: str, shared: Figures, tuned: Figures, epochs: int | None = None, *path: str
) -> dict[str, object]:
    return {
        "partner": name,
        "people": len(shared.people),
        "epochs": epochs,
        "NDCG@10 global": shared.ndcg,
        "NDCG@10 fine-tuned": tuned.ndcg,
        "gain": difference(bench, tuned, shared, *path),
    }
