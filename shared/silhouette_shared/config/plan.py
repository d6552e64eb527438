"""The plan: one TOML file that fixes a training run completely.

Everything here may be published and changes the result. Settings that change only speed (device, workers,
engine) are arguments of the command, and sizes of private data never appear. The same file drives a simulation and a
deployment, and its digest names the run.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, field
from typing import cast

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from silhouette_shared.config.tables import (
    STRICT,
    Aggregation,
    Analytics,
    Data,
    Evaluation,
    Model,
    Partition,
    Privacy,
    Promotion,
    Replies,
    Statistics,
    Training,
    require,
)

_NAME = re.compile(r"(?=[^A-Za-z0-9]*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")
_MOST_DISTRIBUTED_ROUNDS = 500


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Plan:
    """A training run, fixed completely.

    >>> Plan(name="tiny", seed=3).partition.partners
    5
    """

    name: str
    seed: int = 0
    note: str = ""  # shown in the report: what this plan is for
    data: Data = field(default_factory=Data)
    partition: Partition = field(default_factory=Partition)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    privacy: Privacy = field(default_factory=Privacy)
    statistics: Statistics = field(default_factory=Statistics)
    analytics: Analytics = field(default_factory=Analytics)
    aggregation: Aggregation = field(default_factory=Aggregation)
    replies: Replies = field(default_factory=Replies)
    evaluation: Evaluation = field(default_factory=Evaluation)
    promotion: Promotion = field(default_factory=Promotion)

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        require(
            _NAME.fullmatch(self.name) is not None,  # it names a folder
            "name",
            "1 to 64 letters from a to z, digits, hyphens or underscores",
            repr(self.name),
        )
        require(0 <= self.seed < 2**63, "seed", "a whole number from 0 to 2^63 - 1", self.seed)
        require(
            self.replies.minimum <= self.partition.partners,
            "replies.minimum",
            f"at most the {self.partition.partners} partners",
            self.replies.minimum,
        )
        require(
            self.aggregation.protocol == "none" or 3 <= self.partition.partners <= 50,
            "aggregation.protocol",
            "3 to 50 partners for sa-1 (with fewer a sum shows a partner the other's part; none goes without it)",
            f"{self.partition.partners} partners",
        )
        self._check_distributed()
        self._check_item_start()
        self._check_patience()
        analytics = sum(self.analytics.shares.values())
        require(
            analytics == 0 or self.privacy.mode == "none" or self.aggregation.protocol == "sa-1",
            "aggregation.protocol",
            "sa-1 with a share for analytics, which are released as sums over all partners alone",
            self.aggregation.protocol,
        )
        together = self.statistics.popularity_share + self.statistics.transition_share + analytics
        require(
            self.privacy.mode == "none" or together <= 1,
            "analytics.share",
            "shares of statistics and analytics of at most 1 together",
            together,
        )
        require(
            self.privacy.mode == "none" or self.privacy.rounds > 0 or self.statistics.on,
            "privacy.rounds",
            "at least 1 round, or statistics",
            self.privacy.rounds,
        )
        require(
            self.privacy.mode == "none" or self.privacy.rounds == 0 or together < 1,
            "statistics.transition_share",
            "shares below 1 together, to leave something for the training rounds (privacy.rounds = 0 has none)",
            together,
        )
        return self

    def _check_distributed(self) -> None:
        privacy = self.privacy
        if privacy.mode != "distributed":
            return
        require(
            self.aggregation.protocol == "sa-1",
            "aggregation.protocol",
            "sa-1 with the mode distributed, whose noise is enough in the sum alone",
            self.aggregation.protocol,
        )
        require(
            privacy.local_steps == 1 and privacy.optimiser == "sgd",
            "privacy.local_steps",
            "1 step of sgd a round with the mode distributed: what is summed is one noised gradient",
            f"{privacy.local_steps} of {privacy.optimiser}",
        )
        require(
            privacy.rounds <= _MOST_DISTRIBUTED_ROUNDS,
            "privacy.rounds",
            f"at most {_MOST_DISTRIBUTED_ROUNDS} rounds with the mode distributed",
            privacy.rounds,
        )

    def _check_item_start(self) -> None:
        """Before anybody is asked: once it shows in the run, the statistics are charged for."""
        counted = self.statistics
        if not counted.item_start:
            return
        require(
            counted.transition_share > 0,
            "statistics.transition_share",
            "a share above 0 with item_start, which begins the item table with what transitions tell",
            counted.transition_share,
        )
        require(
            counted.rank <= self.model.width,
            "statistics.rank",
            f"at most the model's width {self.model.width} with item_start, whose features go into the item table",
            counted.rank,
        )

    def _check_patience(self) -> None:
        patience, between = self.training.patience, self.evaluation.every_rounds
        require(
            patience == 0 or patience >= between,
            "training.patience",
            f"0, or at least the {between} rounds of evaluation.every_rounds: fewer end before a second ranking",
            patience,
        )

    @property
    def active_items(self) -> int:
        """Items between which transitions are counted if the catalogue has as many: at least 2, at most 20,000."""
        counted = self.statistics
        if counted.active_power == 0:
            return counted.active_items
        grown = counted.active_items * math.pow(self.privacy.epsilon / 8, counted.active_power)
        return min(20_000, max(2, round(grown)))

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of everything in the plan that changes what is trained: what both sides agree on."""
        return _digest(self, "note", "promotion")

    @property
    def family_digest(self) -> str:
        """The same without the seed: equal for the repetitions of one experiment."""
        return _digest(self, "note", "promotion", "seed")


_CAME_LATER: tuple[tuple[str, str, object], ...] = (
    ("data", "behaviours", []),
    ("statistics", "active_power", 0.0),
    ("statistics", "estimator", "excess"),
    ("training", "crop", 0.0),
    ("training", "mask", 0.0),
    ("training", "reorder", 0.0),
    ("training", "patience", 0),
    ("statistics", "item_start", 0.0),
    ("evaluation", "split", "last"),
    ("evaluation", "held_out_share", 0.2),
    ("evaluation", "counts_weight", 1.0),
)
"""Settings that older plans do not have, with what they stand for there: unchanged, they leave a plan its digest."""


def _digest(plan: Plan, *without: str) -> str:
    document = {key: value for key, value in plan_document(plan).items() if key not in without}
    for table, name, default in _CAME_LATER:
        values = cast(dict[str, object], document[table])
        if values[name] == default:
            del values[name]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def plan_document(plan: Plan) -> dict[str, object]:
    """The plan as plain JSON values, every default written out."""
    return cast(dict[str, object], json.loads(json.dumps(asdict(plan))))
