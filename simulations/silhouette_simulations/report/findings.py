"""What a run shows, in plain sentences computed from its numbers, whichever way they came out."""

from __future__ import annotations

from dataclasses import dataclass

from silhouette_shared.model.evaluation import Interval
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.report.comparison import paired_difference
from silhouette_simulations.report.reading import Row, Run

_BASELINES = ("popularity", "transition_counts", "ease")


@dataclass(frozen=True)
class Finding:
    """One sentence, and the paired difference it rests on, where it rests on one."""

    sentence: str
    compared: str = ""  # "left minus right"
    interval: Interval | None = None


def findings(run: Run) -> tuple[Finding, ...]:
    """One to five findings; what the run does not hold is left out.

    A difference counts as shown where the 95 % interval of the paired bootstrap over people
    leaves out 0.
    """
    found = [
        *_federation(run),
        *_pooling(run),
        *_baselines(run),
        *_cost(run),
        *_against_popularity(run),
    ]
    return tuple(found) or (Finding("This run holds only one kind of row, so there is nothing to compare."),)


def score(value: float) -> str:
    """A quality figure with three decimals, without a negative zero.

    >>> score(0.0937), score(-0.0001)
    ('0.094', '0.000')
    """
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


def setting(value: float | None) -> str:
    """A setting or an epsilon with as many digits as it needs, at most four.

    >>> setting(1e-5), setting(1.8301), setting(None)
    ('1e-5', '1.83', '–')
    """
    return "–" if value is None else f"{value:.4g}".replace("e-0", "e-")


def _federation(run: Run) -> list[Finding]:
    together, alone = run.row("federated"), run.row("local_only")
    if together is None:
        return []
    if alone is None:
        return [Finding(f"Training together reaches an NDCG@10 of {score(together.ndcg_at_10)}.")]
    start = (
        f"Training together reaches an NDCG@10 of {score(together.ndcg_at_10)} where partners "
        f"who train alone reach {score(alone.ndcg_at_10)}"
    )
    return _finding(
        run,
        together,
        alone,
        above=f"{start}: federation gains {{amount}}.",
        below=f"{start}: here federation loses {{amount}}, and partners do better alone.",
        unclear=f"{start}; with these people that is no clear gain.",
    )


def _pooling(run: Run) -> list[Finding]:
    pooled, together = run.row("pooled"), run.row("federated")
    if pooled is None or together is None:
        return []
    start = f"Pooling all records in one place, which the partners may not do, reaches {score(pooled.ndcg_at_10)}"
    return _finding(
        run,
        pooled,
        together,
        above=f"{start}: keeping them apart costs {{amount}}.",
        below=(
            f"{start}, {{amount}} less than training together; pooling should not lose, so its settings deserve a look."
        ),
        unclear=f"{start}, no clear difference to training together.",
    )


def _baselines(run: Run) -> list[Finding]:
    together = run.row("federated")
    baselines = [row for row in run.rows if row.name in _BASELINES]
    if together is None or not baselines:
        return []
    best = max(baselines, key=lambda row: row.ndcg_at_10)
    named = f"the strongest simple baseline, {_lower(best.label)}, which reaches "
    named += f"{score(best.ndcg_at_10)} by counting over all records in one place"
    return _finding(
        run,
        together,
        best,
        above=f"Training together is {{amount}} above {named}.",
        below=f"Training together is {{amount}} below {named}.",
        unclear=f"Training together is not clearly different from {named}.",
    )


def _cost(run: Run) -> list[Finding]:
    private, together = run.row("federated_private"), run.row("federated")
    if private is None:
        if run.privacy.mode == "none":
            return [Finding("Privacy was off; what it would cost, this run cannot say.")]
        return []
    budget = ""
    if run.privacy.epsilon is not None:
        budget = f" (epsilon {run.privacy.epsilon:.2f}"
        budget += f" at delta {setting(run.privacy.delta)})" if run.privacy.delta else ")"
    start = f"With privacy{budget}, training together reaches {score(private.ndcg_at_10)}"
    if together is None:
        return [Finding(f"{start}.")]
    return _finding(
        run,
        together,
        private,
        above=f"{start}: privacy costs {{amount}}.",
        below=(
            f"{start}, {{amount}} more than without; noise should not help, so the settings "
            "without privacy deserve a look."
        ),
        unclear=f"{start}; with these people that is no clear cost.",
        base=together,
    )


def _against_popularity(run: Run) -> list[Finding]:
    private, popular = run.row("federated_private"), run.row("popularity")
    if private is None or popular is None:
        return []
    everybody = f"showing everybody the most popular items ({score(popular.ndcg_at_10)})"
    return _finding(
        run,
        private,
        popular,
        above=(
            f"The private model is {{amount}} above {everybody}: what it learnt under privacy is more than popularity."
        ),
        below=(
            f"The private model is {{amount}} below {everybody}: at this privacy and with so few "
            "people, popularity recommends better."
        ),
        unclear=(
            f"The private model is not clearly different from {everybody}: this run does not "
            "show that it learnt more than popularity."
        ),
    )


def _finding(
    run: Run,
    left: Row,
    right: Row,
    *,
    above: str,
    below: str,
    unclear: str,
    base: Row | None = None,
) -> list[Finding]:
    """Choose the sentence by the interval of left - right; {amount} is filled in, always positive.

    The amount is also given as a share of `base`, or of `right` without one.
    """
    source = ReproducibleSource(0).child("compare")  # as `compare` does by default
    gains = [run.ranks[row.name].gains() for row in (left, right)]
    interval = paired_difference(gains[0], gains[1], source=source)
    base = base or right
    amount = score(abs(interval.mean))
    if base.ndcg_at_10 > 0:
        amount += f" ({100 * abs(interval.mean) / base.ndcg_at_10:.0f}\u00a0%)"
    sentence = above if interval.low > 0 else below if interval.high < 0 else unclear
    compared = f"{left.label} minus {_lower(right.label)}"
    return [Finding(sentence.replace("{amount}", amount), compared, interval)]


def _lower(label: str) -> str:
    """The label inside a sentence; an abbreviation keeps its capitals.

    >>> _lower("Transition counts"), _lower("EASE")
    ('transition counts', 'EASE')
    """
    return label if label[:2].isupper() else label[:1].lower() + label[1:]
