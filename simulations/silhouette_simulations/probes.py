"""What a finished model is good for beside its ranking.

Attributes that a linear probe reads in the profiles, explanations that hold, and what eight bits lose.

The profile of a probe is frozen: the vector, the dimension weights and the dimension tokens after the last event, of a
model that never saw a declared attribute, and the tastes, which are learnt without labels. Only then is a person of
the held-out fifth unknown to all of it.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor, nn

from silhouette_client.profiles.explain import Faithfulness, faithfulness
from silhouette_client.profiles.tastes import learn_tastes
from silhouette_shared.config import Plan
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.evaluation import (
    AttributeScore,
    Interval,
    attribute_scores,
    paired_bootstrap,
    person_figures,
)
from silhouette_shared.model.histories import UNKNOWN, Histories
from silhouette_shared.model.quantised import export_int8, load_int8, size_bytes
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.models import load_encoder
from silhouette_simulations.rows import CUTOFF, mean_figures, rank_quickly
from silhouette_simulations.world import PartnerData, World

_FOLDS = 5
_ENCODER_PENALTY = 0.01  # inverse strength, as scikit-learn counts: dense, standardised columns
_TASTES_PENALTY = 2.0  # rows of about length one
_ENCODER_LENGTH = 0.6  # of what the encoder says of a person, beside the tastes
_WORDS_PENALTY = 1.0  # of the TF-IDF row, where it does best on gender
_PEOPLE_AT_ONCE = 256


@dataclass(frozen=True)
class ProbeScore:
    """How well a linear probe reads an attribute, each fifth of the people from the other four."""

    source: str  # encoder, tastes, profile (both together), or tf-idf of the items
    columns: int
    score: AttributeScore


@dataclass(frozen=True)
class Compressed:
    """What rounding the item table to 8 bits costs and saves."""

    bytes_before: int
    bytes_after: int
    ndcg_before: float
    ndcg_after: float
    difference: Interval  # of NDCG@10 after less before, paired over people


@dataclass(frozen=True)
class Findings:
    """Everything that is asked of a finished model."""

    hr_at_10: float
    ndcg_at_10: float
    probes: tuple[ProbeScore, ...]
    faithful: Faithfulness
    int8: Compressed


def profile_features(encoder: ProfileEncoder, histories: Histories) -> Tensor:
    """Vector, dimension weights and dimension tokens of everybody, declared attributes hidden, (U, H + K + K H).

    Args:
        encoder: Trained.
        histories: On the encoder's device.
    """
    hidden = replace(histories, attributes=torch.full_like(histories.attributes, UNKNOWN))
    tokens: list[Tensor] = []

    def note(_module: nn.Module, _given: object, output: tuple[Tensor, Tensor]) -> None:
        token, present = output
        tokens.append(token * present[..., None])

    encoder.eval()
    handles = [part.register_forward_hook(note) for part in encoder.dimensions.values()]
    found = []
    try:
        with torch.no_grad():
            for people in torch.arange(len(hidden), device=hidden.items.device).split(_PEOPLE_AT_ONCE):
                tokens.clear()
                batch = hidden.batch(people, encoder.history_length)
                profile = encoder(batch)
                parts = [profile.vector, profile.weights, *tokens]
                found.append(torch.cat([at_last(part, batch.lengths) for part in parts], dim=-1))
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found)


def probe_attributes(
    features: Tensor,
    tastes: NDArray[np.float32] | None,
    known: Histories,
    attributes: dict[str, tuple[str, ...]],
    items: int,
    seed: int = 0,
) -> tuple[ProbeScore, ...]:
    """Linear probes of every attribute from the profiles, of their parts, and of TF-IDF of the items in the same folds.

    Args:
        features: Of `profile_features`, shape (U, F).
        tastes: Of the same people, shape (U, T); None where they are too few for any.
        known: The same people's histories.
        attributes: Classes of each attribute.
        items: Of the catalogue, V.
        seed: Deals people to folds.
    """
    encoder = features.cpu().double().numpy()
    sources: list[tuple[str, Any, Pipeline]] = [("encoder", encoder, _probe_of_encoder())]
    if tastes is not None:
        both = np.concatenate([encoder, tastes], axis=1)
        sources += [
            ("tastes", tastes, make_pipeline(_logistic(_TASTES_PENALTY))),
            ("profile", both, _probe_of_profiles(encoder.shape[1])),
        ]
    sources.append(("tf-idf of the items", _item_counts(known, items), _probe_of_words()))
    found = []
    for column, (name, classes) in enumerate(attributes.items()):
        truth = known.attributes[:, column].cpu() - 1
        for source, values, model in sources:
            chances = _held_out(values, truth.numpy(), len(classes), model, seed)
            score = attribute_scores(name, torch.from_numpy(chances), truth)
            found.append(ProbeScore(source, values.shape[1], score))
    return tuple(found)


def compress(encoder: ProfileEncoder, partner: PartnerData, device: torch.device) -> Compressed:
    """Rank everybody's next event with the table as it is and rounded; the encoder stays as it was."""
    whole = {name: value.detach().clone() for name, value in encoder.named_parameters()}
    before = rank_quickly(encoder, partner, device)
    small = export_int8(encoder)
    load_int8(encoder, small)
    try:
        after = rank_quickly(encoder, partner, device)
    finally:
        with torch.no_grad():
            for name, value in encoder.named_parameters():
                value.copy_(whole[name])
    (_, whole_gains), (_, small_gains) = (person_figures(ranks, partner.asked, CUTOFF) for ranks in (before, after))
    draw = ReproducibleSource(0).child("int8").torch_generator()
    return Compressed(
        bytes_before=size_bytes(whole),
        bytes_after=size_bytes(small),
        ndcg_before=float(whole_gains.mean()),
        ndcg_after=float(small_gains.mean()),
        difference=paired_bootstrap(small_gains, whole_gains, generator=draw),
    )


def examine(
    plan: Plan, world: World, parameters: Tensor, device: torch.device, *, people: int, seed: int = 0
) -> Findings:
    """Probes, faithfulness and compression of a finished run's model.

    Args:
        plan: Of the run.
        world: As the plan deals it.
        parameters: Of the model, (D,) or (D + P,).
        device: Where the model runs.
        people: Whose explanations are checked, drawn at random.
        seed: Of that draw and of the folds.

    Raises:
        UsageError: If the model was trained on declared attributes, so that no probe of them is held out.
    """
    if plan.training.attribute_weight > 0 or "demographics" in plan.model.dimensions:
        raise UsageError(
            "expected a plan that reads no declared attribute, for a probe to be held out; "
            "set training.attribute_weight = 0 and leave demographics out of model.dimensions"
        )
    encoder = load_encoder(plan, world.vocabulary, parameters, device)
    everybody = world.pooled()
    known = everybody.known.to(device)
    hits, gain = mean_figures([everybody], [rank_quickly(encoder, everybody, device)])
    source = ReproducibleSource(seed).child("examine")
    tastes = learn_tastes(everybody.known, world.vocabulary.items, seed)
    chosen = torch.randperm(len(everybody), generator=source.child("people").torch_generator())[:people]
    return Findings(
        hr_at_10=hits,
        ndcg_at_10=gain,
        probes=probe_attributes(
            profile_features(encoder, known),
            None if tastes is None else tastes(everybody.known),
            known,
            world.attribute_classes,
            world.vocabulary.items,
            seed,
        ),
        faithful=faithfulness(
            encoder, known, chosen.tolist(), generator=source.child("random events").torch_generator()
        ),
        int8=compress(encoder, everybody, device),
    )


def describe(findings: Findings) -> dict[str, Any]:
    """The findings as plain JSON values."""
    return asdict(findings)


def _logistic(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=1000)


def _probe_of_encoder() -> Pipeline:
    return make_pipeline(StandardScaler(), _logistic(_ENCODER_PENALTY))


def _probe_of_profiles(columns: int) -> Pipeline:
    """Of what the encoder says, in the first `columns`, brought to the length of the tastes behind it."""
    scale = _ENCODER_LENGTH / columns**0.5
    encoder = make_pipeline(StandardScaler(), FunctionTransformer(_scaled, kw_args={"scale": scale}))
    joined = ColumnTransformer([("encoder", encoder, slice(0, columns))], remainder="passthrough")
    return make_pipeline(joined, _logistic(_TASTES_PENALTY))


def _scaled(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    return values * scale


def _probe_of_words() -> Pipeline:
    return make_pipeline(TfidfTransformer(sublinear_tf=True), _logistic(_WORDS_PENALTY))


def _held_out(
    values: object, truth: NDArray[np.int64], classes: int, model: Pipeline, seed: int
) -> NDArray[np.float64]:
    """Chances of every class for everybody, zero for those whose class is unknown, (U, classes)."""
    known = truth >= 0
    enough = np.bincount(truth[known]).max() >= _FOLDS  # else no class reaches into every fold
    folds = (StratifiedKFold if enough else KFold)(_FOLDS, shuffle=True, random_state=seed)
    chances = np.zeros((len(truth), classes))
    found = cross_val_predict(model, values[known], truth[known], cv=folds, method="predict_proba")  # type: ignore[index]
    chances[np.ix_(known, np.unique(truth[known]))] = found
    return chances


def _item_counts(known: Histories, items: int) -> sparse.csr_matrix:
    """How often each person had each item, (U, V + 1)."""
    columns, offsets = known.items.cpu().numpy(), known.offsets.cpu().numpy()
    counts = sparse.csr_matrix((np.ones(len(columns)), columns, offsets), shape=(len(known), items + 1))
    counts.sum_duplicates()
    return counts
