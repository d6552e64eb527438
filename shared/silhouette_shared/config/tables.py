"""The tables of a plan: what may be set in each, with its default, and what is refused.

A value is checked when its table is built. What depends on several tables is checked by the plan.
"""

import math
from typing import Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

# Strict: TOML has types, and "8" or true where a number belongs is a mistake, not a number.
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

DimensionName = Literal[
    "activity",
    "browsing",
    "purchases",
    "feedback",
    "spending",
    "rhythm",
    "demographics",
    "interests",
    "content",
]
"""Aspects of a person that the encoder knows; each is one token of the fusion attention."""

BehaviourName = Literal["view", "click", "search", "cart", "favourite", "purchase", "rate", "review", "share", "return"]
"""`schema.BEHAVIOURS`, for a plan to name."""

PrivacyMode = Literal["local", "distributed", "none"]
Clipping = Literal["flat", "automatic"]
ServerOptimiserName = Literal["average", "momentum", "adam", "adam_corrected"]
"""`adam_corrected` takes the known noise out of Adam's second moment; it needs training with privacy."""

FigureName = Literal["attributes", "behaviours", "lengths", "pace", "value"]
"""What can be counted over people's records: histograms, and quantiles read from those in bins. `lengths` are events of
a person, `pace` is events on a day with any."""

ReleaseName = Literal["attributes", "behaviours", "lengths", "pace", "value", "evaluation"]
"""The same, and hits and NDCG of the trained model."""

EstimatorName = Literal["excess", "posterior"]
"""How released transitions become features: as they are above what popularity gives, or each pair at its posterior mean
first, which suits many people and many active items."""

PartitionScheme = Literal["random", "dirichlet", "sizes", "attribute"]
RowName = Literal[
    "popularity",
    "transition_counts",
    "ease",
    "local_only",
    "federated",
    "private_statistics",
    "federated_private",
    "pooled",
    "local_only_with_counts",
    "federated_with_counts",
    "pooled_with_counts",
    "own_counts",
    "federated_with_own_counts",
    "private_statistics_with_own_counts",
    "federated_private_with_own_counts",
]
"""Those with counts add the logarithm of exact transition counts to the scores of the same model, without privacy.

Those with own counts add what each partner counted of its own people and never sends; `own_counts` has nothing else.
"""

SplitName = Literal["last", "random", "time", "publisher"]
"""Which of a person's events are kept from training and asked for; `silhouette_simulations.splitting` has them."""


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Refuse a setting, saying its name, what was expected and what came.

    Raises:
        ValueError: Unless the condition holds.
    """
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which public data set a simulation reads and how much of a person's history is used."""

    dataset: str = "ml-100k"
    history_length: int = 100  # latest events of a person that the encoder reads
    behaviours: tuple[BehaviourName, ...] = ()  # the only events that are read; none named reads all

    @model_validator(mode="after")
    def _check(self) -> "Data":
        require(
            len(set(self.behaviours)) == len(self.behaviours),
            "data.behaviours",
            "each behaviour once",
            list(self.behaviours),
        )
        require(
            2 <= self.history_length <= 10_000,
            "data.history_length",
            "2 to 10000 events",
            self.history_length,
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Partition:
    """How a simulation deals people to partners; a deployment does not read it."""

    partners: int = 5
    scheme: PartitionScheme = "random"
    concentration: float = 0.3  # of the Dirichlet distribution over partners
    ratios: tuple[float, ...] = ()  # relative sizes, for the schemes "sizes" and, where given, "dirichlet"
    attribute: str = ""  # declared attribute, for the scheme "attribute"

    @model_validator(mode="after")
    def _check(self) -> "Partition":
        require(1 <= self.partners <= 1000, "partition.partners", "1 to 1000 partners", self.partners)
        require(
            self.concentration > 0,
            "partition.concentration",
            "a positive number",
            self.concentration,
        )
        if self.scheme == "sizes" or (self.scheme == "dirichlet" and self.ratios):
            require(
                len(self.ratios) == self.partners and all(r > 0 for r in self.ratios),
                "partition.ratios",
                f"{self.partners} positive numbers, one a partner",
                list(self.ratios),
            )
        if self.scheme == "attribute":
            require(
                bool(self.attribute),
                "partition.attribute",
                "the name of a declared attribute",
                repr(self.attribute),
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """Shape of the profile encoder."""

    width: int = 64
    blocks: int = 2
    heads: int = 2
    feed_forward: int = 2  # inner width of a block's feed-forward layer, in units of `width`
    lags: int = 3  # events before that every event token sees directly, ahead of the attention
    dropout: float = 0.2
    content_width: int = 32  # columns of the public content vectors
    text_width: int = 0  # columns of the vectors of what people write, for the feedback; 0 reads no texts
    behaviour_head: bool = False  # also say what kind of event comes next
    dimensions: tuple[DimensionName, ...] = (
        "activity",
        "rhythm",
        "demographics",
        "interests",
        "content",
    )

    @model_validator(mode="after")
    def _check(self) -> "Model":
        require(self.width >= 1, "model.width", "at least 1", self.width)
        require(self.blocks >= 1, "model.blocks", "at least 1", self.blocks)
        require(
            self.heads >= 1 and self.width % self.heads == 0,
            "model.heads",
            f"a divisor of the width {self.width}",
            self.heads,
        )
        require(0 <= self.lags <= 16, "model.lags", "0 to 16", self.lags)
        require(self.feed_forward >= 1, "model.feed_forward", "at least 1", self.feed_forward)
        require(0 <= self.dropout < 1, "model.dropout", "a number from 0 to below 1", self.dropout)
        require(self.content_width >= 1, "model.content_width", "at least 1", self.content_width)
        require(0 <= self.text_width <= 4096, "model.text_width", "0 to 4096", self.text_width)
        require(
            len(self.dimensions) >= 1 and len(set(self.dimensions)) == len(self.dimensions),
            "model.dimensions",
            "at least one dimension, each once",
            list(self.dimensions),
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Schedule:
    """Rounds of one training, their learning rates, and what the coordinator does with the answers."""

    rounds: int
    learning_rate: float  # of the partners' own optimiser
    final_learning_rate: float  # fraction of it reached in the last round, along a cosine
    warm_up_rounds: int
    server_optimiser: ServerOptimiserName
    server_learning_rate: float
    server_momentum: float
    averaging: float  # what earlier models keep each round of the running mean that is the result; 0 gives the last one
    update_limit: float  # largest magnitude of one coordinate of an answer

    def _check_schedule(self, table: str) -> None:
        fewest = 0 if table == "privacy" else 1  # with privacy the statistics may be all there is
        require(fewest <= self.rounds <= 100_000, f"{table}.rounds", f"{fewest} to 100000 rounds", self.rounds)
        for name in ("learning_rate", "server_learning_rate", "update_limit"):
            value = getattr(self, name)
            require(value > 0, f"{table}.{name}", "a positive number", value)
        require(
            0 < self.final_learning_rate <= 1,
            f"{table}.final_learning_rate",
            "a fraction above 0, at most 1",
            self.final_learning_rate,
        )
        require(
            0 <= self.warm_up_rounds < max(1, self.rounds),
            f"{table}.warm_up_rounds",
            f"0 to below the {self.rounds} rounds",
            self.warm_up_rounds,
        )
        for name in ("server_momentum", "averaging"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{table}.{name}", "a number from 0 to below 1", value)

    def learning_rate_factor(self, round_number: int) -> float:
        """What the learning rate is multiplied by in round `round_number`, counted from 1.

        Linear warm-up, then a cosine down to `final_learning_rate`.
        """
        if round_number <= self.warm_up_rounds:
            return round_number / (self.warm_up_rounds + 1)
        span = max(1, self.rounds - self.warm_up_rounds - 1)
        done = min(1.0, (round_number - self.warm_up_rounds - 1) / span)
        floor = self.final_learning_rate
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training(Schedule):
    """Training without privacy, and the objective of both trainings.

    Between receiving the model and answering, a partner goes `local_epochs` times through its people in shuffled
    batches. With `patience` a simulation keeps the last known event of everybody from training as well, ranks it every
    `evaluation.every_rounds` rounds and after the last, and gives the model of the best ranking.
    """

    rounds: int = 20
    learning_rate: float = 2e-3
    final_learning_rate: float = 0.1
    warm_up_rounds: int = 0
    server_optimiser: ServerOptimiserName = "average"
    server_learning_rate: float = 1.0
    server_momentum: float = 0.9
    averaging: float = 0.0
    update_limit: float = 1.0
    local_epochs: int = 1
    batch_size: int = 16
    weight_decay: float = 0.0
    attribute_weight: float = 0.1  # of the attribute losses, beside next item
    behaviour_weight: float = 0.1  # of the next behaviour, where the model has a head for it
    attribute_masking: float = 0.5  # chance that a declared attribute is hidden and has to be guessed
    negatives: int = 0  # items in the softmax beside the next one, drawn evenly each step; 0 for the whole catalogue
    crop: float = 0.0  # chance that a person's window is cut to a part, half of it at least
    mask: float = 0.0  # chance of each event but the window's last to be left out
    reorder: float = 0.0  # chance that a stretch of a fifth of the window is put in another order
    patience: int = 0  # rounds without a better NDCG on validation events before a simulation stops; 0 never stops

    @model_validator(mode="after")
    def _check(self) -> "Training":
        self._check_schedule("training")
        require(
            self.server_optimiser != "adam_corrected",
            "training.server_optimiser",
            "average, momentum or adam, for there is no noise to correct for",
            self.server_optimiser,
        )
        require(self.local_epochs >= 1, "training.local_epochs", "at least 1", self.local_epochs)
        require(self.batch_size >= 1, "training.batch_size", "at least 1", self.batch_size)
        require(
            self.negatives >= 0,
            "training.negatives",
            "0 for the whole catalogue, or a number of items",
            self.negatives,
        )
        for name in ("weight_decay", "attribute_weight", "behaviour_weight", "patience"):
            value = getattr(self, name)
            require(value >= 0, f"training.{name}", "0 or more", value)
        for name in ("attribute_masking", "crop", "mask", "reorder"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"training.{name}", "a number from 0 to 1", value)
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Privacy(Schedule):
    """Training with differential privacy; the unit is one person's whole record at a partner.

    In the mode `local` every partner adds all the noise that its own people need. In the mode `distributed` it adds a
    share, and only the sum that secure aggregation opens has all of it. Each round it takes `local_steps`
    steps, each over a Poisson sample of its people. The noise multiplier is not a setting: it is calibrated from
    `epsilon`, `delta`, the sampling rate and the number of steps.
    """

    mode: PrivacyMode = "local"
    epsilon: float = 8.0
    delta: float = 1e-5
    clip_norm: float = 1.0
    clipping: Clipping = "flat"  # automatic scales every gradient to nearly the clip norm
    clip_stability: float = 0.01  # added to the norm in automatic clipping
    sampling_rate: float = 0.2
    local_steps: int = 1
    grid_bits: int = 16  # a noised sum is whole numbers of clip_norm x 2^-grid_bits
    optimiser: Literal["sgd", "adam"] = "sgd"
    rounds: int = 60
    learning_rate: float = 1.0
    final_learning_rate: float = 1.0
    warm_up_rounds: int = 0
    server_optimiser: ServerOptimiserName = "adam"
    server_learning_rate: float = 3e-3
    server_momentum: float = 0.9
    averaging: float = 0.0
    update_limit: float = 100.0

    @model_validator(mode="after")
    def _check(self) -> "Privacy":
        self._check_schedule("privacy")
        require(
            0 < self.epsilon <= 100,
            "privacy.epsilon",
            "a positive number, at most 100 (`--mode none` trains without privacy)",
            self.epsilon,
        )
        require(0 < self.delta < 1, "privacy.delta", "a number between 0 and 1", self.delta)
        for name in ("clip_norm", "clip_stability"):
            value = getattr(self, name)
            require(value > 0, f"privacy.{name}", "a positive number", value)
        require(
            0 < self.sampling_rate <= 1,
            "privacy.sampling_rate",
            "a fraction above 0, at most 1",
            self.sampling_rate,
        )
        require(self.local_steps >= 1, "privacy.local_steps", "at least 1", self.local_steps)
        require(
            self.server_optimiser != "adam_corrected" or (self.local_steps == 1 and self.optimiser == "sgd"),
            "privacy.server_optimiser",
            "adam_corrected only with local_steps = 1 and optimiser = sgd, where an answer's noise is known",
            self.server_optimiser,
        )
        require(6 <= self.grid_bits <= 24, "privacy.grid_bits", "6 to 24 bits", self.grid_bits)
        return self

    @property
    def steps(self) -> int:
        """Steps that a partner takes in the whole run, each of which is charged."""
        return self.rounds * self.local_steps


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Statistics:
    """What is counted with privacy before the private training, and the prior that is made of it.

    Shares are of the run's budget, counted as budgets of Gaussian noise add up: a release with share s has
    1 / sqrt(s) times the noise that it would have alone. Training has what is left; without training rounds the two
    statistics divide everything between them in the ratio of their shares.
    """

    popularity_share: float = 0.3  # 0 leaves all statistics out
    transition_share: float = 0.4  # 0 leaves the transitions out
    active_items: int = 100  # most popular items between which transitions are counted
    active_power: float = 0.0  # of epsilon / 8, which multiplies that number: more noise allows fewer items
    window: int = 20  # events apart at most; a pair counts 1 / distance
    estimator: EstimatorName = "excess"  # of what the noised transitions say
    rank: int = 16  # features of an item, from the transitions
    half_life: float = 2.0  # events after which an event counts half among what was done lately
    content_half_life: float = 7.0  # the same for the content vectors
    transition_weight: float = 1.0  # of the features in the scores; 1 gives every pair a score of about one
    content_weight: float = 6.0  # of the content in the scores, times how far the transitions bear the content out
    item_start: float = 0.0  # size of the features that the item table begins with, beside a random start; 0: random

    @model_validator(mode="after")
    def _check(self) -> "Statistics":
        for name in ("popularity_share", "transition_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"statistics.{name}", "a share from 0 to 1", value)
        together = self.popularity_share + self.transition_share
        require(together <= 1, "statistics.transition_share", "shares of at most 1 together", together)
        require(
            self.popularity_share > 0 or self.transition_share == 0,
            "statistics.popularity_share",
            "a share above 0, for transitions are counted between the most popular items",
            self.popularity_share,
        )
        require(2 <= self.active_items <= 20_000, "statistics.active_items", "2 to 20000 items", self.active_items)
        require(0 <= self.active_power <= 2, "statistics.active_power", "a power from 0 to 2", self.active_power)
        require(1 <= self.window <= 1000, "statistics.window", "1 to 1000 events", self.window)
        require(1 <= self.rank <= 1024, "statistics.rank", "1 to 1024 features", self.rank)
        for name in ("half_life", "content_half_life"):
            value = getattr(self, name)
            require(value > 0, f"statistics.{name}", "a positive number of events", value)
        for name in ("transition_weight", "content_weight", "item_start"):
            value = getattr(self, name)
            require(value >= 0, f"statistics.{name}", "0 or more", value)
        return self

    @property
    def on(self) -> bool:
        """Whether anything is counted."""
        return self.popularity_share > 0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Analytics:
    """What else is released of the people in a run with privacy, through secure aggregation and from the same budget.

    Shares are counted as those of `Statistics`. With a share for the evaluation every partner holds out the newest
    event of each of its people from everything else; hits and NDCG at ten on it are summed once, for the final model,
    with a place for each partner.
    """

    share: float = 0.0  # of all figures together, in equal parts; 0 releases none
    figures: tuple[FigureName, ...] = ("attributes", "behaviours", "lengths", "pace", "value")
    evaluation_share: float = 0.0  # of the federated evaluation; 0 leaves it out

    @model_validator(mode="after")
    def _check(self) -> "Analytics":
        for name in ("share", "evaluation_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"analytics.{name}", "a share from 0 to 1", value)
        require(
            len(set(self.figures)) == len(self.figures) and (len(self.figures) > 0 or self.share == 0),
            "analytics.figures",
            "at least one figure, each once, or a share of 0",
            list(self.figures),
        )
        return self

    @property
    def shares(self) -> dict[ReleaseName, float]:
        """Of everything that is released, in the order of its release."""
        figures: dict[ReleaseName, float] = {name: self.share / len(self.figures) for name in self.figures}
        parts = {**figures, "evaluation": self.evaluation_share}
        return {name: part for name, part in parts.items() if part > 0}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Replies:
    """When the coordinator goes on without a partner and when it stops."""

    minimum: int = 1  # fewer valid answers in a round end the run, resumably
    timeout_seconds: float = 600.0

    @model_validator(mode="after")
    def _check(self) -> "Replies":
        require(self.minimum >= 1, "replies.minimum", "at least 1", self.minimum)
        require(
            self.timeout_seconds > 0,
            "replies.timeout_seconds",
            "a positive number of seconds",
            self.timeout_seconds,
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Aggregation:
    """Who may see one partner's answer.

    With `sa-1` the coordinator learns the sum over the partners and nothing else about any of them. With `none` it
    sees every partner's answer, which in the private modes is noised.
    """

    protocol: Literal["none", "sa-1"] = "none"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """How quality is measured: full ranking, seen items removed, ties against us.

    With the split `last` the target `test` is a person's last event and everything before it is history and training
    data; the target `validation` is the second last, for choosing settings without looking at the test events. The
    split `random` holds out a share of each person's events, `time` what comes after one moment, the same for
    everybody, and asks for the next new item then; `publisher` asks for the purchases that the publisher kept apart.
    """

    target: Literal["test", "validation"] = "test"
    split: SplitName = "last"
    held_out_share: float = 0.2  # of a person's events with the split `random`, of all events with `time`
    every_rounds: int = 5
    counts_weight: float = 1.0  # of the counts' logarithm in the rows with counts
    rows: tuple[RowName, ...] = (
        "popularity",
        "transition_counts",
        "ease",
        "local_only",
        "federated",
        "private_statistics",
        "federated_private",
        "pooled",
    )

    @model_validator(mode="after")
    def _check(self) -> "Evaluation":
        require(self.every_rounds >= 1, "evaluation.every_rounds", "at least 1", self.every_rounds)
        require(self.counts_weight > 0, "evaluation.counts_weight", "a positive number", self.counts_weight)
        require(
            0 < self.held_out_share <= 0.5,
            "evaluation.held_out_share",
            "a share above 0, at most 0.5",
            self.held_out_share,
        )
        require(
            len(self.rows) >= 1 and len(set(self.rows)) == len(self.rows),
            "evaluation.rows",
            "at least one row, each once",
            list(self.rows),
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Promotion:
    """When a model of the run may take the place of the promoted one; a simulation does not read it.

    It changes nothing that is trained, so it is not part of the digest.
    """

    margin: float = 0.005  # how much worse it may be, in the units of the evaluation's metric
    confidence: float = 0.95  # one-sided, that it is no worse than that, with the evaluation's noise in view

    @model_validator(mode="after")
    def _check(self) -> "Promotion":
        require(self.margin >= 0, "promotion.margin", "0 or more", self.margin)
        require(0.5 < self.confidence < 1, "promotion.confidence", "a number above 0.5 and below 1", self.confidence)
        return self
