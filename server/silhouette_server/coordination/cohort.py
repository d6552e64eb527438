"""The partners who take part in a run, and what they add up to under secure aggregation."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from silhouette_server.coordination.job import Job, SecureJob
from silhouette_server.coordination.released import ReleasedSums
from silhouette_server.coordination.roster import Member
from silhouette_server.coordination.secure import SecureRounds, SecureSum, VoidRoundError
from silhouette_shared.config import ReleaseName
from silhouette_shared.errors import UnavailableError
from silhouette_shared.privacy.grid import Grid as PrivacyGrid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg import Layout as SecureLayout
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.messages import StatisticName
from silhouette_shared.wire.rounds import noised_layout, round_terms

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cohort:
    """Who takes part in a run, and how they are reached."""

    job: Job
    grid: Grid
    members: tuple[Member, ...]
    rounds: SecureRounds | None  # None: the coordinator sees every partner's answer

    @property
    def secure(self) -> SecureJob:
        """Secure aggregation in this run; ValueError if it has none."""
        if self.job.secure is None:
            raise ValueError("expected a run under secure aggregation, got one without")
        return self.job.secure

    def sum_securely(
        self,
        purpose: str,
        number: int,
        layout: SecureLayout,
        inputs: Mapping[str, Vector],
        mechanism: SampledGaussian | None,
    ) -> SecureSum:
        """One secure round.

        Args:
            purpose: What for.
            number: Of the round, as the plan counts for this purpose.
            layout: Of the sum.
            inputs: What the round starts from.
            mechanism: As a partner charges it; None without privacy.

        Raises:
            VoidRoundError: If there is no sum.
            UnavailableError: If too few partners are in it.
        """
        secure = self.secure
        if self.rounds is None:
            raise ValueError(f"expected secure rounds for {purpose}, got none")
        terms = round_terms(
            secure.plan,
            secure.vocabulary,
            purpose=purpose,
            number=number,
            layout=layout,
            inputs=inputs,
            mechanism=mechanism,
        )
        total = self.rounds.collect(
            self.grid,
            self.members,
            terms,
            purpose=purpose,
            number=number,
            inputs=inputs,
            timeout_seconds=self.job.replies.timeout_seconds,
        )
        for reason in total.reasons:
            _LOG.warning("%s %d: %s", purpose, number, reason)
        if len(total.survivors) < self.job.replies.minimum:
            raise UnavailableError(
                f"{purpose} {number}: expected at least {self.job.replies.minimum} partners in the sum, got "
                f"{len(total.survivors)} ({'; '.join(total.reasons)}); nothing was made of it: resume the run"
            )
        return total

    def sum_once(
        self,
        name: StatisticName | ReleaseName,
        mechanism: SampledGaussian,
        size: int,
        inputs: Mapping[str, Vector],
        released: ReleasedSums,
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """A sum that is released once, without a sight of any partner's, and the partners who are in it.

        Raises:
            VoidRoundError: If there is none. Whoever charged for it has spent that; the next attempt is a new charge,
                and `released` has its number.
        """
        secure = self.secure
        lattice = PrivacyGrid.of(mechanism.clip_norm, secure.plan.privacy.grid_bits)
        on_grid = mechanism.on_grid(lattice, size)
        layout = noised_layout(size, on_grid, lattice, people=secure.largest_partner)
        try:
            total = self.sum_securely(name, released.attempt(name), layout, inputs, on_grid)
        except UnavailableError as error:
            released.use_up_attempt(name)
            raise VoidRoundError(
                f"{error}; bring the partners back and resume the run: it asks again, for a charge of its own, "
                "as far as each partner's budget allows"
            ) from error
        (section,) = layout.sections
        return (total.sums[section.name] * section.scale).astype(np.float64), total.survivors
