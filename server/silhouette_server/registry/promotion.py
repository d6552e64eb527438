"""Whether a model may take the place of the promoted one: a decision on figures that carry known noise.

The promoted model's place is held until the candidate is shown to be no worse than it by more than a margin, overall
and where it is worst: the lower end of a one-sided confidence interval of the difference must not lie below minus the
margin (a test of non-inferiority; Wellek 2010, Testing Statistical Hypotheses of Equivalence and Noninferiority,
section 1.2). So noise that is too large refuses, and says so, where a plain comparison would toss a coin.

The noise of the privacy is known and in the figures. That other people might have been measured is not in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from silhouette_shared.cards.documents import Card, Evaluation, Figure, Quality
from silhouette_shared.errors import RefusedError, UsageError


class NotBetterError(RefusedError):
    """The candidate is worse than the promoted model, or it is not shown that it is not."""


@dataclass(frozen=True)
class Margin:
    """How much worse a candidate may be, and how sure one has to be that it is no worse than that.

    Args:
        worse: In the units of the metric; 0 or more.
        confidence: One-sided, above 0.5 and below 1.
    """

    worse: float
    confidence: float

    def __post_init__(self) -> None:
        """Refuse what no comparison could use."""
        if not (0 <= self.worse < math.inf and 0.5 < self.confidence < 1):
            raise UsageError(
                "expected a margin of 0 or more and a confidence above 0.5 and below 1, got "
                f"{self.worse} and {self.confidence}; change the plan's [promotion]"
            )


@dataclass(frozen=True)
class Difference:
    """Candidate minus promoted, in the metric's units, and the lower end of its interval."""

    where: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison that allows the promotion."""

    differences: tuple[Difference, ...]  # empty where there was nothing to compare with
    text: str


def compare(candidate: Card, promoted: Card | None, margin: Margin) -> Verdict:
    """Say why a candidate may be promoted.

    Args:
        candidate: Its card, whose other checks have passed.
        promoted: The card of the promoted model; None before the first promotion.
        margin: Of the candidate's plan.

    Raises:
        NotBetterError: If it may not; the figures are in the message.
        UsageError: If the two were not measured by the same metric, or not at all.
    """
    if promoted is None:
        return Verdict((), "the first promotion: there is no model to compare with")
    ours, theirs, metric = _qualities(candidate, promoted)
    pairs: list[tuple[str, Figure, Figure]] = [("overall", ours.overall, theirs.overall)]
    if ours.worst is None or theirs.worst is None:
        raise UsageError(
            f"{candidate.reference}: expected figures of the partner where each model is worst, got none; evaluate "
            "again with a plan whose partners answer on their own"
        )
    pairs.append(("worst partner", ours.worst, theirs.worst))
    width = NormalDist().inv_cdf(margin.confidence)
    found = tuple(_difference(where, one, other, width) for where, one, other in pairs)
    for one in found:
        if one.high < -margin.worse:
            raise NotBetterError(
                f"{candidate.reference}: expected a model no worse than {promoted.reference} by more than "
                f"{margin.worse:g}, got {metric} {one.value:+.4f} ({one.where}, at most {one.high:+.4f}); keep the "
                "promoted one"
            )
    for one in found:
        if one.low < -margin.worse:
            raise NotBetterError(
                f"{candidate.reference}: expected to be sure at {margin.confidence:.0%} that it is no worse than "
                f"{promoted.reference} by more than {margin.worse:g}, got {metric} {one.value:+.4f} ({one.where}, "
                f"between {one.low:+.4f} and {one.high:+.4f}); evaluate more people or spend more on the evaluation"
            )
    told = "; ".join(f"{one.where} {one.value:+.4f} (at least {one.low:+.4f})" for one in found)
    return Verdict(found, f"{metric} against {promoted.reference}: {told}; margin {margin.worse:g}")


def _qualities(candidate: Card, promoted: Card) -> tuple[Quality, Quality, str]:
    """Both models' figures, from one evaluation where there is one, and the metric's name."""
    measured = _evaluation(candidate)
    if promoted.model in measured.beside:
        return measured.quality, measured.beside[promoted.model], measured.metric
    before = _evaluation(promoted)
    if before.metric != measured.metric:
        raise UsageError(
            f"{candidate.reference}: expected figures of {before.metric}, as {promoted.reference} has, got "
            f"{measured.metric}; evaluate both in one evaluation"
        )
    return measured.quality, before.quality, measured.metric


def _evaluation(card: Card) -> Evaluation:
    if card.evaluation is None:
        raise UsageError(
            f"{card.reference}: expected a charged evaluation on its card, got none; run one, or give the evaluation's "
            "share to the plan"
        )
    return card.evaluation


def _difference(where: str, ours: Figure, theirs: Figure, width: float) -> Difference:
    value = ours.value - theirs.value
    reach = width * math.hypot(ours.noise_std, theirs.noise_std)
    return Difference(where, value, value - reach, value + reach)
