"""From what was measured to a verdict: pure arithmetic, so that anybody can repeat it.

Each gate asks one question. Its limits follow from the sample sizes: five standard errors, or a chance of one in a
million, so that an honest run of all gates raises a false alarm in fewer than one of a thousand runs.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import stats

from silhouette_shared.privacy.audit.bounds import declared_shift, gaussian_bound, one_run_bound, shift
from silhouette_shared.privacy.audit.evidence import (
    Canaries,
    Correlations,
    DeclaredMechanism,
    Epsilons,
    Evidence,
    Moments,
    Noise,
    Norms,
    Sampling,
)

GateName = Literal["clipping", "neighbours", "noise", "independence", "sampling", "accounting", "shift", "bounds"]
GATES: tuple[GateName, ...] = get_args(GateName)

QUESTIONS: dict[GateName, str] = {
    "clipping": "Is one person's clipped gradient, recomputed by plain autograd, within the bound?",
    "neighbours": "Does one person change a batch's sum by no more than the bound, whoever else is there?",
    "noise": "Has every coordinate Gaussian noise of the declared size?",
    "independence": "Is the noise of each step and of each partner drawn anew?",
    "sampling": "Is everybody in each step independently with the declared chance?",
    "accounting": "Do the accountants agree?",
    "shift": "Do the canaries move the releases as the declared mechanism would let them?",
    "bounds": "Are the lower bounds on epsilon below the claim?",
}

PEOPLE_ALONE = 1000
UNTOUCHED = 1_000_000
CANARIES = 2000
_ROUNDING = 1e-5  # what float32 may add to a clip norm
_DIFFERENCE = 1e-3  # two float32 ways to one gradient, in clip norms; faults differ by tenths
_ERRORS = 5.0
_SHIFT_ERRORS = 4.0
_CORRELATION = 0.01
_CHANCE = 1e-6
_AGREEMENT = 0.02


@dataclass(frozen=True)
class Check:
    """One measured number and where it has to lie."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it lies there; a number that is not one does not."""
        if not math.isfinite(self.value):
            return False
        return bool((self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most))


@dataclass(frozen=True)
class Gate:
    """A question with the numbers that answer it."""

    name: GateName
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks did."""
        return all(check.passed for check in self.checks)

    @property
    def question(self) -> str:
        """What the gate asks, in words."""
        return QUESTIONS[self.name]

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the checks that did not pass."""
        return tuple(check.name for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Bounds:
    """Lower bounds on epsilon from one run, beside the claim for the same steps."""

    claimed: float
    one_run: float  # proven, with confidence 95 %
    gaussian: float  # if the scores are Gaussian, with confidence 99.9 %


@dataclass(frozen=True)
class Verdict:
    """All gates, and the bounds on epsilon."""

    gates: tuple[Gate, ...]
    bounds: Bounds

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> tuple[GateName, ...]:
        """Gates that did not."""
        return tuple(gate.name for gate in self.gates if not gate.passed)

    def gate(self, name: GateName) -> Gate:
        """The gate of that name."""
        return next(gate for gate in self.gates if gate.name == name)


def judge(evidence: Evidence) -> Verdict:
    """Compute every verdict from the evidence alone.

    Raises:
        ValueError: If the evidence cannot be evaluated, for instance without canaries on both sides.
    """
    shift_gate, bounds_gate, bounds = _canary_gates(evidence)
    return Verdict(
        gates=(
            Gate("clipping", _clipping(evidence.norms)),
            Gate("neighbours", _neighbours(evidence.norms)),
            Gate("noise", _noise(evidence.noise)),
            Gate("independence", _independence(evidence.correlations)),
            Gate("sampling", _sampling(evidence.sampling, evidence.declared)),
            Gate("accounting", _accounting(evidence.epsilons)),
            shift_gate,
            bounds_gate,
        ),
        bounds=bounds,
    )


def _clipping(norms: Norms) -> tuple[Check, ...]:
    return (
        Check("people alone", norms.alone, least=PEOPLE_ALONE),
        Check("of them with one item", norms.one_item, least=1),
        Check("of them with a repeated item", norms.repeated, least=1),
        Check("of them with the longest history", norms.longest, least=1),
        # Where clipping has nothing to do, a wrong norm would not show.
        Check("of them clipped", norms.clipped, least=math.ceil(norms.alone / 2)),
        Check("largest norm of one person / C", norms.largest_alone, most=1 + _ROUNDING),
        Check("difference from autograd / C", norms.difference_alone, most=_DIFFERENCE),
    )


def _neighbours(norms: Norms) -> tuple[Check, ...]:
    return (
        Check("people in batches", norms.together, least=100),
        Check("difference from the sum of each alone / C", norms.difference_together, most=_DIFFERENCE),
        Check("people added to others", norms.neighbours, least=20),
        # The difference of two sums of many: each is rounded at its own size.
        Check("largest change by one person / C", norms.largest_neighbour, most=1 + _DIFFERENCE),
    )


def _moment_checks(where: str, moments: Moments) -> tuple[Check, ...]:
    root = math.sqrt(moments.samples)
    return (
        _standard(f"{where}: mean, z", moments.mean * root),
        _standard(f"{where}: variance, z", (moments.square - 1) * root / math.sqrt(2)),
        _standard(f"{where}: fourth moment, z", (moments.fourth - 3) * root / math.sqrt(96)),
    )


def _standard(name: str, z: float, errors: float = _ERRORS) -> Check:
    return Check(name, float(z), least=-errors, most=errors)


def _noise(noise: Noise) -> tuple[Check, ...]:
    return (
        Check("untouched coordinates", noise.untouched.samples, least=UNTOUCHED),
        *_moment_checks("untouched", noise.untouched),
        *_moment_checks("everywhere", noise.everywhere),
        Check("smallest mean square of a row", noise.least_row, least=0.1),
        Check("chance of the least likely row, times the rows", noise.row_tail, least=_CHANCE),
    )


def _independence(found: Correlations) -> tuple[Check, ...]:
    pooled = found.coordinates * (found.steps - 1)
    return (
        Check("coordinates x steps", pooled, least=UNTOUCHED),
        _correlation("step and next step", found.adjacent, pooled, 1),
        _correlation("any two steps", found.largest_steps, found.coordinates, found.steps * (found.steps - 1) // 2),
        _correlation("two partners", found.partners, pooled, 1),
        _correlation("any steps of two partners", found.largest_partners, found.coordinates, found.steps**2),
        _correlation("inside one release", found.largest_inside, found.coordinates, found.distances),
    )


def _correlation(name: str, value: float, samples: int, tried: int) -> Check:
    """A correlation of independent noise has a standard error of one over the root of the samples.

    The limit is the one that the largest of so many tried exceeds by chance once in a million; where one value
    pools enough samples the limit is 0.01 and far above that.
    """
    limit = float(stats.norm.isf(_CHANCE / (2 * tried))) / math.sqrt(samples)
    if tried == 1:
        limit = max(limit, _CORRELATION)
    return Check(f"correlation, {name}", value, least=-limit, most=limit)


def _sampling(found: Sampling, declared: DeclaredMechanism) -> tuple[Check, ...]:
    rate, people, steps = declared.sampling_rate, found.people, found.steps
    sizes = np.asarray(found.sizes, dtype=np.float64)
    checks = [
        Check("steps without a record", float(steps - len(sizes)), least=0, most=0),
        Check("people counted", float(sum(found.times)), least=people, most=people),
        Check("people more than once in a step", found.twice, least=0, most=0),
    ]
    if rate == 1:
        return (*checks, Check("smallest step", float(sizes.min()), least=people, most=people))
    spread = rate * (1 - rate)
    once = people * spread  # variance of a step's size
    checks.append(_standard("people in all steps, z", (sizes.sum() - people * steps * rate) / math.sqrt(once * steps)))
    # Sizes of batches: a fixed size varies too little, people who come in groups too much.
    squares = float(((sizes - people * rate) ** 2).sum() / once)
    tail = 2 * min(float(stats.chi2.cdf(squares, steps)), float(stats.chi2.sf(squares, steps)))
    checks.append(Check("chance of the variance of the steps' sizes", tail, least=_CHANCE))
    # Turns of a person: an epoch takes everybody equally often.
    times = np.arange(len(found.times))
    dispersion = float((np.asarray(found.times) * (times - steps * rate) ** 2).sum() / (steps * spread))
    kurtosis = 2 + (1 - 6 * spread) / (steps * spread)
    checks.append(
        _standard("variance of the turns of a person, z", (dispersion - people) / math.sqrt(people * kurtosis))
    )
    # Turns one after the other: within an epoch nobody comes twice.
    pairs = steps - 1
    variance = people * (pairs * rate**2 * (1 - rate**2) + 2 * (pairs - 1) * (rate**3 - rate**4))
    checks.append(
        _standard(
            "people in two consecutive steps, z", (found.consecutive - people * pairs * rate**2) / math.sqrt(variance)
        )
    )
    variance = people * steps * rate**2 * (1 - rate**2)
    checks.append(
        _standard(
            "people in the same step at two partners, z",
            (found.shared - people * steps * rate**2) / math.sqrt(variance),
        )
    )
    return tuple(checks)


def _accounting(epsilons: dict[str, Epsilons]) -> tuple[Check, ...]:
    checks = [Check("mechanisms", float(len(epsilons)), least=1)]
    for name, found in epsilons.items():
        checks += [
            Check(f"{name}: PRV less PLD", found.prv - found.pld, least=-_AGREEMENT, most=_AGREEMENT),
            Check(f"{name}: the larger of PRV and PLD, less RDP", max(found.prv, found.pld) - found.rdp, most=0.0),
        ]
    return tuple(checks)


AUDITED = "audited steps"
"""Key of the audited mechanism among `Evidence.epsilons`; its larger tight epsilon is the claim."""


def _canary_gates(evidence: Evidence) -> tuple[Gate, Gate, Bounds]:
    canaries, declared = evidence.canaries, evidence.declared
    scores, included = np.asarray(canaries.scores), canaries.included()
    found = shift(scores, included)
    expected = declared_shift(declared.mechanism(), included, canaries.kept, canaries.generator())
    size = Check("canaries", len(scores), least=CANARIES)
    shift_gate = Gate(
        "shift",
        (
            size,
            _standard("difference of the means, z", _z(found.difference, expected.difference), _SHIFT_ERRORS),
            _standard("standardised difference, z", _z(found.standardised, expected.standardised), _SHIFT_ERRORS),
        ),
    )
    claimed = evidence.epsilons[AUDITED]
    bounds = Bounds(
        claimed=max(claimed.prv, claimed.pld),
        one_run=one_run_bound(scores, included, declared.delta),
        gaussian=gaussian_bound(found, declared.delta),
    )
    bounds_gate = Gate(
        "bounds",
        (
            size,
            Check("one-run lower bound on epsilon", bounds.one_run, most=bounds.claimed),
            Check("Gaussian lower bound on epsilon", bounds.gaussian, most=bounds.claimed),
        ),
    )
    return shift_gate, bounds_gate, bounds


def _z(value: float, expected: tuple[float, float]) -> float:
    mean, spread = expected
    return (value - mean) / spread


__all__ = [
    "AUDITED",
    "CANARIES",
    "GATES",
    "PEOPLE_ALONE",
    "QUESTIONS",
    "UNTOUCHED",
    "Bounds",
    "Canaries",
    "Check",
    "Gate",
    "GateName",
    "Verdict",
    "judge",
]
