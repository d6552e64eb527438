"""How far a linear probe of frozen profiles reads gender, in several ways of fitting it.

python simulations/benchmarks/gender_probe.py runs/ml-1m-… [--only inside-loss]

The profile is what `silhouette sim examine` probes: what the encoder says of a person, standardised and brought to one
length, beside the tastes, learnt without a label. Whatever is chosen is chosen inside the four training folds, by
three folds of their own; nobody of the held-out fifth is looked at. Three to five minutes of one core for all.
"""

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from silhouette_client.profiles.tastes import learn_tastes
from silhouette_simulations.cli.sim import finished_run
from silhouette_simulations.models import load_encoder
from silhouette_simulations.probes import profile_features

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

FOLDS, INNER = 5, 3


class Way(NamedTuple):
    """One way to fit: the length of the encoder's columns, how even those of tastes are made, the inverse penalty."""

    length: float = 0.6
    whitening: float = 0.0  # columns times their root mean square to the minus this; 1 would make them even
    strength: float = 2.0


STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
CHOICES: Final[dict[str, tuple[tuple[Way, ...], str]]] = {
    "as-built": ((Way(),), "loss"),
    "inside-loss": (tuple(Way(strength=one) for one in STRENGTHS), "loss"),
    "inside-accuracy": (tuple(Way(strength=one) for one in STRENGTHS), "accuracy"),
    "scaling": (tuple(Way(*one) for one in product((0.6, 1.2), (0.0, 0.25, 0.5), (1.0, 2.0, 4.0, 8.0))), "loss"),
}
"""What is chosen from, and by what: the loss or the accuracy of the inner folds."""


class People(NamedTuple):
    """What is known of everybody, and what is asked."""

    encoder: Matrix  # (U, F)
    tastes: Matrix  # (U, K)
    gender: Labels  # (U,), 0 or 1


def columns(people: People, taught: Labels, way: Way) -> Matrix:
    """Everybody's columns, with scales from those who teach, (U, F + K)."""
    told = people.encoder[taught]
    encoder = (people.encoder - told.mean(0)) / (told.std(0) + 1e-9)
    size = np.sqrt((people.tastes[taught] ** 2).mean(0)) + 1e-12
    weights = size**-way.whitening
    weights *= np.linalg.norm(people.tastes[taught]) / np.linalg.norm(people.tastes[taught] * weights)
    return np.concatenate([encoder * (way.length / encoder.shape[1] ** 0.5), people.tastes * weights], axis=1)


def chances(people: People, taught: Labels, asked: Labels, way: Way) -> Matrix:
    """Of class 1, for those who are asked."""
    made = columns(people, taught, way)
    model = LogisticRegression(C=way.strength, solver="newton-cholesky", max_iter=100)
    found: Matrix = model.fit(made[taught], people.gender[taught]).predict_proba(made[asked])[:, 1]
    return found


def chosen(people: People, taught: Labels, ways: tuple[Way, ...], by: str, seed: int) -> Way:
    """The best way by folds of those who teach."""
    if len(ways) == 1:
        return ways[0]
    folds = list(StratifiedKFold(INNER, shuffle=True, random_state=seed).split(taught, people.gender[taught]))

    def worth(way: Way) -> float:
        found = np.zeros(len(taught))
        for some, others in folds:
            found[others] = chances(people, taught[some], taught[others], way)
        truth = people.gender[taught]
        return float(accuracy_score(truth, found > 0.5)) if by == "accuracy" else -float(log_loss(truth, found))

    return max(ways, key=worth)


def logistic(people: People, name: str) -> Callable[[Labels, Labels], tuple[Matrix, str]]:
    """How one of `CHOICES` answers for the held-out fifth, and what it chose."""
    ways, by = CHOICES[name]

    def answer(taught: Labels, asked: Labels) -> tuple[Matrix, str]:
        way = chosen(people, taught, ways, by, 100)
        return chances(people, taught, asked, way), f"{way.length:g}/{way.whitening:g}/{way.strength:g}"

    return answer


def ridge(people: People) -> Callable[[Labels, Labels], tuple[Matrix, str]]:
    """Least squares, its penalty by leaving one out; scores become chances by nothing: 0.5 is its threshold."""

    def answer(taught: Labels, asked: Labels) -> tuple[Matrix, str]:
        made = columns(people, taught, Way())
        model = RidgeClassifierCV(alphas=np.geomspace(0.03, 30, 13)).fit(made[taught], people.gender[taught])
        return (model.decision_function(made[asked]) + 1) / 2, f"{model.alpha_:.2g}"

    return answer


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--home", type=Path, default=Path.home() / ".silhouette")
    parser.add_argument("--seed", type=int, default=0, help="deals people to folds")
    parser.add_argument("--only", nargs="+", choices=(*CHOICES, "ridge", "more-columns"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    plan, world, parameters = finished_run(asked.run, asked.home)
    everybody = world.pooled()
    encoder = load_encoder(plan, world.vocabulary, parameters, torch.device("cpu"))
    gender = everybody.known.attributes[:, list(world.attribute_classes).index("gender")].numpy() - 1
    features = profile_features(encoder, everybody.known).double().numpy()

    def people(width: int) -> People:
        tastes = learn_tastes(everybody.known, world.vocabulary.items, 0, columns=width)
        assert tastes is not None  # noqa: S101 - six thousand people are enough
        return People(features, tastes(everybody.known).astype(np.float64), gender)

    usual = people(256)
    answers = {name: logistic(usual, name) for name in CHOICES} | {"ridge": ridge(usual)}
    for name in asked.only or (*answers, "more-columns"):
        answer = logistic(people(512), "inside-loss") if name == "more-columns" else answers[name]
        found, told = np.zeros(len(gender)), []
        for taught, held in StratifiedKFold(FOLDS, shuffle=True, random_state=asked.seed).split(features, gender):
            found[held], choice = answer(taught, held)
            told.append(choice)
        print(
            f"{name:<16} accuracy {accuracy_score(gender, found > 0.5):.4f}  AUC {roc_auc_score(gender, found):.4f}  "
            f"F1 {f1_score(gender, found > 0.5, average='macro'):.3f}  chose {' '.join(told)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
