"""Ten generated events against what people did in their last ten: recall, beside popularity and transition counts."""

import numpy as np
import torch
from torch import Tensor

from silhouette_client.profiles.build import seen_items
from silhouette_client.profiles.continuation import continue_histories
from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import top_items
from silhouette_shared.model.histories import Histories
from silhouette_simulations.baselines import Popularity, Scorer, TransitionCounts
from silhouette_simulations.mixing import with_counts
from silhouette_simulations.studies.bench import Bench, StudyTable, alone, whole_histories
from silhouette_simulations.world import build_world

STEPS = 10
_FEWEST_KNOWN = 5
_PEOPLE_AT_ONCE = 256
COLUMNS = ("continued by", "people", "recall", "above popularity", "above transition counts")


def continuation(bench: Bench) -> StudyTable:
    """Hold out everybody's last ten events, train on the rest, and generate ten."""
    world = build_world(bench.plan, bench.dataset)
    whole = whole_histories(bench, world).to(torch.device("cpu"))
    long = whole.lengths >= STEPS + _FEWEST_KNOWN
    if not bool(long.any()):
        raise UsageError(f"{bench.dataset.name}: expected people with {STEPS + _FEWEST_KNOWN} events, got none")
    known = whole.without_last(torch.where(long, STEPS, 0))
    rows = torch.nonzero(long).flatten()
    asked = [whole.items[end - STEPS : end] for end in whole.offsets[rows + 1].tolist()]
    encoder = bench.train("continuation", world, [alone(known)])
    own = known.of_people(rows)
    items = world.vocabulary.items
    histories = [known.items[a:b].numpy() for a, b in zip(known.offsets[:-1], known.offsets[1:], strict=True)]
    counts = TransitionCounts.fit(histories, items)

    def counted_too(scores: Tensor, so_far: Histories) -> Tensor:
        counted = counts.scores(_sequences(so_far, torch.arange(len(so_far))))
        return with_counts(scores, torch.from_numpy(counted).to(scores), bench.plan.evaluation.counts_weight)

    own_here = own.to(bench.machine.device)
    chosen = {
        "popularity": _listed(Popularity.fit(histories, items), own),
        "transition counts": _listed(counts, own),
        "transition counts, step by step": _rolled(counts, own),
        "the encoder": continue_histories(encoder, own_here, STEPS).cpu(),
        "the encoder, with counts": continue_histories(encoder, own_here, STEPS, rescored=counted_too).cpu(),
    }
    recalls = {name: recall(found, own, asked) for name, found in chosen.items()}
    first, second = recalls["popularity"], recalls["transition counts"]
    return StudyTable(
        f"{STEPS} generated events",
        COLUMNS,
        tuple(
            {
                "continued by": name,
                "people": len(found),
                "recall": float(found.mean()),
                "above popularity": None if name == "popularity" else bench.difference(found, first),
                "above transition counts": bench.difference(found, second) if name.startswith("the encoder") else None,
            }
            for name, found in recalls.items()
        ),
        ("recall: of the different new items among a person's last ten events, the share that was generated",),
    )


def recall(chosen: Tensor, known: Histories, asked: list[Tensor]) -> Tensor:
    """Of each person's new items among those asked for, the share that was chosen, (U,); 0 for who has no new one."""
    found = []
    for person, wanted in enumerate(asked):
        a, b = known.offsets[person : person + 2].tolist()
        new = set(wanted.tolist()) - set(known.items[a:b].tolist())
        found.append(len(new & set(chosen[person].tolist())) / max(1, len(new)))
    return torch.tensor(found, dtype=torch.float64)


def _listed(scorer: Scorer, known: Histories) -> Tensor:
    """The ten best new items at once, (U, 10)."""
    found = []
    for people in torch.arange(len(known)).split(_PEOPLE_AT_ONCE):
        scores = torch.from_numpy(scorer.scores(_sequences(known, people)))
        found.append(top_items(scores, seen_items(known, people), STEPS))
    return torch.cat(found)


def _rolled(scorer: Scorer, known: Histories) -> Tensor:
    """The best new item, appended, ten times over, as the encoder goes on, (U, 10)."""
    found = []
    for people in torch.arange(len(known)).split(_PEOPLE_AT_ONCE):
        sequences = _sequences(known, people)
        for _ in range(STEPS):
            scores = torch.from_numpy(scorer.scores(sequences))
            for line, sequence in enumerate(sequences):
                scores[line, torch.from_numpy(sequence)] = -torch.inf
            best = scores.argmax(1).tolist()
            sequences = [np.append(sequence, item) for sequence, item in zip(sequences, best, strict=True)]
        found.append(torch.tensor(np.stack([sequence[-STEPS:] for sequence in sequences])))
    return torch.cat(found)


def _sequences(known: Histories, people: Tensor) -> list[np.ndarray]:
    offsets = known.offsets.tolist()
    return [known.items[offsets[row] : offsets[row + 1]].cpu().numpy() for row in people.tolist()]
