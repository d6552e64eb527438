"""Does a trait say the same of a person's later events? Its definition, and its correlation with itself on these.

Nothing is trained. Each person's events are halved in their order; a trait that is a property of the person, and not
of the day, comes out alike in both halves.
"""

import torch
from scipy import stats
from torch import Tensor

from silhouette_client.profiles.definitions import TRAITS
from silhouette_client.profiles.traits import trait_scores
from silhouette_shared.errors import UsageError
from silhouette_shared.model.histories import Histories
from silhouette_simulations.studies.bench import Bench, StudyTable, whole_histories
from silhouette_simulations.world import build_world

_FEWEST_EVENTS = 10
_FEWEST_PEOPLE = 20
COLUMNS = ("trait", "people", "correlation", "p", "definition")


def traits(bench: Bench) -> StudyTable:
    """Spearman's correlation of every trait between the halves of everybody's events."""
    world = build_world(bench.plan, bench.dataset)
    whole = whole_histories(bench, world).to(torch.device("cpu"))
    long = torch.nonzero(whole.lengths >= _FEWEST_EVENTS).flatten()
    if len(long) < _FEWEST_PEOPLE:
        raise UsageError(
            f"{bench.dataset.name}: expected at least {_FEWEST_PEOPLE} people of {_FEWEST_EVENTS} events, "
            f"got {len(long)}"
        )
    whole = whole.of_people(long)
    early, late = halves(whole)
    categories = world.vocabulary.categories
    scores = [_scores(half, categories) for half in (early, late)]
    rows: list[dict[str, object]] = []
    for column, trait in enumerate(TRAITS):
        a, b = scores[0][:, column], scores[1][:, column]
        known = a.isfinite() & b.isfinite()
        row: dict[str, object] = {"trait": trait.name, "people": int(known.sum()), "definition": trait.definition}
        if int(known.sum()) >= _FEWEST_PEOPLE and len(a[known].unique()) > 1 and len(b[known].unique()) > 1:
            found = stats.spearmanr(a[known].numpy(), b[known].numpy())
            row |= {"correlation": float(found.statistic), "p": float(found.pvalue)}
        else:
            row |= {"correlation": None, "p": None}
        rows.append(row)
    return StudyTable(
        "traits, first half of a person's events against the second",
        COLUMNS,
        tuple(rows),
        (f"people with at least {_FEWEST_EVENTS} events; no correlation where these data do not carry the trait",),
    )


def halves(whole: Histories) -> tuple[Histories, Histories]:
    """The first and the second half of everybody's events; an odd one is in the second."""
    half = whole.lengths // 2
    everybody = torch.arange(len(whole))
    owner = torch.repeat_interleave(everybody, whole.lengths)
    position = torch.arange(len(whole.items)) - whole.offsets[owner]
    first = torch.nonzero(position < half[owner]).flatten()
    second = torch.nonzero(position >= half[owner]).flatten()
    return (
        whole.of_events(first, everybody, half),
        whole.of_events(second, everybody, whole.lengths - half),
    )


def _scores(half: Histories, categories: Tensor) -> Tensor:
    """Traits of everybody; recency counts from the last event of all in this half."""
    return trait_scores(half, categories, now=int(half.timestamps.max()) if half.has_times else None)
