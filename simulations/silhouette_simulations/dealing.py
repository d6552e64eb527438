"""The tables of a plan's partners on disk, for a deployment on public data.

    OUT/catalogue.safetensors            the public catalogue, for `silhouette run submit --catalogue`
    OUT/<partner>/people/                events.parquet users.parquet people.json, as a node reads them

A partner gets the people that the same plan deals it in a simulation, without the events that a simulation holds out,
so that a run without noise on these tables gives the simulation's model.
"""

import json
from pathlib import Path

from silhouette_server.runs import write_public_catalogue
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.wire.offers import PublicCatalogue
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.training import declared_people
from silhouette_simulations.world import build_world, split_of


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
    _, split = split_of(plan, dataset)
    for partner in world.partners:
        folder = out / partner.name / "people"
        folder.mkdir(parents=True)
        users = dataset.users[dataset.users["user"].isin(set(partner.users))]
        known = split.known[split.known["user"].isin(set(users["user"]))]
        known.to_parquet(folder / "events.parquet", index=False)
        users.to_parquet(folder / "users.parquet", index=False)
        (folder / "people.json").write_text(json.dumps({"times": dataset.times}), encoding="utf-8")
    return {partner.name: declared_people(len(partner), counted=False) for partner in world.partners}
