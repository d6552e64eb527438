"""What attacks find out in practice, beside what epsilon allows: membership of people, and their attributes.

Both need to know what no party of a deployment does, who was trained on and what people are like, so they run on public
data in a simulation. An attack that fails shows nothing about a better one; epsilon bounds them all.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from silhouette_client.training.private import step_losses
from silhouette_client.training.step import make_engine
from silhouette_shared.config import Plan, with_changes
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.softmax import next_item_losses
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy import epsilon
from silhouette_shared.privacy.budget import Budget, budget_of
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.models import load_encoder
from silhouette_simulations.training import Machine, train_together
from silhouette_simulations.world import PartnerData, World, build_world

Scores = NDArray[np.float64]
Members = NDArray[np.bool_]

RATES = (0.001, 0.01, 0.1)
"""False-positive rates at which an attack is read: what matters is who can be found with hardly any error."""

_PEOPLE_AT_ONCE = 128
_FOLDS = 5
_FEWEST_OF_A_CLASS = 2 * _FOLDS
_LARGEST_GRADIENTS = 2**28  # coordinates held for the attribute probe, 1 GiB
_DIRECTIONS = 100  # main directions of people's gradients that the probe reads


@dataclass(frozen=True)
class OperatingPoint:
    """One attack at one false-positive rate."""

    allowed: float  # false-positive rate asked for
    false_positives: int
    true_positives: int
    non_members: int
    members: int
    limit: float | None  # largest true-positive rate that epsilon and delta allow there; None without privacy
    loose_limit: float | None  # at the largest false-positive rate (99.9 %) that so few people leave plausible

    @property
    def rate(self) -> float:
        """True-positive rate."""
        return self.true_positives / self.members

    @property
    def exceeds(self) -> bool:
        """Whether even the lower end of the rate (one-sided, 99.9 %) lies above the loose limit."""
        if self.loose_limit is None or self.true_positives == 0:
            return False
        low = stats.beta.ppf(0.001, self.true_positives, self.members - self.true_positives + 1)
        return bool(low > self.loose_limit)


@dataclass(frozen=True)
class Membership:
    """How well one attack tells members from non-members."""

    attack: str
    auc: float
    points: tuple[OperatingPoint, ...]


@dataclass(frozen=True)
class Probe:
    """How well one attribute is guessed from something about a person."""

    attribute: str
    source: str
    accuracy: float
    majority: float  # accuracy of always guessing the most frequent class
    balanced_accuracy: float
    auc: float | None  # for two classes


@dataclass(frozen=True)
class AttackReport:
    """All attacks on one plan."""

    plan: Plan
    epsilon: float | None
    people: int
    references: int
    membership: tuple[Membership, ...]
    probes: tuple[Probe, ...]


def membership_limit(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """The largest true-positive rate of any membership attack at a false-positive rate.

    Kairouz, Oh and Viswanath 2015, theorem 2.1, https://arxiv.org/abs/1311.0776.

    >>> round(membership_limit(1.0, 1e-5, 0.01), 4)
    0.0272
    """
    other = 1 - math.exp(-epsilon) * (1 - delta - false_positive_rate)
    return min(1.0, math.exp(min(epsilon, 700.0)) * false_positive_rate + delta, max(other, 0.0))


def halves(people: int, models: int, generator: np.random.Generator) -> Members:
    """Who trains which model, shape (models, people): each model half of them; in pairs of models everybody once."""
    rows: list[Members] = []
    for number in range(models):
        if number % 2 == 0:
            chosen = np.zeros(people, dtype=np.bool_)
            chosen[generator.permutation(people)[: people // 2]] = True
        else:
            chosen = ~rows[-1]
        rows.append(chosen)
    return np.stack(rows)


def rmia_scores(target: Scores, references: Scores) -> Scores:
    """How likely each person is a member: share of others over whom the target prefers them more than usual.

    Zarifzadeh, Liu and Shokri 2024 (RMIA), equation 2 with gamma = 1, https://arxiv.org/abs/2312.03262. The
    references hold models trained with and without each person, so their mean is what the person has without being a
    member or being one, half each.

    Args:
        target: Loss of each person under the attacked model, shape (N,).
        references: The same under the reference models, shape (K, N).
    """
    usual = np.log(np.exp(-references).mean(0))
    ratio = -target - usual
    below = np.searchsorted(np.sort(ratio), ratio, side="left")
    scores: Scores = below / max(1, len(ratio) - 1)
    return scores


def lira_scores(target: Scores, references: Scores, trained_on: Members) -> Scores:
    """Logarithm of how much likelier each person's loss is with than without them, for Gaussian losses.

    Carlini et al. 2022 (LiRA, online, one variance for all because the references are few),
    https://arxiv.org/abs/2112.03570.

    Args:
        target: Loss of each person under the attacked model, shape (N,).
        references: The same under the reference models, shape (K, N).
        trained_on: Which reference was trained on whom, shape (K, N); everybody is in one and out of one at least.
    """
    inside = np.where(trained_on, references, np.nan)
    outside = np.where(trained_on, np.nan, references)
    mean_in, mean_out = np.nanmean(inside, 0), np.nanmean(outside, 0)
    spread_in, spread_out = (
        float(np.sqrt(np.nanmean((values - mean) ** 2)) + 1e-12)
        for values, mean in ((inside, mean_in), (outside, mean_out))
    )
    found = stats.norm.logpdf(target, mean_in, spread_in) - stats.norm.logpdf(target, mean_out, spread_out)
    return np.asarray(found, dtype=np.float64)


def operating_points(
    scores: Scores, members: Members, claimed: float | None, delta: float, rates: Sequence[float] = RATES
) -> tuple[OperatingPoint, ...]:
    """True positives at false-positive rates of at most those asked for.

    Args:
        scores: Higher for likelier members, shape (N,).
        members: Who is one, shape (N,).
        claimed: Epsilon of the attacked model, None without privacy.
        delta: Of that epsilon.
        rates: False-positive rates.
    """
    outside = np.sort(scores[~members])[::-1]
    points = []
    for rate in rates:
        allowed = int(rate * len(outside))
        threshold = outside[allowed]  # strictly above it lie `allowed` non-members at most
        wrong = int((outside > threshold).sum())
        plausible = float(stats.beta.ppf(0.999, wrong + 1, len(outside) - wrong))
        points.append(
            OperatingPoint(
                allowed=rate,
                false_positives=wrong,
                true_positives=int((scores[members] > threshold).sum()),
                non_members=len(outside),
                members=int(members.sum()),
                limit=None if claimed is None else membership_limit(claimed, delta, rate),
                loose_limit=None if claimed is None else membership_limit(claimed, delta, plausible),
            )
        )
    return tuple(points)


def probe(attribute: str, source: str, features: object, labels: NDArray[np.int64], seed: int = 0) -> Probe:
    """Guess an attribute by logistic regression, each fifth of the people from the other four.

    Args:
        attribute: Its name.
        source: What the features are.
        features: Shape (N, F), dense or sparse.
        labels: Class of each person, shape (N,).
        seed: Deals people to fifths.
    """
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    model = LogisticRegression(max_iter=500)
    chances = cross_val_predict(model, features, labels, cv=folds, method="predict_proba")
    classes, counts = np.unique(labels, return_counts=True)
    guessed = classes[chances.argmax(1)]
    return Probe(
        attribute=attribute,
        source=source,
        accuracy=float((guessed == labels).mean()),
        majority=float(counts.max() / counts.sum()),
        balanced_accuracy=float(balanced_accuracy_score(labels, guessed)),
        auc=float(roc_auc_score(labels == classes[1], chances[:, 1])) if len(classes) == 2 else None,
    )


def attack(
    plan: Plan,
    dataset: Dataset,
    machine: Machine,
    *,
    references: int,
    people: int,
    progress: Callable[[str], None] = lambda _: None,
) -> AttackReport:
    """Train a model and its references on halves of some people, and attack it.

    All models are trained by one partner in the way of the plan, through the same messages as always.

    Args:
        plan: Model, objective and privacy; its partners are put together.
        dataset: Public.
        machine: Device and workers.
        references: Reference models, 2 to 64, an even number.
        people: Largest number of people.
        progress: Told what begins.

    Raises:
        UsageError: If there are too few people or references.
    """
    if not (2 <= references <= 64 and references % 2 == 0):
        raise UsageError(f"expected an even number of references from 2 to 64, got {references}; change it")
    alone = with_changes(plan, {"partition.partners": 1, "partition.scheme": "random", "partition.ratios": []})
    if alone.privacy.mode == "distributed":
        alone = with_changes(alone, {"privacy.mode": "local", "aggregation.protocol": "none"})
    world = build_world(alone, dataset)
    source = ReproducibleSource(plan.seed).child("attacks")
    draw = source.child("people").numpy_generator()
    pool = world.pooled()
    if len(pool) < 40:
        raise UsageError(f"{dataset.name}: expected at least 40 people, got {len(pool)}; take another data set")
    rows = np.sort(draw.permutation(len(pool))[:people])
    everybody = _chosen(pool, rows, "everybody")
    budget = budget_of(alone)
    claimed = None if budget is None else epsilon(budget.spending, alone.privacy.delta)
    # The attacked model's half is drawn apart: a reference on just the others would know who its members are.
    drawn = source.child("halves").numpy_generator()
    trained_on = np.concatenate([halves(len(rows), 1, drawn), halves(len(rows), references, drawn)])
    losses = []
    target: ProfileEncoder | None = None
    for number, inside in enumerate(trained_on):
        progress("the attacked model" if number == 0 else f"reference model {number} of {references}")
        encoder = _trained(alone, world, everybody, inside, budget, machine, f"attack-{number}")
        losses.append(_losses(encoder, everybody.known))
        target = target or encoder
    assert target is not None  # noqa: S101 - there is a first model
    members, attacked, others = trained_on[0], losses[0], np.stack(losses[1:])
    attacks = {
        "loss": -attacked,
        "rmia": rmia_scores(attacked, others),
        "lira": lira_scores(attacked, others, trained_on[1:]),
    }
    progress("attributes")
    return AttackReport(
        plan=plan,
        epsilon=claimed,
        people=len(rows),
        references=references,
        membership=tuple(
            Membership(
                attack=name,
                auc=float(roc_auc_score(members, scores)),
                points=operating_points(scores, members, claimed, alone.privacy.delta),
            )
            for name, scores in attacks.items()
        ),
        probes=tuple(_probes(alone, world, everybody.known, target, budget, source)),
    )


def _trained(
    plan: Plan,
    world: World,
    everybody: PartnerData,
    inside: Members,
    budget: Budget | None,
    machine: Machine,
    name: str,
) -> ProfileEncoder:
    with tempfile.TemporaryDirectory(prefix="silhouette-attack-") as folder:
        trained = train_together(
            plan,
            world,
            [_chosen(everybody, np.flatnonzero(inside), "partner-0")],
            name=name,
            budget=budget,
            folder=Path(folder),
            machine=machine,
            on_round=lambda _record, _model: None,
        )
    return load_encoder(plan, world.vocabulary, trained.parameters, torch.device("cpu"))


def _chosen(data: PartnerData, rows: NDArray[np.int64], name: str) -> PartnerData:
    """Some people of a partner, in the order of `rows`."""
    return data.of_people(torch.from_numpy(rows), name)


@torch.no_grad()
def _losses(encoder: ProfileEncoder, histories: Histories) -> Scores:
    """Each person's next-item loss over the latest window, shape (N,)."""
    found = []
    for people in torch.arange(len(histories)).split(_PEOPLE_AT_ONCE):
        batch = histories.training_batch(people, encoder.history_length, None)
        state = encoder(batch).state
        found.append(
            next_item_losses(
                state[..., : encoder.shape.width], encoder.scorer, batch.targets, prior=encoder.constant_part(state)
            )
        )
    losses: Scores = torch.cat(found).double().numpy()
    return losses


def _probes(
    plan: Plan,
    world: World,
    people: Histories,
    encoder: ProfileEncoder,
    budget: Budget | None,
    source: ReproducibleSource,
) -> list[Probe]:
    """Guess declared attributes from people's histories, from what clipping leaves, and from what leaves the partner.

    The attacker of the last two knows everybody else and takes them off, so that one person is left in the sum, and
    knows the main directions of people's gradients.
    """
    mechanism = None if budget is None else budget.training
    histories = _item_weights(people, len(world.vocabulary.categories))
    clipped = _directions(plan, people, encoder)
    draw = source.child("probe noise").numpy_generator()
    sources: dict[str, object] = {"history": histories, "clipped gradient": clipped}
    if mechanism is not None:
        noise = mechanism.noise_std * draw.standard_normal(clipped.shape)
        sources["one release"] = clipped + noise
        sources["all releases, averaged"] = clipped + noise / math.sqrt(_expected_turns(mechanism))
    found = []
    for column, name in enumerate(world.attribute_classes):
        labels = people.attributes[: len(clipped), column].numpy()
        classes, counts = np.unique(labels[labels > 0], return_counts=True)
        frequent = classes[counts >= _FEWEST_OF_A_CLASS]
        known = np.flatnonzero(np.isin(labels, frequent))
        if len(frequent) >= 2:
            for what, features in sources.items():
                found.append(probe(name, what, features[known], labels[known]))  # type: ignore[index]
    return found


def _expected_turns(mechanism: SampledGaussian) -> float:
    return max(1.0, mechanism.steps * mechanism.sampling_rate)


def _item_weights(people: Histories, items: int) -> sparse.csr_matrix:
    """Each person's items, rare ones counting more, scaled to length one, shape (N, V + 1)."""
    owner = np.repeat(np.arange(len(people)), people.lengths.numpy())
    there = sparse.csr_matrix((np.ones(len(owner)), (owner, people.items.numpy())), shape=(len(people), items))
    there.data[:] = 1.0  # once or often is the same here
    frequency = np.asarray(there.sum(0)).ravel()
    weighted = there @ sparse.diags(np.log((1 + len(people)) / (1 + frequency)))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1))).ravel()
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(lengths, 1e-12)) @ weighted)


def _directions(plan: Plan, people: Histories, encoder: ProfileEncoder) -> Scores:
    """People's clipped gradients along their own main directions, in the units of the gradient, shape (N', K).

    The directions are orthonormal, so independent noise on every coordinate is independent noise on each of them.
    """
    layout, privacy = Layout.of(encoder), plan.privacy
    count = min(len(people), max(1, _LARGEST_GRADIENTS // layout.size))
    engine = make_engine(
        "bookkeeping",
        encoder.train(),
        clip_norm=privacy.clip_norm,
        clipping=privacy.clipping,
        stability=privacy.clip_stability,
    )
    losses = step_losses(encoder, people, plan.training, ReproducibleSource(plan.seed).child("probe").torch_generator())
    gradients = torch.zeros(count, layout.size)
    try:
        for person in range(count):
            engine.add(losses(torch.tensor([person])))
            gradients[person] = layout.flatten(engine.take())
    finally:
        engine.close()
    gram = (gradients @ gradients.T).double()
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-9 * values[-1]
    along: Scores = (vectors[:, kept] * values[kept].sqrt()).flip(1)[:, :_DIRECTIONS].numpy()
    return along


def describe(report: AttackReport) -> dict[str, object]:
    """The report as plain JSON values."""
    return {
        "plan": report.plan.name,
        "plan_digest": report.plan.digest,
        "mode": report.plan.privacy.mode,
        "epsilon": report.epsilon,
        "delta": None if report.epsilon is None else report.plan.privacy.delta,
        "people": report.people,
        "references": report.references,
        "membership": [
            {
                "attack": one.attack,
                "auc": one.auc,
                "points": [
                    {**asdict(point), "true_positive_rate": point.rate, "exceeds": point.exceeds}
                    for point in one.points
                ],
            }
            for one in report.membership
        ],
        "attributes": [asdict(one) for one in report.probes],
    }
