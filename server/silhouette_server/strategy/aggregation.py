"""Many updates to one."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatVector = npt.NDArray[np.float32]


class OrderedMean:
    """Mean of the partners' updates, weighted by what the roster says, never by what an answer says.

    Updates are taken as they arrive and added in the order of the names, so that the order of arrival does not change
    a bit of the result. Only an update that came before its turn is kept: a hundred partners that answer in order
    need the memory of one.

    McMahan et al. 2017, Algorithm 1, https://arxiv.org/abs/1602.05629.

    Args:
        weights: By partner, positive, for everybody who may answer.

    Raises:
        ValueError: If a weight is not positive.

    >>> mean = OrderedMean({"a": 1.0, "b": 3.0})
    >>> mean.add("b", np.array([4.0], np.float32))
    >>> mean.add("a", np.array([0.0], np.float32))
    >>> mean.finish()
    array([3.])
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        unweighted = [name for name in weights if not weights[name] > 0]
        if unweighted:
            raise ValueError(f"expected a positive weight for every partner, got none for {unweighted}")
        self._weights = dict(weights)
        self._turns = iter(sorted(weights))
        self._turn = next(self._turns, None)
        self._waiting: dict[str, FloatVector | None] = {}  # None: passed over
        self._sum: npt.NDArray[np.float64] | None = None
        self._weighted: npt.NDArray[np.float64] | None = None
        self._total = 0.0

    def add(self, partner: str, update: FloatVector) -> None:
        """Take an update, shape (D,); each partner's at most once.

        Raises:
            ValueError: If the partner has no weight.
        """
        if partner not in self._weights:
            raise ValueError(f"expected a positive weight for every update, got none for {partner}")
        self._waiting[partner] = update
        self._advance()

    def pass_over(self, partner: str) -> None:
        """Do not wait for an update of this partner."""
        self._waiting[partner] = None
        self._advance()

    def finish(self) -> npt.NDArray[np.float64]:
        """The mean of what was added, shape (D,); whoever is missing by now is passed over.

        Raises:
            ValueError: If nothing was added.
        """
        while self._turn is not None:
            self.pass_over(self._turn)
        if self._sum is None:
            raise ValueError("expected at least one update, got none")
        return self._sum / self._total

    def _advance(self) -> None:
        while self._turn is not None and self._turn in self._waiting:
            update = self._waiting.pop(self._turn)
            if update is not None:
                self._include(update, self._weights[self._turn])
            self._turn = next(self._turns, None)

    def _include(self, update: FloatVector, weight: float) -> None:
        if self._sum is None or self._weighted is None:
            self._sum = np.zeros(update.shape, dtype=np.float64)
            self._weighted = np.empty_like(self._sum)
        np.multiply(update, weight, out=self._weighted, dtype=np.float64)
        self._sum += self._weighted
        self._total += weight
