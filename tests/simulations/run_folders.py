"""A small, complete run folder made up for tests, in the layout that a simulation writes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from silhouette_shared.config import Plan, Privacy, write_toml

ROWS = {
    "popularity": ("Popularity", 0.35),
    "transition_counts": ("Transition counts", 0.55),
    "ease": ("EASE", 0.5),
    "local_only": ("Local only", 0.45),
    "federated": ("Federated", 0.65),
    "federated_private": ("Federated with privacy", 0.4),
    "pooled": ("Pooled", 0.66),
}
"""Row -> label and chance that a person's target is near the top."""

TITLES = (
    "Toy Story (1995)",
    "Fargo (1996)",
    "<script>alert('no')</script> & Sons (1997)",
    "Good, The Bad and The Ugly, The (1966)",
    "Princess Bride, The (1987)",
    "Raiders of the Lost Ark (1981)",
    "Monty Python and the Holy Grail (1974)",
    "L.A. Confidential (1997)",
    "Blade Runner (1982)",
    "Contact (1997)",
    "Amélie (2001)",
    "One Flew Over the Cuckoo's Nest (1975)",
)
WARNING = "The noise is pseudo-random, not cryptographic: use these epsilons to judge quality, not to publish a model."
EVALUATION = "The metrics are exact and not covered by epsilon."
CUTOFF = 10


def plan_for(name: str = "tiny", *, seed: int = 0, mode: str = "local", **changes: Any) -> Plan:
    """A plan with a note; `changes` are further fields of `Plan`."""
    plan = Plan(
        name=name,
        seed=seed,
        note="A quick look, weaker than simulations/experiments/ml-100k.toml.",
        **changes,
    )
    return replace(plan, privacy=Privacy(mode=mode))  # type: ignore[arg-type]


def write_run_folder(
    folder: Path,
    *,
    plan: Plan | None = None,
    people: int = 200,
    partners: int = 5,
    chances: dict[str, float] | None = None,
    prefix: str = "",
    state: str = "complete",
) -> Path:
    """Write every file of a run folder and return the folder.

    Args:
        folder: Made with its parents.
        plan: What was run; its rows of the mode `none` lack the private one.
        people: In all, dealt to the partners in turn.
        partners: How many.
        chances: Row -> chance of a good rank, instead of the usual ones.
        prefix: Of the people's ids.
        state: running or complete.
    """
    plan = plan or plan_for()
    folder.mkdir(parents=True, exist_ok=True)
    private = plan.privacy.mode != "none"
    names = [name for name in ROWS if private or name != "federated_private"]
    roster = {f"partner-{number}": 0 for number in range(partners)}
    home = [f"partner-{number % partners}" for number in range(people)]
    for name in home:
        roster[name] += 1
    users = [f"{prefix}{number + 1}" for number in range(people)]
    # The data are the same for every seed, as in a real sweep; the luck of a training is not.
    hard = np.random.Generator(np.random.PCG64(7)).uniform(size=people)
    luck = np.random.Generator(np.random.PCG64(plan.seed + 100))
    ranks = {}
    for name in names:
        chance = (chances or {}).get(name, ROWS[name][1])
        near = luck.integers(0, 40, size=people)
        far = luck.integers(40, 1500, size=people)
        ranks[name] = np.where(hard < chance, near, far)

    (folder / "plan.toml").write_text(write_toml(plan), encoding="utf-8")
    _json(
        folder / "run.json",
        {
            "name": plan.name,
            "digest": plan.digest,
            "seed": plan.seed,
            "state": state,
            "written": "2026-07-04T09:30:00+00:00",
            "seconds": 192.4,
            "device": "cpu",
            "backend": "in process",
            "versions": {"silhouette-simulations": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0"},
            "dataset": "ml-100k",
            "users": people,
            "items": 1682,
            "events": 106 * people,
            "partners": roster,
            "dataset_digest": "d" * 64,
            "target": "test",
            "row_seconds": {name: 0.2 + 14.1 * number for number, name in enumerate(names)},
            "note": plan.note,
        },
    )
    _write_scores(folder, names, ranks, home, users)
    _write_rounds(folder, names, ranks, sorted(set(home)))
    _write_privacy(folder, plan, roster)
    _write_attributes(folder, [name for name in names if name.startswith(("fed", "pool"))], people)
    _write_profiles(folder, home, users)
    (folder / "model").mkdir(exist_ok=True)
    _json(
        folder / "model" / "card.json",
        {"trained_as": "federated_private" if private else "federated"},
    )
    return folder


def ndcg_at_10(ranks: np.ndarray[Any, Any]) -> float:
    """The mean gain, straight from its definition."""
    gains = [1 / math.log2(rank + 2) if rank < CUTOFF else 0.0 for rank in ranks.tolist()]
    return sum(gains) / len(gains)


def rewrite_csv(path: Path, lines: Sequence[Sequence[object]]) -> None:
    """Write a CSV file, header first."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def _json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _write_scores(
    folder: Path,
    names: list[str],
    ranks: dict[str, np.ndarray[Any, Any]],
    home: list[str],
    users: list[str],
) -> None:
    rows: list[list[object]] = [
        [
            "name",
            "label",
            "hr_at_10",
            "ndcg_at_10",
            "ndcg_low",
            "ndcg_high",
            "coverage_at_10",
            "novelty_at_10",
            "diversity_at_10",
            "worst_partner",
            "worst_partner_ndcg",
            "gap",
            "private",
            "users",
        ]
    ]
    partners: list[list[object]] = [["row", "partner", "users", "hr_at_10", "ndcg_at_10"]]
    places = np.asarray(home)
    for number, name in enumerate(names):
        mine = ranks[name]
        mean = ndcg_at_10(mine)
        by_partner = {}
        for partner in sorted(set(home)):
            part = mine[places == partner]
            by_partner[partner] = ndcg_at_10(part)
            partners.append([name, partner, len(part), (part < 10).mean(), by_partner[partner]])
        worst = min(by_partner, key=lambda partner: by_partner[partner])
        rows.append(
            [
                name,
                ROWS[name][0],
                (mine < 10).mean(),
                mean,
                max(0.0, mean - 0.02),
                mean + 0.02,
                0.05 + 0.08 * number,
                1.4 + 0.3 * number,
                0.6 + 0.02 * number,
                worst,
                by_partner[worst],
                max(by_partner.values()) - by_partner[worst],
                name == "federated_private",
                len(mine),
            ]
        )
    rewrite_csv(folder / "rows.csv", rows)
    rewrite_csv(folder / "partners.csv", partners)
    pq.write_table(
        pa.table(
            {
                "row": [name for name in names for _ in users],
                "partner": home * len(names),
                "user": users * len(names),
                "rank": np.concatenate([ranks[name] for name in names]).astype(np.int64),
            }
        ),
        folder / "ranks.parquet",
    )


def _write_rounds(
    folder: Path,
    names: list[str],
    ranks: dict[str, np.ndarray[Any, Any]],
    partners: list[str],
) -> None:
    lines: list[list[object]] = [
        ["row", "round", "replies", "refused", "update_norm", "epsilon", "hr_at_10", "ndcg_at_10", "seconds"]
    ]
    for name, rounds in (
        ("federated", 20),
        ("federated_private", 60),
        ("pooled", 20),
        *((f"local_only/{partner}", 20) for partner in partners),
    ):
        row = name.partition("/")[0]
        if row not in names:
            continue
        final = ndcg_at_10(ranks[row])
        for number in range(1, rounds + 1):
            evaluated = number % 5 == 0
            reached = final * (1 - math.exp(-4 * number / rounds))
            private = name == "federated_private"
            epsilon = 7.98 * math.sqrt(number / 60) if private else ""
            shown = [2.2 * reached, reached] if evaluated else ["", ""]
            lines.append([name, number, 5, 0, 0.3, epsilon, *shown, 1.5])
    rewrite_csv(folder / "rounds.csv", lines)


def _write_privacy(folder: Path, plan: Plan, roster: dict[str, int]) -> None:
    if plan.privacy.mode == "none":
        _json(folder / "privacy.json", {"mode": "none", "epsilon": None, "warning": ""})
        return
    spent = {"epsilon": 7.98, "noise_multiplier": 1.83, "sampling_rate": 0.2, "steps": 60}
    _json(
        folder / "privacy.json",
        {
            "mode": "local",
            "unit": "one person's whole record at a partner",
            "neighbours": "data sets that differ by adding or removing one person",
            "delta": 1e-5,
            "clip_norm": 1.0,
            "accountant": "prv",
            "accountants": {"prv": 7.98, "rdp": 8.71},
            "partners": {name: {**spent, "delta": 1e-5} for name in roster},
            "curve": [{"round": number, "epsilon": 7.98 * math.sqrt(number / 60)} for number in range(1, 61)],
            "trust": "every partner adds all the noise that its own people need",
            "warning": WARNING,
            "evaluation": EVALUATION,
            **spent,
        },
    )


def _write_attributes(folder: Path, names: list[str], people: int) -> None:
    lines: list[list[object]] = [
        ["row", "attribute", "people", "classes", "majority_rate", "accuracy", "precision", "recall", "f1", "auc"]
    ]
    for name in names:
        lines.append([name, "gender", people, 2, 0.71, 0.79, 0.68, 0.62, 0.63, 0.72])
        lines.append([name, "age", people, 7, 0.34, 0.33, 0.2, 0.18, 0.16, ""])
    rewrite_csv(folder / "attributes.csv", lines)


def _write_profiles(folder: Path, home: list[str], users: list[str]) -> None:
    for partner in sorted(set(home)):
        mine = [user for user, place in zip(users, home, strict=True) if place == partner]
        place = folder / "partners" / partner
        place.mkdir(parents=True, exist_ok=True)
        count = len(mine)
        pq.write_table(
            pa.table(
                {
                    "user": mine,
                    "weight_activity": [0.31] * count,
                    "weight_rhythm": [0.08] * count,
                    "weight_demographics": [0.12] * count,
                    "weight_interests": [0.35] * count,
                    "weight_content": [0.14] * count,
                    "vector": [[0.1, 0.2]] * count,
                    "gender": ["F", "M"] * (count // 2) + ["F"] * (count % 2),
                    "gender_confidence": [0.83] * count,
                    "age": ["25-34"] * count,
                    "age_confidence": [0.41] * count,
                    "events": [20 + 7 * number for number in range(count)],
                    "tags": [["Drama", "evening", "Film-Noir"]] * count,
                }
            ),
            place / "profiles.parquet",
        )
        positions = list(range(1, 11))
        pq.write_table(
            pa.table(
                {
                    "user": [user for user in mine for _ in positions],
                    "position": positions * count,
                    "item": [str(position) for position in positions] * count,
                    "title": list(TITLES[:10]) * count,
                    "score": [10.0 - position for position in positions] * count,
                }
            ),
            place / "recommendations.parquet",
        )
        pq.write_table(
            pa.table(
                {
                    "user": [user for user in mine for _ in positions],
                    "position": positions * count,
                    "item": [str(position + 2) for position in positions] * count,
                    "title": list(TITLES[2:12]) * count,
                    "timestamp": [891_000_000 - 90_000 * position for position in positions] * count,
                }
            ),
            place / "recent.parquet",
        )
