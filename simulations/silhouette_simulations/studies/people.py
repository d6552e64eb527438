"""What methods are worth to each person, over one seed of a study or several.

With several seeds a person counts once, with the mean over the seeds in which the person was asked; only then are
people drawn again for an interval. So an interval is about people; how far seeds lie apart is told by `by_seed`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_shared.model.evaluation import Interval, person_figures
from silhouette_simulations.rows import CUTOFF
from silhouette_simulations.studies.bench import Bench
from silhouette_simulations.world import PartnerData


@dataclass(frozen=True)
class Figures:
    """HR@10 and NDCG@10 of one method for everybody who was asked for something."""

    people: tuple[str, ...]  # each once
    hits: Tensor  # (N,), float64
    gains: Tensor  # (N,), float64

    @classmethod
    def of(cls, partners: Sequence[PartnerData], ranks: Sequence[Tensor]) -> "Figures":
        """From the rank of everything that is asked of the partners' people."""
        parts = [person_figures(own, partner.asked, CUTOFF) for partner, own in zip(partners, ranks, strict=True)]
        people = [p.users[row] for p in partners for row in p.asked.unique_consecutive().tolist()]
        return cls(tuple(people), torch.cat([hits for hits, _ in parts]), torch.cat([gains for _, gains in parts]))

    def among(self, people: Collection[str]) -> "Figures":
        """The same of these people alone, in the order that they have here."""
        kept = [place for place, user in enumerate(self.people) if user in people]
        return Figures(tuple(self.people[place] for place in kept), self.hits[kept], self.gains[kept])

    @property
    def hr(self) -> float:
        """The mean of the hits."""
        return float(self.hits.mean())

    @property
    def ndcg(self) -> float:
        """The mean of the gains."""
        return float(self.gains.mean())


def over_seeds(found: Sequence[Figures]) -> Figures:
    """Each person's mean over the seeds in which the person was asked, people in order of their first appearance.

    >>> one = Figures(("a", "b"), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0]))
    >>> other = Figures(("b",), torch.tensor([1.0]), torch.tensor([1.0]))
    >>> over_seeds([one, other]).gains.tolist()
    [0.5, 0.5]
    """
    if len(found) == 1:
        return found[0]
    place = {user: row for row, user in enumerate(dict.fromkeys(user for one in found for user in one.people))}
    rows = torch.tensor([place[user] for one in found for user in one.people])
    counts = torch.bincount(rows, minlength=len(place))

    def mean(values: Sequence[Tensor]) -> Tensor:
        return (
            torch.zeros(len(place), dtype=torch.float64).index_add(0, rows, torch.cat(list(values)).double()) / counts
        )

    return Figures(tuple(place), mean([one.hits for one in found]), mean([one.gains for one in found]))


def difference(bench: Bench, left: Figures, right: Figures, *path: str) -> Interval:
    """Mean of NDCG@10 of the first less the second, with its 95 % interval.

    Raises:
        ValueError: If they are of other people.
    """
    if left.people != right.people:
        raise ValueError(f"expected figures of the same people, got {len(left.people)} and {len(right.people)} others")
    return bench.difference(left.gains, right.gains, *path)


def seeds_told(bench: Bench) -> str:
    """Which seeds a table is of, for its notes."""
    if len(bench.seeds) == 1:
        return f"one seed ({bench.seeds[0]})"
    return f"mean of the seeds {', '.join(map(str, bench.seeds))}, person by person"


def by_seed(methods: Mapping[str, Sequence[Figures]]) -> tuple[str, ...]:
    """A note for each method: NDCG@10 of every seed; none where there is one seed."""
    return tuple(
        f"NDCG@10 by seed, {name}: {', '.join(f'{one.ndcg:.4f}' for one in found)}"
        for name, found in methods.items()
        if len(found) > 1
    )
