"""The tables of a plan's partners on disk, for a deployment on public data.

    OUT/catalogue.safetensors            the public catalogue, for `silhouette run submit --catalogue`
    OUT/<partner>/people/                events.parquet users.parquet people.json, as a node reads them

A partner gets the people that the same plan deals it in a simulation, without the events that a simulation holds out,
so that a run without noise on these tables gives the simulation's model.
"""

import json
from pathlib import Path

import pandas as pd

from silhouette_server.runs import write_public_catalogue
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.wire.offers import PublicCatalogue
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.training import declared_people
from silhouette_simulations.world import LEFT_OUT, build_world


def deal(plan: Plan, dataset: Dataset, out: Path) -> dict[str, int]:
    """Write everybody's tables.

    Returns:
        How many people each partner declares, by name.

    Raises:
        UsageError: If `out` is there already, or the data do not carry the plan.
    """
    world = build_world(plan, dataset)
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{out}: expected a folder that is to be made, found one; name another") from None
    write_public_catalogue(
        out / "catalogue.safetensors", PublicCatalogue(world.catalogue, dict(world.attribute_classes))
    )
    left_out = LEFT_OUT[plan.evaluation.target]
    for partner in world.partners:
        folder = out / partner.name / "people"
        folder.mkdir(parents=True)
        users = dataset.users[dataset.users["user"].isin(set(partner.users))]
        known_events(dataset.events, users, left_out).to_parquet(folder / "events.parquet", index=False)
        users.to_parquet(folder / "users.parquet", index=False)
        (folder / "people.json").write_text(json.dumps({"times": dataset.times}), encoding="utf-8")
    return {partner.name: declared_people(len(partner), counted=False) for partner in world.partners}


def known_events(events: pd.DataFrame, users: pd.DataFrame, left_out: int) -> pd.DataFrame:
    """Everybody's events in the order of time, without the last ones."""
    row_of = {user: row for row, user in enumerate(users["user"])}
    own = events[events["user"].isin(row_of)]
    in_order = own.assign(_person=own["user"].map(row_of)).sort_values(["_person", "timestamp"], kind="stable")
    from_end = in_order.groupby("_person").cumcount(ascending=False)
    return in_order[from_end >= left_out].drop(columns="_person")
