"""Scores of what a person may do: conversion, churn and risk, learnt at the partner on a frozen encoder.

The encoder stays as it is: a head that moved shared parameters would have to be paid for, and the same vectors have to
serve everything else. A head is local. It reads other people's records to learn its weights and its scales, so it is
never sent and enters no shared forward pass; what it says of a person depends on that person's record alone once it
is learnt.

Moments are UTC seconds. A head is learnt at a moment in the past, from what lies before it, and asked at a later one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from silhouette_client.profiles.risk import RiskScale, fit_risk, risk_features
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.histories import HOURS, Histories
from silhouette_shared.schema import BEHAVIOURS

DAY_SECONDS = 86_400
CONVERSION_DAYS = 7
_WANTED = ("view", "cart")
_PEOPLE_AT_ONCE = 256
_NEVER_DAYS = 10_000.0  # how long ago something is that never was
_CALIBRATION_BINS = 10
_UNUSUAL = 0.99


@dataclass(frozen=True)
class HeadDefinition:
    """What a score means."""

    name: str
    definition: str


HEADS = (
    HeadDefinition(
        "conversion",
        f"probability of a purchase, within {CONVERSION_DAYS} days of the moment, of an item carted or viewed before "
        "it; of people who have such an item and have not bought it",
    ),
    HeadDefinition(
        "churn", "probability of no event at all in the time that follows, as long as the head was learnt for"
    ),
    HeadDefinition(
        "risk",
        "how far the history lies from what is usual at the partner, as the share of its people who lie nearer; "
        "a reason to look, not a probability of fraud",
    ),
)
"""Every score, with its definition."""

_NAMES = tuple(definition.name for definition in HEADS)


def before(histories: Histories, moment: int) -> tuple[Histories, Tensor]:
    """What was known at a moment.

    Returns:
        The histories of everybody who had an event before `moment`, without later events, and their rows (U',).

    Raises:
        UsageError: If the histories have no times, or nobody had an event by then.
    """
    if not histories.has_times:
        raise UsageError("expected histories with times, got some without; scores of what follows need them")
    owner = torch.repeat_interleave(torch.arange(len(histories), device=histories.items.device), histories.lengths)
    kept = histories.timestamps < moment
    counts = torch.bincount(owner[kept], minlength=len(histories))
    rows = torch.nonzero(counts > 0).flatten()
    if not len(rows):
        raise UsageError("expected events before the moment, got none; take a later moment")
    return histories.of_events(torch.nonzero(kept).flatten(), rows, counts[rows]), rows


def record_features(histories: Histories, now: int | Tensor) -> Tensor:
    """A person's own record in numbers at a moment, (U, F) float64; a function of that record and of `now` alone.

    Logarithms of: events, days since the last one and days since the first one, of all events and of every behaviour;
    events of the last day and of the last three; different items; items viewed, carted or favourited and not bought;
    median gap in hours. And the share of events between midnight and six, UTC.

    Args:
        histories: With events up to the moment only.
        now: The moment, or each person's own, (U,).
    """
    moments = now.tolist() if isinstance(now, Tensor) else [now] * len(histories)
    rows = [
        _record_row(histories.items[a:b], histories.behaviours[a:b], histories.timestamps[a:b], moment)
        for moment, (a, b) in zip(moments, pairwise(histories.offsets.tolist()), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64, device=histories.items.device)


def rfm_features(histories: Histories, now: int) -> Tensor:
    """Recency, frequency and monetary value, in logarithms, (U, 4): what a shop without a model looks at.

    Days since the last event, number of events, number of purchases, and what was paid, in mean value buckets of the
    purchases; where no purchase has a value the last column is zero for everybody.
    """
    purchase = BEHAVIOURS.index("purchase") + 1
    found = []
    for a, b in pairwise(histories.offsets.tolist()):
        bought = histories.behaviours[a:b] == purchase
        paid = histories.values[a:b][bought]
        value = float(paid.double().mean()) if len(paid) else 0.0
        days = (now - int(histories.timestamps[b - 1])) / DAY_SECONDS
        found.append([math.log1p(max(0.0, days)), math.log1p(b - a), math.log1p(int(bought.sum())), value])
    return torch.tensor(found, dtype=torch.float64, device=histories.items.device)


@torch.no_grad()
def profile_vectors(encoder: ProfileEncoder, histories: Histories) -> Tensor:
    """Frozen profile vectors and dimension weights of everybody, (U, H + K) float64."""
    encoder.eval()
    found = []
    for people in torch.arange(len(histories), device=histories.items.device).split(_PEOPLE_AT_ONCE):
        batch = histories.batch(people, encoder.history_length)
        profile = encoder(batch)
        parts = [at_last(profile.vector, batch.lengths), at_last(profile.weights, batch.lengths)]
        found.append(torch.cat(parts, dim=1).double())
    return torch.cat(found)


def churned(histories: Histories, rows: Tensor, moment: int, until: int) -> Tensor:
    """Who of the rows has no event from `moment` to before `until`, (U',) bool.

    Args:
        histories: Whole.
        rows: Of `before`.
        moment: Of the same.
        until: End of what was recorded.
    """
    owner = torch.repeat_interleave(torch.arange(len(histories), device=histories.items.device), histories.lengths)
    later = (histories.timestamps >= moment) & (histories.timestamps < until)
    return torch.bincount(owner[later], minlength=len(histories))[rows] == 0


def converted(histories: Histories, rows: Tensor, moment: int) -> tuple[Tensor, Tensor]:
    """Who buys, within seven days of a moment, what was carted or viewed before it.

    Returns:
        Who of the rows has such an item at the moment, not yet bought, and who buys one of them, (U',) bool each.
    """
    wanted = [BEHAVIOURS.index(name) + 1 for name in _WANTED]
    purchase = BEHAVIOURS.index("purchase") + 1
    asked, bought = [], []
    ends = moment + CONVERSION_DAYS * DAY_SECONDS
    for row in rows.tolist():
        a, b = histories.offsets[row : row + 2].tolist()
        items, behaviours, times = histories.items[a:b], histories.behaviours[a:b], histories.timestamps[a:b]
        purchases, early = behaviours == purchase, times < moment
        open_ = set(items[early & torch.isin(behaviours, behaviours.new_tensor(wanted))].tolist())
        open_ -= set(items[early & purchases].tolist())
        asked.append(bool(open_))
        bought.append(bool(open_ & set(items[purchases & ~early & (times < ends)].tolist())))
    return torch.tensor(asked, device=rows.device), torch.tensor(bought, device=rows.device)


@dataclass(frozen=True)
class Head:
    """A logistic regression over standardised columns, with its calibration; local to a partner."""

    mean: Tensor  # (F,)
    scale: Tensor  # (F,)
    weight: Tensor  # (F,)
    slope: float  # of the calibration, on the scores of people that the weights were not learnt from
    offset: float

    def __call__(self, features: Tensor) -> Tensor:
        """Probabilities (U,) float64, from features (U, F)."""
        scores = ((features - self.mean) / self.scale) @ self.weight
        return torch.sigmoid(self.slope * scores + self.offset)


def fit_head(features: Tensor, labels: Tensor, generator: torch.Generator, *, penalty: float = 1.0) -> Head:
    """Learn a head: weights from four fifths of the people, calibration from the last fifth.

    Calibration by a logistic curve through held-out scores: Platt 1999.

    Args:
        features: Shape (U, F), float64, finite.
        labels: Shape (U,), bool.
        generator: Deals people; on the device of the features.
        penalty: Of the squared weights, in people.

    Raises:
        UsageError: If the people are fewer than twenty, or the labels of either part are all the same.
    """
    people = len(labels)
    if people < 20:
        raise UsageError(f"expected at least 20 people to learn a score from, got {people}; leave the score out")
    order = torch.randperm(people, generator=generator, device=generator.device)
    held, kept = order[: people // 5], order[people // 5 :]
    truth = labels.to(features.dtype)
    for part in (held, kept):
        if not 0 < float(truth[part].sum()) < len(part):
            raise UsageError("expected people with and without what is to be told, got one kind; leave the score out")
    mean, scale = features[kept].mean(0), features[kept].std(0).clamp(min=1e-6)
    weight, _ = _logistic((features[kept] - mean) / scale, truth[kept], penalty)
    scores = ((features[held] - mean) / scale) @ weight
    slope, offset = _logistic(scores[:, None], truth[held], 1e-6)
    return Head(mean, scale, weight, float(slope[0]), offset)


def _logistic(features: Tensor, truth: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Weights (F,) and offset that minimise log loss and penalty."""
    parameters = features.new_zeros(features.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(features @ parameters[:-1] + parameters[-1], truth, reduction="sum")
        value = (value + 0.5 * penalty * parameters[:-1].square().sum()) / len(truth)
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)
    found = parameters.detach()
    return found[:-1], float(found[-1])


def calibration_error(chances: Tensor, labels: Tensor) -> float:
    """Expected calibration error over ten bins of equally many people (Naeini et al. 2015).

    The mean distance between the mean probability of a bin and the share of its people with the label.
    """
    order = chances.argsort()
    parts = torch.tensor_split(order, min(_CALIBRATION_BINS, len(order)))
    total = sum(
        len(part) * abs(float(chances[part].mean()) - float(labels[part].double().mean()))
        for part in parts
        if len(part)
    )
    return total / len(order)


def _record_row(items: Tensor, behaviours: Tensor, times: Tensor, now: int) -> list[float]:
    days = ((now - times).double() / DAY_SECONDS).clamp(min=0.0)
    row = [*_counted(days), math.log1p(int((days <= 1).sum())), math.log1p(int((days <= 3).sum()))]
    for number in range(1, len(BEHAVIOURS) + 1):
        row += _counted(days[behaviours == number])
    bought = set(items[behaviours == BEHAVIOURS.index("purchase") + 1].tolist())
    liked = [BEHAVIOURS.index(name) + 1 for name in ("view", "cart", "favourite")]
    open_ = set(items[torch.isin(behaviours, behaviours.new_tensor(liked))].tolist()) - bought
    gaps = times.diff().double() / 3600
    night = (times // 3600 % HOURS < 6).double().mean()
    median = float(gaps.median()) if len(gaps) else 0.0
    return [*row, math.log1p(len(items.unique())), math.log1p(len(open_)), math.log1p(max(0.0, median)), float(night)]


def _counted(days: Tensor) -> list[float]:
    if not len(days):
        return [0.0, math.log1p(_NEVER_DAYS), math.log1p(_NEVER_DAYS)]
    return [math.log1p(len(days)), math.log1p(float(days.min())), math.log1p(float(days.max()))]


@dataclass(frozen=True)
class Heads:
    """The heads of a partner; those that its data could not teach are missing."""

    heads: Mapping[str, Head]
    risk: RiskScale | None

    def scores(self, encoder: ProfileEncoder, histories: Histories, now: int | Tensor) -> dict[str, Tensor]:
        """Scores of everybody at a moment, (U,) each, by name.

        Args:
            encoder: The one they were learnt on.
            histories: With events up to the moment only.
            now: The moment, or each person's own, (U,), in UTC seconds.
        """
        found: dict[str, Tensor] = {}
        if self.heads:
            features = torch.cat([profile_vectors(encoder, histories), record_features(histories, now)], dim=1)
            found = {name: head(features) for name, head in self.heads.items()}
        if self.risk is not None:
            found["risk"] = self.risk(risk_features(encoder, histories))
        return found


def in_words(scores: Mapping[str, Tensor]) -> dict[str, tuple[list[str], list[float]]]:
    """Scores as a profile shows them: the likelier answer of everybody and its probability, by name.

    Conversion and churn are yes or no. Risk is `unusual` where at most one in a hundred lies as far out, else `usual`,
    with the share of people who lie nearer; it is no probability.
    """
    found: dict[str, tuple[list[str], list[float]]] = {}
    for name, values in scores.items():
        chances = values.tolist()
        if name == "risk":
            found[name] = (["unusual" if share >= _UNUSUAL else "usual" for share in chances], chances)
        else:
            words = ["yes" if chance >= 0.5 else "no" for chance in chances]
            found[name] = (words, [max(chance, 1 - chance) for chance in chances])
    return found


def learn_heads(
    encoder: ProfileEncoder,
    histories: Histories,
    until: int,
    generator: torch.Generator,
    *,
    names: Sequence[str] = _NAMES,
) -> Heads:
    """Learn the heads that a partner's own histories can teach.

    Churn is learnt at the moment after which a fifth of the recorded time lies, conversion seven days before its end.

    Args:
        encoder: Frozen; its parameters are left as they are.
        histories: The partner's people.
        until: End of what was recorded, UTC seconds.
        generator: Deals people.
        names: Of the heads that are wanted.
    """
    found: dict[str, Head] = {}
    if histories.has_times:
        first = int(histories.timestamps.min())
        moments = {"churn": until - (until - first) // 5, "conversion": until - CONVERSION_DAYS * DAY_SECONDS}
        for name, moment in moments.items():
            if name not in names or moment <= first:
                continue
            known, rows = before(histories, moment)
            features = torch.cat([profile_vectors(encoder, known), record_features(known, moment)], dim=1)
            if name == "churn":
                labels = churned(histories, rows, moment, until)
            else:
                asked, labels = converted(histories, rows, moment)
                features, labels = features[asked], labels[asked]
            try:
                found[name] = fit_head(features, labels, generator)
            except UsageError:
                continue  # too few people or nothing to tell apart: the score is absent, which harms nothing
    return Heads(found, fit_risk(risk_features(encoder, histories)) if "risk" in names else None)
