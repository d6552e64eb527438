"""What a training run is, apart from who takes part."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from silhouette_server.coordination.book import NoBook, RoundBook, RoundRecord
from silhouette_server.coordination.roster import Introduction
from silhouette_server.coordination.secure import Desk
from silhouette_shared.config import Plan, ReleaseName, Replies, Schedule, Statistics
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.model.pairs import pair_count
from silhouette_shared.model.prior import PriorShape
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.wire.messages import StatisticName


@dataclass(frozen=True)
class Counting:
    """The statistics of a run: what is asked for before the training, and what it is made into."""

    settings: Statistics
    budget: Budget
    content: Tensor  # (V + 1, C) public

    @property
    def prior_size(self) -> int:
        """Numbers of the prior, P."""
        return PriorShape.of(self.settings).size(len(self.content) - 1, self.content.shape[1])

    def size(self, statistic: StatisticName, active: int) -> int:
        """Coordinates of a statistic's sum."""
        return len(self.content) if statistic == "popularity" else pair_count(active)


@dataclass(frozen=True)
class SecureJob:
    """Secure aggregation in a run: who is who, and what the terms of its rounds are made of."""

    desk: Desk
    plan: Plan
    vocabulary: Vocabulary
    training: SampledGaussian | None  # of one round, as a partner charges it; None without privacy
    largest_partner: int  # largest declared size
    figures: Mapping[ReleaseName, SampledGaussian] = field(default_factory=dict)  # that are released beside

    @property
    def partners(self) -> tuple[str, ...]:
        """Everybody who is pinned, in the order of names."""
        return tuple(sorted(self.desk.pins.partners))


@dataclass(frozen=True)
class Beside:
    """A model of the same shape that the candidate is evaluated beside."""

    parameters: Tensor  # (D + P,)
    digest: str  # SHA-256 of its file, hex


@dataclass(frozen=True)
class Job:
    """A training run, apart from who takes part."""

    run: str
    plan_digest: str
    layout: Layout
    schedule: Schedule
    replies: Replies
    partners: int  # that are expected to take part
    initial: Tensor  # (D,)
    trained_before: bool = False  # `initial` is a trained model, whose item table `statistics.item_start` leaves alone
    counting: Counting | None = None  # None: no statistics
    secure: SecureJob | None = None  # None: the coordinator sees every partner's answer
    training: SampledGaussian | None = None  # whose noise is in the answers; None: no noise
    checkpoint: Path | None = None  # None keeps no state
    on_round: Callable[[RoundRecord, Tensor], None] = field(
        default=lambda record, model: None
    )  # maybe twice, see `start`
    enough: Callable[[int], bool] = lambda done: False  # asked before every round: whether the rounds done suffice
    book: RoundBook = field(default_factory=NoBook)  # where rounds are committed
    introduction: Introduction | None = None  # how nodes are asked who they are; None: as in a simulation
    beside: Callable[[], Beside | None] = lambda: None  # what the evaluation compares with, asked when it begins
