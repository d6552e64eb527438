"""An audit: two partners' rehearsals, single people's gradients and the accountants, to one result."""

import copy
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

from silhouette_client.audit.code import code_digests
from silhouette_client.audit.gradients import FEWEST, examine, kept
from silhouette_client.audit.measures import correlations, sampling
from silhouette_client.audit.people import made_up_people, made_up_prior, made_up_vocabulary
from silhouette_client.audit.rehearsal import CANARY_NORM, CanaryEncoder, rehearse
from silhouette_client.training.engine import EngineName
from silhouette_client.training.private import SecretOf
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.audit.evidence import (
    Canaries,
    DeclaredMechanism,
    Evidence,
    included_canaries,
)
from silhouette_shared.privacy.audit.gates import AUDITED, UNTOUCHED
from silhouette_shared.privacy.audit.result import AuditResult, Subject, account, conclude
from silhouette_shared.privacy.budget import budget_of, training_of
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource, SecureSource
from silhouette_shared.wire.agreement import vocabulary_for

PLANNED = "whole plan"
"""Key of the whole run's mechanism among `Evidence.epsilons`."""

_FEWEST_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long an audit is; none of it changes what is audited.

    Raises:
        UsageError: If a number is too small to measure anything.
    """

    steps: int = 60
    canaries: int = 2000
    people: int = 300  # made-up people in training, beside the canaries
    alone: int = 1000  # made-up people whose gradient is computed again, one at a time
    items: int = 300
    seed: int = 0  # of the made-up people, the first model and the canaries' choice

    def __post_init__(self) -> None:
        least = {"steps": _FEWEST_STEPS, "canaries": 100, "people": 20, "alone": 20, "items": 20}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UsageError(f"expected at least {value} {name}, got {getattr(self, name)}; raise it")


def secure(partner: int) -> SecretOf:
    """Fresh secret bytes for each purpose, as a partner has them."""
    del partner
    return lambda _: SecureSource()


def audit(
    plan: Plan,
    settings: Settings,
    *,
    engine: EngineName = "bookkeeping",
    secret: Callable[[int], SecretOf] = secure,
    progress: Callable[[str, float], None] = lambda _stage, _done: None,
) -> AuditResult:
    """Audit the production path on a plan's model and mechanism, with made-up people.

    One partner's release is judged by itself. In the mode `distributed` it has a share of the noise, and the claim is
    what that alone is worth; the whole plan's epsilon stands beside it.

    Args:
        plan: Model, objective and mechanism; its data set is not read.
        settings: How long.
        engine: Under audit.
        secret: For each of the two partners; anything but `secure` makes a result that proves nothing, for tests.
        progress: Told the stage and the finished part of it.

    Raises:
        UsageError: If the plan does not train with privacy.
    """
    budget = budget_of(plan)
    if budget is None or budget.training is None:
        raise UsageError("expected a plan that trains with privacy, got one that does not; there is nothing to audit")
    source = ReproducibleSource(settings.seed).child("audit")
    items = max(settings.items, 2 * plan.training.negatives)
    vocabulary = vocabulary_for(plan, made_up_vocabulary(items, plan.model.content_width, source), budget)
    window = plan.data.history_length
    histories = made_up_people(settings.people, items, window, source.child("training"))
    singles = made_up_people(max(settings.alone, FEWEST), items, window, source.child("alone"))
    included = included_canaries(settings.seed, settings.canaries)
    # Besides the canaries' coordinates, as many as are needed to measure the noise to one part in a thousand.
    excluded = int((~included).sum())
    coordinates = settings.canaries + max(0, -(-UNTOUCHED // settings.steps) - excluded)
    first = CanaryEncoder(plan, vocabulary, coordinates)
    first.initialise(source.child("model").torch_generator())
    first.set_prior(made_up_prior(first.prior_size, source))
    layout = Layout.of(first)
    planned = training_of(
        plan, beside=budget.statistics, people_bound=settings.people + int(included.sum()), size=layout.size
    )
    mechanism = planned.after(settings.steps)
    encoders = [copy.deepcopy(first) for _ in range(2)]
    here, there = (
        rehearse(
            encoder,
            histories,
            included,
            plan,
            mechanism,
            engine=engine,
            secret=secret(partner),
            progress=_counted(f"training of partner {partner + 1} of 2", settings.steps, progress),
        )
        for partner, encoder in enumerate(encoders)
    )
    norms = examine(
        encoders[0],
        singles,
        plan,
        alone=settings.alone,
        engine=engine,
        source=source.child("gradients"),
        progress=_counted("gradients of single people", settings.alone, progress),
    )
    progress("accounting", 0.0)
    delta, declared = plan.privacy.delta, _alone(mechanism)
    evidence = Evidence(
        declared=DeclaredMechanism.of(declared, delta),
        norms=norms,
        noise=here.meter.noise(),
        correlations=correlations(here.meter, there.meter),
        sampling=sampling(here.samples, there.samples, here.people),
        canaries=Canaries(seed=settings.seed, scores=tuple(here.scores.tolist()), kept=kept(plan.privacy, CANARY_NORM)),
        epsilons={AUDITED: account(declared, delta), PLANNED: account((*budget.statistics, planned), delta)},
    )
    progress("accounting", 1.0)
    return conclude(_subject(plan, layout, engine), evidence)


def _alone(mechanism: SampledGaussian) -> SampledGaussian:
    """What one partner's release is by itself: where the noise is made up of shares, it has one of them."""
    share = mechanism.noise_multiplier / math.sqrt(mechanism.shares)
    return replace(mechanism, noise_multiplier=share, shares=1)


def _counted(stage: str, total: int, progress: Callable[[str, float], None]) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(stage, done / total)

    return step


def _subject(plan: Plan, layout: Layout, engine: EngineName) -> Subject:
    return Subject(
        plan=plan.name,
        plan_digest=plan.digest,
        layout_digest=layout.digest,
        coordinates=layout.size,
        code=code_digests(),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "opacus", "dp-accounting", "numpy", "scipy", "cryptography")},
        },
        engine=engine,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
