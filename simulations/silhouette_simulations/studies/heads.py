"""Do conversion and churn scores say more than logistic regression on recency, frequency and value?

Everything a score reads lies before its moment, what it is asked about after it, and the encoder is trained on events
before the moment alone. People are dealt to five folds; each is scored by heads that learnt from the other four.
"""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from silhouette_client.profiles.heads import (
    CONVERSION_DAYS,
    DAY_SECONDS,
    before,
    calibration_error,
    churned,
    converted,
    fit_head,
    profile_vectors,
    record_features,
    rfm_features,
)
from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import Interval
from silhouette_simulations.studies.bench import Bench, StudyTable, alone, whole_histories
from silhouette_simulations.world import build_world

_FOLDS = 5
_RESAMPLES = 500
COLUMNS = ("score", "from", "people", "rate", "AUC", "above RFM", "calibration error")


def heads(bench: Bench) -> StudyTable:
    """Compare heads on the vector, on the record in numbers, and on both, with RFM."""
    world = build_world(bench.plan, bench.dataset)
    whole = whole_histories(bench, world)
    if not whole.has_times:
        raise UsageError(f"{bench.dataset.name}: expected times, got a data set without; take ml-100k or taobao")
    first, until = int(whole.timestamps.min()), int(whole.timestamps.max()) + 1
    moments = {"churn": until - (until - first) // 5, "conversion": until - CONVERSION_DAYS * DAY_SECONDS}
    rows: list[dict[str, object]] = []
    for name, moment in moments.items():
        known, people = before(whole, moment)
        if name == "churn":
            asked, labels = torch.ones_like(people, dtype=torch.bool), churned(whole, people, moment, until)
        else:
            asked, labels = converted(whole, people, moment)
        if not 0 < int(labels[asked].sum()) < int(asked.sum()):
            bench.say(f"{name}: nothing to tell apart in these data")
            continue
        encoder = bench.train(f"heads/{name}", world, [alone(known)])
        bench.say(f"{name}: {int(asked.sum()):,} people, {float(labels[asked].double().mean()):.3f} of them")
        record, vector = record_features(known, moment)[asked], profile_vectors(encoder, known)[asked]
        sources = {
            "RFM": rfm_features(known, moment)[asked],
            "record in numbers": record,
            "frozen profile": vector,
            "profile and record": torch.cat([vector, record], dim=1),
        }
        rows += _compared(bench, name, sources, labels[asked])
    return StudyTable(
        "conversion and churn",
        COLUMNS,
        tuple(rows),
        (f"{_FOLDS} folds over people; intervals are paired bootstraps over people, 95 %",),
    )


def _compared(bench: Bench, name: str, sources: dict[str, Tensor], labels: Tensor) -> list[dict[str, object]]:
    chances = {source: _held_out(bench, name, features, labels) for source, features in sources.items()}
    truth = labels.cpu().numpy()
    rows: list[dict[str, object]] = []
    for source, found in chances.items():
        rows.append(
            {
                "score": name,
                "from": source,
                "people": len(labels),
                "rate": float(labels.double().mean()),
                "AUC": float(roc_auc_score(truth, found.cpu().numpy())),
                "above RFM": None
                if source == "RFM"
                else auc_difference(truth, found.cpu().numpy(), chances["RFM"].cpu().numpy(), seed=0),
                "calibration error": calibration_error(found, labels),
            }
        )
    return rows


def _held_out(bench: Bench, name: str, features: Tensor, labels: Tensor) -> Tensor:
    """Chances of everybody, each fold by a head of the other four, (U,)."""
    # The same folds and the same calibration people for every source, so that what differs is what was read.
    order = torch.randperm(len(labels), generator=bench.draw(name, "folds"), device=labels.device)
    chances = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    for number, fold in enumerate(torch.tensor_split(order, _FOLDS)):
        others = torch.ones_like(labels)
        others[fold] = False
        head = fit_head(features[others], labels[others], bench.draw(name, "calibration", str(number)))
        chances[fold] = head(features[fold])
    return chances


def auc_difference(truth: np.ndarray, left: np.ndarray, right: np.ndarray, *, seed: int) -> Interval:
    """AUC of left less that of right over the same people, with a paired percentile bootstrap at 95 %.

    Args:
        truth: Shape (U,), bool.
        left: Scores, shape (U,).
        right: Scores of the same people.
        seed: Of the resamples.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    found: list[float] = []
    while len(found) < _RESAMPLES:
        rows = draw.integers(0, len(truth), len(truth))
        if truth[rows].all() or not truth[rows].any():
            continue  # without both kinds there is no AUC
        found.append(roc_auc_score(truth[rows], left[rows]) - roc_auc_score(truth[rows], right[rows]))
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return Interval(float(roc_auc_score(truth, left) - roc_auc_score(truth, right)), low, high)
