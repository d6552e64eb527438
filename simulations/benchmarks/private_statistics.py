"""What released statistics are worth at another noise or with other people, without a run for each.

python simulations/benchmarks/private_statistics.py simulations/experiments/ml-1m-private.toml --epsilon 8,4,2

The counting and the estimator of the product, on the second last events, with Gaussian noise of exactly the standard
deviation that the plan's mode leaves in the sum over all partners, several draws. `--people 0.577` counts that share of
the people of every partner and asks for all: how many people a mode needs. `--set rank=64` changes a setting of the
plan's statistics. With noise from a seeded generator: a measurement, no release.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from silhouette_client.training.statistics import popularity_sum, transition_sum
from silhouette_server.statistics import ReleasedSum, active_items, make_prior
from silhouette_shared.config import Plan, read_plan, with_changes
from silhouette_shared.model.evaluation import person_figures, pessimistic_ranks
from silhouette_shared.model.prior import ItemPrior
from silhouette_shared.privacy.budget import budget_of, shares_of
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations import datasets
from silhouette_simulations.world import PartnerData, World, build_world

_PEOPLE_AT_ONCE = 512


def noised(vector: Tensor, mechanism: SampledGaussian, plan: Plan, source: ReproducibleSource) -> ReleasedSum:
    """A sum over all partners as the plan's mode would leave it."""
    std = mechanism.noise_std * math.sqrt(plan.partition.partners / shares_of(plan))
    noise = torch.randn(vector.shape, generator=source.torch_generator(), dtype=torch.float64)
    return ReleasedSum(vector + std * noise, std)


def prior_of(plan: Plan, world: World, counted: PartnerData, source: ReproducibleSource) -> ItemPrior:
    """Count these people, add noise, and make the prior."""
    budget = budget_of(plan)
    if budget is None or budget.popularity is None or budget.transitions is None:
        raise SystemExit("expected a plan that releases popularity and transitions, got one that does not")
    items, settings = world.vocabulary.items, plan.statistics
    popular = popularity_sum(counted.known, items).vector
    popularity = noised(popular, budget.popularity, plan, source.child("popularity"))
    active = active_items(popularity, plan.active_items)
    pairs = transition_sum(counted.known, torch.from_numpy(active), settings.window, items).vector
    transitions = noised(pairs, budget.transitions, plan, source.child("transitions"))
    return make_prior(settings, world.vocabulary.content, popularity, active, transitions)


def gains(prior: ItemPrior, plan: Plan, world: World, asked: PartnerData) -> Tensor:
    """NDCG at ten of everybody's target, items had before left out, (U,)."""
    columns = prior.columns(world.vocabulary.content)
    lives = [plan.statistics.half_life] * prior.features.shape[1]
    lives += [plan.statistics.content_half_life] * (columns.shape[1] - len(lives))
    life, offsets = torch.tensor(lives), asked.known.offsets
    ranks = []
    for start in range(0, len(asked), _PEOPLE_AT_ONCE):
        rows = range(start, min(len(asked), start + _PEOPLE_AT_ONCE))
        histories = [asked.known.items[int(offsets[row]) : int(offsets[row + 1])] for row in rows]
        queries = []
        for own in histories:
            late = own[-plan.data.history_length :]
            ages = torch.arange(len(late) - 1, -1, -1)[:, None]
            weights = torch.exp2(-ages / life)
            queries.append((weights / weights.sum(0) * columns[late]).sum(0))
        scores = torch.stack(queries) @ columns.T + prior.bias
        scores[:, 0] = -torch.inf
        seen = torch.nn.utils.rnn.pad_sequence(histories, batch_first=True)
        ranks.append(pessimistic_ranks(scores, asked.targets[start : rows.stop], seen))
    return person_figures(torch.cat(ranks), torch.arange(len(asked)), 10)[1]


def main() -> None:
    """Print a line an epsilon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--epsilon", default="8,4,2")
    parser.add_argument("--mode", choices=["local", "distributed"], default="distributed")
    parser.add_argument("--people", type=float, default=1.0)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--home", type=Path, default=Path.home() / ".silhouette")
    asked = parser.parse_args()
    changes: dict[str, object] = {"evaluation.target": "validation", "privacy.mode": asked.mode}
    for change in asked.set:
        name, value = change.split("=", 1)
        number = float(value) if value.replace(".", "", 1).isdigit() else value
        changes[f"statistics.{name}"] = int(value) if value.isdigit() else number
    plan = with_changes(read_plan(asked.plan), changes)
    world = build_world(plan, datasets.load(plan.data.dataset, home=asked.home))
    counted = replace(world, partners=tuple(_some(part, asked.people) for part in world.partners)).pooled()
    for epsilon in map(float, asked.epsilon.split(",")):
        own = with_changes(plan, {"privacy.epsilon": epsilon})
        found = [
            float(gains(prior_of(own, world, counted, ReproducibleSource(draw)), own, world, world.pooled()).mean())
            for draw in range(asked.draws)
        ]
        drawn = " ".join(f"{one:.4f}" for one in found)
        print(f"epsilon {epsilon:g}, {asked.mode}, {len(counted)} people: {sum(found) / len(found):.4f} ({drawn})")


def _some(partner: PartnerData, share: float) -> PartnerData:
    """The first of a partner's people, who are in no order that matters."""
    return partner.of_people(torch.arange(round(share * len(partner))), partner.name)


if __name__ == "__main__":
    main()
