"""The federated evaluation: one place for each partner in the vector that is summed, and how the sum is read.

Secure aggregation opens sums alone, so a partner's own figure is a coordinate to which nobody else adds a count. In the
mode `local` a partner draws its whole noise for its own place and leaves the others at zero: nothing is charged beyond
what the sum over all costs. In the mode `distributed` everybody adds a share of the noise to every place, because one
share would not cover the people of that place. Either way a person is in one place, with a vector of norm at most one.

A second model may be evaluated beside the first, on the same people: a comparison of the two has no drift in it.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from silhouette_shared.model.figures import CUTOFF, Cell, Released, mean_of

METRIC = f"ndcg@{CUTOFF}"
"""By which models are compared."""

MOST_MODELS = 2

_CELLS = ("hits", "ndcg", "people", "hits beside", "ndcg beside")


@dataclass(frozen=True)
class Sheet:
    """What is where in the vector of a federated evaluation.

    Args:
        partners: Everybody on the roster.
        models: 1 for the candidate alone, 2 with another model beside it.

    Raises:
        ValueError: If there are no partners, or more models than two.

    >>> Sheet(("north", "south"), 1).place("south")
    slice(3, 6, None)
    """

    partners: tuple[str, ...]  # in order
    models: int = 1

    def __post_init__(self) -> None:
        """Refuse what has no places."""
        if not self.partners or not 1 <= self.models <= MOST_MODELS:
            raise ValueError(
                f"expected partners and 1 or {MOST_MODELS} models, got {len(self.partners)} and {self.models}"
            )

    @property
    def cells(self) -> tuple[str, ...]:
        """Of one place: sums over a partner's people, and how many they are."""
        return _CELLS[: 1 + 2 * self.models]

    @property
    def weight(self) -> float:
        """What a person's cells, each at most one, are multiplied by for a norm of at most one."""
        return 1 / math.sqrt(len(self.cells))

    @property
    def size(self) -> int:
        """Coordinates of the whole vector."""
        return len(self.partners) * len(self.cells)

    def place(self, partner: str) -> slice:
        """Where a partner's cells are; ValueError if it is not on the sheet."""
        start = self.partners.index(partner) * len(self.cells)
        return slice(start, start + len(self.cells))


@dataclass(frozen=True)
class Appraised:
    """What a federated evaluation has shown.

    Args:
        together: Over everybody whose figures are in the sum.
        apart: The same for each of these partners.
    """

    together: Released
    apart: Mapping[str, Released]

    @property
    def beside(self) -> bool:
        """Whether another model was evaluated on the same people."""
        return any(cell.name == "ndcg beside" for cell in self.together.cells)

    def worst(self, cell: str = "ndcg") -> tuple[float, float] | None:
        """The least mean of all partners, and its noise; None if noise leaves nobody at one of them.

        The least of several noisy figures lies low by a part of the noise.
        """
        found = [mean_of(one, cell) for one in self.apart.values()]
        known = [one for one in found if one is not None]
        return min(known) if known and len(known) == len(found) else None


def read_appraisal(
    sheet: Sheet, total: npt.NDArray[np.float64], noise_std: float, counted: Collection[str]
) -> Appraised:
    """Read the noised sum of an evaluation; post-processing of what was charged.

    Args:
        sheet: What is where.
        total: The sum, shape (sheet.size,).
        noise_std: Of each coordinate of a counted partner's place.
        counted: Whose figures are in the sum.
    """
    places = {name: total[sheet.place(name)] for name in sheet.partners if name in counted}
    everybody = np.sum(list(places.values()), axis=0) if places else np.zeros(len(sheet.cells))
    return Appraised(
        together=_released(sheet, everybody, noise_std * math.sqrt(len(places)), len(places)),
        apart={name: _released(sheet, part, noise_std, 1) for name, part in places.items()},
    )


def _released(sheet: Sheet, part: npt.NDArray[np.float64], noise_std: float, partners: int) -> Released:
    cells = tuple(
        Cell(name, float(value) / sheet.weight, noise_std / sheet.weight)
        for name, value in zip(sheet.cells, part, strict=True)
    )
    return Released("evaluation", cells, (), partners)
