"""What a finished model is good for beside its ranking.

Attributes that a linear probe reads in the profiles, explanations that hold, and what eight bits lose.

The profile of a probe is frozen: the vector, the dimension weights and the dimension tokens after the last event, of a
model that never saw a declared attribute. Only then is a person of the held-out fifth unknown to both.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from silhouette_client.profiles.explain import Faithfulness, faithfulness
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
from silhouette_simulations.rows import CUTOFF, mean_figures, rank_quickly
from silhouette_simulations.training import load_encoder
from silhouette_simulations.world import PartnerData, World

_FOLDS = 5
_PROFILE_PENALTY = 0.01  # inverse strength, as scikit-learn counts: dense, standardised columns
_WORDS_PENALTY = 1.0  # of the TF-IDF row, where it does best on gender
_PEOPLE_AT_ONCE = 256


@dataclass(frozen=True)
class ProbeScore:
    """How well a linear probe reads an attribute, each fifth of the people from the other four."""

    source: str  # profile, or tf-idf of the items
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
    features: Tensor, known: Histories, attributes: dict[str, tuple[str, ...]], items: int, seed: int = 0
) -> tuple[ProbeScore, ...]:
    """Linear probes of every attribute from the profiles, and beside them from TF-IDF of the items in the same folds.

    Args:
        features: Of `profile_features`, shape (U, F).
        known: The same people's histories.
        attributes: Classes of each attribute.
        items: Of the catalogue, V.
        seed: Deals people to folds.
    """
    words = _item_counts(known, items)
    found = []
    for column, (name, classes) in enumerate(attributes.items()):
        truth = known.attributes[:, column].cpu() - 1
        for source, values, model in (
            ("profile", features.cpu().double().numpy(), _probe_of_profiles()),
            ("tf-idf of the items", words, _probe_of_words()),
        ):
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
    chosen = torch.randperm(len(everybody), generator=source.child("people").torch_generator())[:people]
    return Findings(
        hr_at_10=hits,
        ndcg_at_10=gain,
        probes=probe_attributes(
            profile_features(encoder, known), known, world.attribute_classes, world.vocabulary.items, seed
        ),
        faithful=faithfulness(
            encoder, known, chosen.tolist(), generator=source.child("random events").torch_generator()
        ),
        int8=compress(encoder, everybody, device),
    )


def describe(findings: Findings) -> dict[str, Any]:
    """The findings as plain JSON values."""
    return asdict(findings)


def _probe_of_profiles() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=_PROFILE_PENALTY, max_iter=1000))


def _probe_of_words() -> Pipeline:
    return make_pipeline(TfidfTransformer(sublinear_tf=True), LogisticRegression(C=_WORDS_PENALTY, max_iter=1000))


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
