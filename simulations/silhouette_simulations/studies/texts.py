"""Do words reach the encoder? Words are planted where they tell what comes next, and read or not read.

What people write (to the feedback): at every one of the last eight events the person writes one of 64 words, which
tells the group of the next event's item. What items are (to the content): the public text of an item is the word of
its group. Groups are runs of items in the catalogue's order, which nothing else shows.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import with_changes
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.rows import rank_quickly
from silhouette_simulations.studies.bench import Bench, StudyTable
from silhouette_simulations.studies.people import Figures, by_seed, difference, over_seeds, seeds_told
from silhouette_simulations.world import build_world

GROUPS = 64
EVENTS = 8  # of each person, the last ones: the feedback takes the mean over all texts, in which a late one must count
COLUMNS = ("words", "people", "HR@10", "NDCG@10", "above none read")


def planted(dataset: Dataset) -> Dataset:
    """The data set as reviews with planted words, the catalogue with a word for each item's group and nothing else."""
    catalogue = dataset.catalogue
    group = {item: number * GROUPS // len(catalogue) for number, item in enumerate(catalogue.items)}
    events = dataset.events.sort_values(["user", "timestamp"], kind="stable")
    events = events.groupby("user", sort=False).tail(EVENTS).reset_index(drop=True)
    following = events.groupby("user", sort=False)["item"].shift(-1)
    words = ["" if pd.isna(item) else f"word{group[item]}" for item in following]
    events = events.assign(
        behaviour=pd.Series(["review"] * len(events), dtype=events["behaviour"].dtype),
        text=pd.Series([word or None for word in words], dtype=events["text"].dtype),
    )
    bare = Catalogue(
        items=catalogue.items,
        titles=catalogue.titles,
        categories=(),
        category_matrix=np.zeros((len(catalogue), 0), np.float32),
        texts=tuple(f"word{group[item]}" for item in catalogue.items),
        content=np.zeros((len(catalogue), 0), np.float32),
    )
    return replace(dataset, events=events, catalogue=bare, digest=f"{dataset.digest[:32]}/planted words")


def texts(bench: Bench) -> StudyTable:
    """Train with and without each kind of words."""
    made = planted(bench.dataset)
    silent = replace(made, catalogue=replace(made.catalogue, texts=("",) * len(made.catalogue)))
    plain = {"model.dimensions": ["activity", "feedback", "content"], "model.text_width": 0}
    reading = {**plain, "model.text_width": 128}
    runs = {
        "none read": (silent, plain),
        "what people write": (silent, reading),
        "what items are": (made, plain),
        "both": (made, reading),
    }
    measured: dict[str, list[Figures]] = {}
    for one in bench.each_seed():
        for name, (dataset, changes) in runs.items():
            plan = with_changes(one.plan, changes)
            world = build_world(plan, dataset)
            everybody = world.pooled()
            encoder = one.train(f"texts/{name}", world, [everybody], plan)
            found = Figures.of([everybody], [rank_quickly(encoder, everybody, one.machine.device)])
            measured.setdefault(name, []).append(found)
            one.say(f"{name}: NDCG@10 {found.ndcg:.4f}, seed {plan.seed}")
    means = {name: over_seeds(found) for name, found in measured.items()}
    return StudyTable(
        "planted words",
        COLUMNS,
        tuple(
            {
                "words": name,
                "people": len(found.people),
                "HR@10": found.hr,
                "NDCG@10": found.ndcg,
                "above none read": None if name == "none read" else difference(bench, found, means["none read"]),
            }
            for name, found in means.items()
        ),
        (f"paired bootstraps over people, 95 %; {seeds_told(bench)}", *by_seed(measured)),
    )
